"""Vision transformers of timm as encoders: features of four depths, all on the grid of patches.

Oquab et al., DINOv2, 2023; Simeoni et al., DINOv3, 2025; used as UniMatch V2 (Yang et al., 2024) uses them.
"""

from __future__ import annotations

from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from timm.models import Eva, VisionTransformer
from torch import Tensor, nn

from unimatch.errors import UserError
from unimatch.models.base import Encoder

Positions = Literal["released", "timm"]
RELEASED_OFFSET = 0.1  # patches: keeps the scale from rounding to one patch fewer
DEPTHS = 4  # features: at every quarter of the blocks


MODULES = ("vision_transformer", "eva")  # of timm, whose models have one grid of patches from first to last


def is_vit(name: str) -> bool:
    """Whether timm has a vision transformer of that name. Builds nothing."""
    return timm.is_model(name) and timm.models.is_model_in_modules(name, MODULES)


def create_vit(
    name: str, in_channels: int, drop_path: float, pretrained: bool = False
) -> VisionTransformer | Eva:
    """timm's model without classifier and pooling; UserError if it is of another kind."""
    options = {"num_classes": 0, "global_pool": "", "dynamic_img_size": True, "drop_path_rate": drop_path}
    try:
        net = timm.create_model(name, pretrained=pretrained, in_chans=in_channels, **options)
    except TypeError as error:  # Beit and others have positions of one size only
        raise UserError(f"encoder {name!r} cannot be used: it reads images of one size ({error})") from error
    if not isinstance(net, (VisionTransformer, Eva)):
        raise UserError(f"encoder {name!r} cannot be used: it is a {type(net).__name__}, not a plain ViT")
    return net


def taken_blocks(depth: int) -> list[int]:
    """The blocks whose outputs are features, counted from 0. Of 12: 2, 5, 8, 11; of 40: 9, 19, 29, 39.

    Of 24 UniMatch V2 takes 4, 11, 17, 23, as DINOv2's own depth heads do, whose first one is not 5.
    """
    return [4, 11, 17, 23] if depth == 24 else [depth * (part + 1) // DEPTHS - 1 for part in range(DEPTHS)]


class ViTEncoder(Encoder):
    """Features after a quarter, half, three quarters and all of the blocks, each through the last norm.

    Tokens that are no patches (class, registers) are dropped. Sides must be multiples of `patch`.
    """

    def __init__(
        self,
        net: VisionTransformer | Eva,
        statistics: tuple[tuple[float, ...], tuple[float, ...]],
        positions: Positions,
        loaded: str,
    ) -> None:
        """statistics: mean and deviation of images in [0, 1], a number a channel."""
        super().__init__()
        self.net = net
        self.positions = positions
        self.patch = int(net.patch_embed.patch_size[0])
        self.taken = taken_blocks(len(net.blocks))
        self.channels = [int(net.embed_dim)] * DEPTHS
        self.strides = [self.patch] * DEPTHS
        self.mean, self.std = statistics
        self.loaded = loaded

    def forward(self, image: Tensor) -> list[Tensor]:
        """image [B, C, H, W] -> four features [B, channels, H / patch, W / patch]."""
        height, width = image.shape[-2:]
        if height % self.patch or width % self.patch:
            raise UserError(
                f"an image of {width}x{height} pixels does not divide into patches of {self.patch}: both "
                f"sides must be multiples of {self.patch}"
            )
        if self.positions == "timm" or not isinstance(self.net, VisionTransformer):
            taken: list[Tensor] = self.net.forward_intermediates(
                image, indices=self.taken, norm=True, output_fmt="NLC", intermediates_only=True
            )
        else:
            taken = self._taken(image)
        grid = (height // self.patch, width // self.patch)
        return [feature.transpose(1, 2).unflatten(2, grid) for feature in taken]

    def recomputed_parts(self) -> list[nn.Module]:
        return list(self.net.blocks)

    def compiled_parts(self) -> list[nn.Module]:
        """The blocks: all are of one shape, so that one of them is compiled and the others take its code."""
        return self.recomputed_parts()

    def layers(self) -> list[list[nn.Parameter]]:
        """Patches and positions; then each block, the last one with the norm behind it."""
        blocks = [list(block.parameters()) for block in self.net.blocks]
        blocks[-1] += list(self.net.norm.parameters())
        known = {id(parameter) for block in blocks for parameter in block}
        return [[one for one in self.net.parameters() if id(one) not in known], *blocks]

    def _taken(self, image: Tensor) -> list[Tensor]:
        """timm's forward pass with the released code's positions: normed patch tokens [B, h * w, C]."""
        net: Any = self.net
        x = net.patch_embed(image)  # [B, h, w, C]
        extra = net.num_prefix_tokens
        with_position = 0 if net.no_embed_class else extra  # tokens before the patches in pos_embed
        position = net.pos_embed[:, with_position:]
        x = x.flatten(1, 2) + released_positions(position, net.patch_embed.grid_size, x.shape[1:3])
        tokens = [token for token in (net.cls_token, net.reg_token) if token is not None]
        if tokens:
            before = torch.cat(tokens, dim=1)
            if with_position:
                before = before + net.pos_embed[:, :with_position]
            x = torch.cat([before.expand(x.shape[0], -1, -1), x], dim=1)
        x = net.norm_pre(net.patch_drop(net.pos_drop(x)))
        features = []
        for number, block in enumerate(net.blocks):
            x = block(x)
            if number in self.taken:
                features.append(net.norm(x)[:, extra:])
        return features


def released_positions(position: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """[1, h * w, C]: positions of a grid for an image of another size, as DINOv2's own code has them.

    Bicubic without antialiasing; (h + 0.1) / H rows are asked for, and that scale, not h / H, is what is
    sampled by. timm asks for h x w exactly, with antialiasing: at 266 pixels instead of 518 trained positions
    differ by about a sixth of their size.
    """
    if tuple(size) == tuple(grid):
        return position
    # A tracer's sizes are tensors, of which there is no scale.
    scale = [(int(new) + RELEASED_OFFSET) / old for new, old in zip(size, grid, strict=True)]
    field = position.unflatten(1, grid).permute(0, 3, 1, 2)
    found = F.interpolate(field, scale_factor=tuple(scale), mode="bicubic", antialias=False)
    assert tuple(found.shape[-2:]) == tuple(size), (found.shape, size)
    return found.flatten(2).transpose(1, 2)
