"""What a training step sees: the tensors of one micro-batch. V is the number of strong views."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Labeled:
    """B labelled images. `image` may have axes between B and C (two dates, for instance)."""

    image: Tensor  # float [B, ..., C, H, W], normalised
    label: Tensor  # int64 [B, H, W]; IGNORE_INDEX where there is no label
    noise_key: Tensor  # int64 [B]: keys of this step's feature perturbations
    share: Tensor  # float scalar: turns this micro-batch's pixel mean into its part of the global mean
    strong: Tensor | None = None  # as `image`, for methods that ask for a strong view
    pseudo: Tensor | None = None  # bool [B]: whose label is of data.pseudo; None: the run has no such labels
    areas: dict[str, Tensor] = field(default_factory=dict)  # bool [B, H, W] by name, as a method asked for


@dataclass
class Partner:
    """What is pasted into the boxes of the strong views: other crops, index b belonging to image b."""

    weak: Tensor  # float [B, ..., C, H, W]
    strong: tuple[Tensor, ...]  # V of float [B, ..., C, H, W]
    valid: Tensor  # bool [B, H, W]


@dataclass
class Unlabeled:
    """B unlabelled images as one weak and V strong views of the same geometry."""

    weak: Tensor  # float [B, ..., C, H, W]
    strong: tuple[Tensor, ...]  # V of float [B, ..., C, H, W], not mixed yet
    valid: Tensor  # bool [B, H, W]: False where the crop was padded
    boxes: tuple[Tensor, ...]  # V of bool [B, H, W]: True inside the CutMix box
    partner: Partner | None  # None only where no method mixes
    partner_in_batch: bool  # the partner of image b is its neighbour in this batch (methods.ops.swap_pairs)
    mixed_valid: tuple[Tensor, ...]  # V of bool [B, H, W]: `valid` with the partner's inside the box
    noise_key: Tensor  # int64 [B]
    share: Tensor  # float scalar, of `valid`
    mixed_share: tuple[Tensor, ...]  # V of float scalars, of `mixed_valid`
    areas: dict[str, Tensor] = field(default_factory=dict)  # bool [B, H, W] by name, as a method asked for


@dataclass
class Batch:
    """One micro-batch; `unlabeled` is None for a method that asks for none."""

    labeled: Labeled
    unlabeled: Unlabeled | None
