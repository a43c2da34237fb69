"""One network at several sizes of an image, and mirrored, as one network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from unimatch.tasks.prediction import resize

TINY = 1e-30  # logits are resized by some tasks, and 0 times an infinite one is none


class OverScales(nn.Module):
    """The mean of a network's softmax over resized and mirrored images, as logits of the image's own size.

    multiple_of: sides are resized to the nearest multiple of this, as a vision transformer needs it.
    """

    def __init__(self, net: nn.Module, scales: Sequence[float], flip: bool, multiple_of: int = 1) -> None:
        super().__init__()
        self.net = net
        self.scales = list(scales)
        self.flip = flip
        self.multiple_of = multiple_of

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """image [B, ..., C, H, W], normalised -> {"logits": [B, K, H, W]}; the network's own of one view."""
        if self.scales == [1.0] and not self.flip:
            return {"logits": self.net(image)["logits"]}
        size = (image.shape[-2], image.shape[-1])
        total: Tensor | None = None
        for scale in self.scales:
            scaled = image
            if scale != 1.0:
                scaled = resize(image, (self._side(size[0], scale), self._side(size[1], scale)))
            for mirrored in (False, True) if self.flip else (False,):
                logits = self.net(scaled.flip(-1) if mirrored else scaled)["logits"].float()
                probability = resize(logits.flip(-1) if mirrored else logits, size).softmax(1)
                total = probability if total is None else total + probability
        assert total is not None
        return {"logits": (total / total.sum(1, keepdim=True)).clamp(min=TINY).log()}

    def _side(self, side: int, scale: float) -> int:
        return max(1, round(side * scale / self.multiple_of)) * self.multiple_of
