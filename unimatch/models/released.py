"""The names that the released UniMatch code gives to tensors, and what they are here: both ways.

Its files hold `backbone.*` and, beside it, the head, or, of the medical UNet, `encoder.*` and `decoder.*`.
Shapes are equal; only names differ, by their beginnings. UniMatch V2's hold tensors besides that nothing
reads: the encoder's mask token, and a residual unit at the coarsest level of the head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from unimatch.models import unet, xception
from unimatch.models.vit_names import dinov2_names, timm_names

State = dict[str, Tensor]
TIMM = {"backbone.": "encoder.net."}
XCEPTION = {
    **{f"backbone.{name}.": f"encoder.{name}." for name in ("conv1", "bn1", "conv2", "bn2")},
    **{f"backbone.block{number + 1}.": f"encoder.blocks.{number}." for number in range(20)},
    **{f"backbone.conv{number + 3}.": f"encoder.last.{number}." for number in range(3)},
}
UNET = {
    "encoder.in_conv.conv_conv.": "encoder.levels.0.layers.",
    **{f"encoder.down{n}.maxpool_conv.1.conv_conv.": f"encoder.levels.{n}.layers." for n in range(1, 5)},
}
HEADS = {
    "deeplabv3plus": {
        "head.b0.": "head.aspp.point.",
        "head.b1.": "head.aspp.atrous.0.",
        "head.b2.": "head.aspp.atrous.1.",
        "head.b3.": "head.aspp.atrous.2.",
        # Their pooling branch counts the pooling layer itself as number 0.
        "head.b4.gap.1.": "head.aspp.pool.0.",
        "head.b4.gap.2.": "head.aspp.pool.1.",
        "head.project.": "head.aspp.project.",
        "reduce.": "head.reduce.",
        "fuse.0.": "head.fuse.0.0.",
        "fuse.1.": "head.fuse.0.1.",
        "fuse.3.": "head.fuse.1.0.",
        "fuse.4.": "head.fuse.1.1.",
        "classifier.": "head.classifier.",
    },
    "pspnet": {
        **{f"head.conv5.0.conv{number + 1}.": f"head.pyramid.{number}." for number in range(4)},
        "head.conv5.1.": "head.fuse.0.",
        "head.conv5.2.": "head.fuse.1.",
        "head.conv5.5.": "head.classifier.",  # 3 and 4 are ReLU and dropout
    },
    "dpt": {
        "head.projects.": "head.projects.",
        "head.resize_layers.": "head.resizes.",
        **{f"head.scratch.layer{number + 1}_rn.": f"head.thin.{number}." for number in range(4)},
        **{
            f"head.scratch.refinenet{number + 1}.{theirs}.": f"head.fuse.{number}.{ours}."
            for number in range(4)
            for theirs, ours in (("resConfUnit1", "skip"), ("resConfUnit2", "residual"), ("out_conv", "out"))
        },
        "head.scratch.output_conv.": "head.classifier.",
    },
    "unet": {
        **{f"decoder.up{number + 1}.conv1x1.": f"head.ups.{number}." for number in range(4)},
        **{f"decoder.up{number + 1}.conv.conv_conv.": f"head.fuses.{number}.layers." for number in range(4)},
        "decoder.out_conv.": "head.classifier.",
    },
}
IDLE = "head.scratch.refinenet4.resConfUnit1."  # of DPT: there is no finer level that it would add
FIRST_LAYER = r"^(backbone|encoder)\.(conv1\.|in_conv\.|patch_embed\.).*weight$"
UNDROPPED = "head.conv5.4."  # the classifier of a PSPNet that was built without dropout
CLASSIFIERS = (
    "classifier.weight",
    "head.conv5.5.weight",
    "head.conv5.4.weight",
    "decoder.out_conv.weight",
    "head.scratch.output_conv.2.weight",
)
# UniMatch V2's encoders by their width.
DINOV2 = {
    width: f"vit_{size}_patch14_dinov2"
    for size, width in (("small", 384), ("base", 768), ("large", 1024), ("giant", 1536))
}
# How an encoder is recognised in a file, the most telling first.
ENCODERS = {
    xception.NAME: "backbone.block20.",
    "resnet101s": "backbone.layer3.22.",
    "resnet50s": "backbone.layer3.5.",
    unet.NAME: "encoder.in_conv.",
}
HEAD_SIGNS = {
    "pspnet": "head.conv5.",
    "deeplabv3plus": "head.b0.",
    "unet": "decoder.up1.",
    "dpt": "head.scratch.",
}


def encoder_names(encoder: str) -> dict[str, str]:
    """Beginnings of an encoder's names: released -> ours."""
    return {xception.NAME: XCEPTION, unet.NAME: UNET}.get(encoder, TIMM)


def names(encoder: str, head: str) -> dict[str, str]:
    """Beginnings of a network's names: released -> ours."""
    return {**encoder_names(encoder), **HEADS.get(head, {})}


def is_released(state: Mapping[str, Tensor]) -> bool:
    """Whether these are a released network's tensors."""
    return any(key.startswith(("backbone.", "encoder.in_conv.")) for key in state)


def from_released(state: Mapping[str, Tensor], encoder: str, head: str) -> State:
    """Tensors of a released network of this kind under our names; what has no such name keeps its own."""
    if encoder.partition(".")[0] in DINOV2.values():
        backbone, _ = timm_names(_inside(state, "backbone."))
        rest = {key: value for key, value in state.items() if not key.startswith(("backbone.", IDLE))}
        state = {**{f"backbone.{key}": value for key, value in backbone.items()}, **rest}
    if head == "pspnet" and any(key.startswith(UNDROPPED) for key in state):
        state = {key.replace(UNDROPPED, "head.conv5.5."): value for key, value in state.items()}
    return renamed(state, names(encoder, head))


def to_released(state: Mapping[str, Tensor], encoder: str, head: str) -> State:
    """The tensors of our network under the released names."""
    result = renamed(state, {ours: theirs for theirs, ours in names(encoder, head).items()})
    if encoder.partition(".")[0] in DINOV2.values():
        backbone = dinov2_names(_inside(result, "backbone."))
        rest = {key: value for key, value in result.items() if not key.startswith("backbone.")}
        result = {**{f"backbone.{key}": value for key, value in backbone.items()}, **rest}
        for key in [key for key in rest if key.startswith("head.scratch.refinenet4.resConfUnit2.")]:
            result[key.replace("resConfUnit2", "resConfUnit1")] = torch.zeros_like(rest[key])
    return result


def _inside(state: Mapping[str, Tensor], beginning: str) -> State:
    return {key.removeprefix(beginning): value for key, value in state.items() if key.startswith(beginning)}


def renamed(state: Mapping[str, Tensor], beginnings: Mapping[str, str]) -> State:
    """`state` with each name's beginning replaced, if it has one of these; no two of them fit one name."""
    result: State = {}
    for key, value in state.items():
        old = next((beginning for beginning in beginnings if key.startswith(beginning)), None)
        result[key if old is None else beginnings[old] + key.removeprefix(old)] = value
    return result


@dataclass(frozen=True)
class Contents:
    """What a file of released tensors holds; None: not to be told."""

    encoder: str | None
    head: str | None
    classes: int | None
    channels: int | None  # of the images

    def __str__(self) -> str:
        parts = [f"encoder {self.encoder or 'unknown'}", f"head {self.head or 'none'}"]
        parts += [f"{self.classes} classes"] * (self.classes is not None)
        parts += [f"images of {self.channels} channel(s)"] * (self.channels is not None)
        return ", ".join(parts)


def contents(state: Mapping[str, Tensor]) -> Contents:
    """What released tensors are of, by their names and shapes."""

    def holding(signs: Mapping[str, str]) -> str | None:
        return next(
            (name for name, sign in signs.items() if any(key.startswith(sign) for key in state)), None
        )

    encoder = holding(ENCODERS) or _dinov2(state)
    if encoder and encoder.startswith("resnet") and "backbone.conv1.weight" in state:
        encoder = encoder.removesuffix("s")  # a plain stem: one convolution of 7x7
    classifier = next((state[name] for name in CLASSIFIERS if name in state), None)
    first = next(
        (value for key, value in state.items() if re.search(FIRST_LAYER, key) and value.ndim == 4),
        None,
    )
    return Contents(
        encoder,
        holding(HEAD_SIGNS),
        None if classifier is None else len(classifier),
        None if first is None else first.shape[1],
    )


def _dinov2(state: Mapping[str, Tensor]) -> str | None:
    """The vision transformer of UniMatch V2 that these are of; None: of none, or of other patches."""
    token, kernel = (state.get(f"backbone.{name}") for name in ("cls_token", "patch_embed.proj.weight"))
    if token is None or kernel is None or kernel.shape[-1] != 14 or "backbone.register_tokens" in state:
        return None
    return DINOV2.get(token.shape[-1])
