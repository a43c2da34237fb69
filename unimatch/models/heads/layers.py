"""What several heads are made of."""

from torch import Tensor, nn

from unimatch.errors import UserError


def conv_norm_relu(in_channels: int, out_channels: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Convolution without bias that keeps the size, batch-norm, ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def refuse_one_image(x: Tensor, norm: nn.Module, head: str) -> None:
    """UserError if `norm`, of a branch with one value a channel and image, is to train on one image alone."""
    # Subclasses are left to themselves: a synchronised norm sees the other processes' images as well.
    if norm.training and len(x) == 1 and type(norm) is nn.BatchNorm2d:
        raise UserError(
            f"{head} cannot train on one image at a time: batch-norm in its global branch needs two "
            "values a channel. Use two images or more per process and micro-batch, or synchronised norms"
        )
