"""Semantic segmentation of ordinary colour images: every pixel has one class or none."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatch import losses
from unimatch.data.picture import grid, overlay
from unimatch.data.sample import Batch, Labeled, Partner, Unlabeled
from unimatch.data.views import NaturalViews, ViewConfig
from unimatch.errors import ConfigError
from unimatch.losses import LossConfig
from unimatch.metrics import ConfusionMatrix
from unimatch.mixing import paste, swap_pairs
from unimatch.tasks.base import TASKS, Needs, RawMicro, Task
from unimatch.tasks.device_views import blur_radius, strong_views
from unimatch.taxonomy import IGNORE_INDEX, Taxonomy

WINDOWS_PER_PASS = 4  # bounds the memory of a sliding evaluation; the result does not depend on it
NUM_PICTURES = 4


@dataclass
class EvaluateConfig:
    """How a whole image is predicted.

    mode: "whole" in one pass; "sliding" sums the softmax of overlapping windows; "centre" predicts the middle
        of the image and leaves the rest out of the metric.
    window: side of the windows or of the centre, in pixels; by default the training crop.
    multiple_of: in mode "whole", images are resized to the nearest multiple of this per side (halves up, at
        least one) and the logits back; 1 leaves them as they are. A vision transformer needs its patch size.
    """

    mode: Literal["whole", "sliding", "centre"] = "whole"
    window: int | None = None
    multiple_of: int = 1

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 2:
            raise ConfigError(f"window must be at least 2 pixels, found {self.window}")
        if self.multiple_of < 1:
            raise ConfigError(f"multiple_of must be at least 1, found {self.multiple_of}")
        if self.window is not None and self.mode == "whole":
            raise ConfigError(
                "window has no meaning with mode 'whole'; use mode 'sliding' or 'centre', or leave it out"
            )
        if self.multiple_of != 1 and self.mode != "whole":
            raise ConfigError(
                f"multiple_of has no meaning with mode {self.mode!r}; use mode 'whole', or leave it out"
            )


@dataclass
class NaturalTaskConfig:
    """The views that samples are turned into, the supervised loss, and the evaluation."""

    views: ViewConfig
    loss: LossConfig = field(default_factory=LossConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


def rectangle_mask(rectangle: Tensor, height: int, width: int) -> Tensor:
    """bool [..., height, width]: True inside integer rectangles [..., 4], (x0, y0, x1, y1), ends excluded."""
    x0, y0, x1, y1 = rectangle[..., None].unbind(-2)
    y = torch.arange(height, device=rectangle.device)
    x = torch.arange(width, device=rectangle.device)
    return ((y >= y0) & (y < y1))[..., :, None] & ((x >= x0) & (x < x1))[..., None, :]


def sliding_softmax(net: nn.Module, image: Tensor, window: int) -> Tensor:
    """float [B, K, H, W]: the softmax summed over windows, from the top left in steps of int(window * 2/3).

    Windows that reach over the right or lower border are cut off there, not moved inside, and every step
    inside the image starts one, as in the released evaluation. Windows of equal size share a pass.
    """
    height, width = image.shape[-2:]
    step = int(window * 2 / 3)
    corners: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for y in range(0, height, step):
        for x in range(0, width, step):
            corners.setdefault((min(window, height - y), min(window, width - x)), []).append((y, x))
    total: Tensor | None = None
    for (h, w), places in corners.items():
        for start in range(0, len(places), WINDOWS_PER_PASS):
            group = places[start : start + WINDOWS_PER_PASS]
            crops = torch.cat([image[..., y : y + h, x : x + w] for y, x in group])
            scores = net(crops)["logits"].float().softmax(dim=1)
            if total is None:
                total = scores.new_zeros(len(image), scores.shape[1], height, width)
            for (y, x), score in zip(group, scores.split(len(image)), strict=True):
                total[..., y : y + h, x : x + w] += score
    assert total is not None, "an image without pixels"
    return total


@dataclass
class _Masks:
    """The masks of the unlabelled half, all bool [B, H, W]."""

    valid: Tensor
    boxes: tuple[Tensor, ...]
    partner_valid: Tensor
    mixed_valid: tuple[Tensor, ...]


@TASKS.register("natural", NaturalTaskConfig)
class NaturalTask(Task):
    """mean, std: of the encoder, for RGB values in [0, 1]."""

    headline = "miou"

    def __init__(
        self, config: NaturalTaskConfig, taxonomy: Taxonomy, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        self.config = config
        self.taxonomy = taxonomy
        self.mean = 255.0 * torch.tensor(mean).view(-1, 1, 1)
        self.std = 255.0 * torch.tensor(std).view(-1, 1, 1)
        blur = config.views.blur
        self._blur_radius = blur_radius(blur.sigma[1]) if blur.p else 0

    def views_on_device(self, has_accelerator: bool) -> bool:
        """Whether `views.device` leaves strong views to `to_device` in such a run."""
        device = self.config.views.device
        return device == "accelerator" or (device == "auto" and has_accelerator)

    def transform(self, needs: Needs, on_device: bool = False) -> NaturalViews:
        """The weak and strong views that a method needs."""
        return NaturalViews(self.config.views, needs.num_strong, needs.partner, on_device)

    def normalize(self, image: Tensor) -> Tensor:
        """float32 [B, 3, H, W], channels_last: uint8 RGB [B, H, W, 3] minus the mean, over the deviation."""
        return self._scale(image.permute(0, 3, 1, 2))

    def _scale(self, values: Tensor) -> Tensor:
        """The same of [B, 3, H, W], in new memory."""
        # A blocking copy would wait for all that the device still has to do.
        mean, std = (constant.to(values.device, non_blocking=True) for constant in (self.mean, self.std))
        values = values.to(torch.float32, memory_format=torch.channels_last, copy=True)
        return values.sub_(mean).div_(std)

    def pixel_counts(self, raw: RawMicro) -> Tensor:
        """int64 [n]: labelled pixels, then, if any, valid ones of the weak and of each mixed strong view.

        From the rectangles alone: a mixed view is valid outside its box where the image is, and inside
        where the partner is.
        """
        counts = [(raw["labeled"]["label"] != IGNORE_INDEX).sum()]
        arrays = raw["unlabeled"]
        if arrays is not None:
            valid = arrays["content"]
            partner = arrays["partner_content"] if "partner_content" in arrays else swap_pairs(valid)
            counts.append(_area(valid).sum())
            for box in arrays["boxes"].unbind(1):
                outside = _area(valid) - _area(_overlap(valid, box))
                counts.append((outside + _area(_overlap(partner, box))).sum())
        return torch.stack(counts)

    def to_device(self, raw: RawMicro, device: torch.device, shares: Tensor | None = None) -> Batch:
        """The micro-batch that methods see; images cross to the device as uint8 and masks as rectangles.

        Strong views that come as colours are made here, see tasks.device_views.
        """

        def move(values: Tensor) -> Tensor:
            return values.to(device, non_blocking=True)

        arrays = raw["labeled"]
        label, masks = move(arrays["label"]), _masks(raw, device)
        shares = torch.ones(len(self.pixel_counts(raw))) if shares is None else shares
        shares = move(shares.float())
        labeled = Labeled(
            image=self.normalize(move(arrays["image"])),
            label=label.long(),
            noise_key=move(arrays["noise_key"]),
            share=shares[0],
        )
        if masks is None:
            return Batch(labeled, None)

        def views(prefix: str) -> tuple[Tensor, tuple[Tensor, ...]]:
            weak = move(arrays[f"{prefix}weak"])
            if f"{prefix}colors" in arrays:
                colors = move(arrays[f"{prefix}colors"])
                made = strong_views(weak, colors, self._blur_radius)
                return self.normalize(weak), tuple(self._scale(view) for view in made)
            made = move(arrays[f"{prefix}strong"]).unbind(1)
            return self.normalize(weak), tuple(self.normalize(view) for view in made)

        arrays = raw["unlabeled"]
        weak, strong = views("")
        in_batch = "partner_weak" not in arrays
        if in_batch:
            partner = Partner(
                swap_pairs(weak), tuple(swap_pairs(view) for view in strong), masks.partner_valid
            )
        else:
            partner = Partner(*views("partner_"), masks.partner_valid)
        unlabeled = Unlabeled(
            weak=weak,
            strong=strong,
            valid=masks.valid,
            boxes=masks.boxes,
            partner=partner,
            partner_in_batch=in_batch,
            mixed_valid=masks.mixed_valid,
            noise_key=move(arrays["noise_key"]),
            share=shares[1],
            mixed_share=tuple(shares[2:]),
        )
        return Batch(labeled, unlabeled)

    def supervised_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy or OHEM, as configured."""
        return losses.supervised_loss(self.config.loss, logits, labels)

    def consistency_loss(
        self, logits: Tensor, labels: Tensor, conf: Tensor, valid: Tensor, threshold: float
    ) -> Tensor:
        """Cross-entropy against confident pseudo-labels, over the number of valid pixels."""
        return losses.masked_consistency(logits, labels, conf, valid, threshold)

    @torch.no_grad()
    def predict(self, net: nn.Module, image: Tensor) -> Tensor:
        """uint8 [B, H, W]: class ids; IGNORE_INDEX outside the middle in mode "centre".

        image: uint8 RGB [B, H, W, 3], on the device of `net`.
        """
        net.eval()
        config = self.config.evaluate
        values = self.normalize(image)
        height, width = values.shape[-2:]
        window = config.window or self.config.views.crop
        if config.mode == "sliding":
            return sliding_softmax(net, values, window).argmax(dim=1).to(torch.uint8)
        if config.mode == "centre":
            h, w = min(window, height), min(window, width)
            y, x = (height - h) // 2, (width - w) // 2
            labels = torch.full(image.shape[:3], IGNORE_INDEX, dtype=torch.uint8, device=image.device)
            middle = net(values[..., y : y + h, x : x + w])["logits"].argmax(dim=1)
            labels[:, y : y + h, x : x + w] = middle.to(torch.uint8)
            return labels
        size = tuple(
            max(1, int(side / config.multiple_of + 0.5)) * config.multiple_of for side in (height, width)
        )
        if size != (height, width):
            values = F.interpolate(values, size, mode="bilinear", align_corners=True)
        logits = net(values)["logits"].float()
        if size != (height, width):
            logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=True)
        return logits.argmax(dim=1).to(torch.uint8)

    def metric(self, device: torch.device | str = "cpu") -> ConfusionMatrix:
        """An empty confusion matrix of the taxonomy's classes."""
        return ConfusionMatrix(self.taxonomy.num_classes, device)

    def figures(self, metric: ConfusionMatrix) -> dict[str, Any]:
        """{"miou", "accuracy", "iou": {class: value, or None if in neither truth nor prediction}}."""
        values = [None if math.isnan(value) else value for value in metric.iou().tolist()]
        iou = dict(zip(self.taxonomy.names, values, strict=True))
        return {"miou": metric.miou(), "accuracy": metric.accuracy(), "iou": iou}

    @torch.no_grad()
    def pictures(self, net: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
        """Contact sheets of the first images of a batch, a row each.

        "labeled": image, truth, prediction. "unlabeled": weak view, each mixed strong view with its box
        outlined, pseudo-label and confidence of the weak view (eval mode; black is 0, white is 1).
        """
        net.eval()
        x = batch.labeled
        image, label = x.image[:NUM_PICTURES], x.label[:NUM_PICTURES]
        prediction = net(image)["logits"].argmax(dim=1)
        rgb = self._rgb(image)
        columns = [rgb, self._overlays(rgb, label), self._overlays(rgb, prediction)]
        sheets = {"labeled": _sheet(columns)}
        u = batch.unlabeled
        if u is not None:
            weak, valid = u.weak[:NUM_PICTURES], u.valid[:NUM_PICTURES]
            conf, labels = net(weak)["logits"].float().softmax(dim=1).max(dim=1)
            rgb = self._rgb(weak)
            columns = [rgb]
            for view, box in enumerate(u.boxes):
                mixed = (
                    u.strong[view]
                    if u.partner is None
                    else paste(u.strong[view], u.partner.strong[view], box)
                )
                columns.append(_outlined(self._rgb(mixed[:NUM_PICTURES]), box.cpu().numpy()))
            columns.append(self._overlays(rgb, torch.where(valid, labels, IGNORE_INDEX)))
            columns.append(list((255 * conf * valid).round().to(torch.uint8).cpu().numpy()))
            sheets["unlabeled"] = _sheet(columns)
        return sheets

    def _rgb(self, image: Tensor) -> list[np.ndarray]:
        """uint8 [H, W, 3] for each normalised image: the inverse of `normalize`."""
        values = image.float() * self.std.to(image.device) + self.mean.to(image.device)
        return list(
            values.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        )

    def _overlays(self, rgb: list[np.ndarray], labels: Tensor) -> list[np.ndarray]:
        pairs = zip(rgb, labels.cpu().numpy(), strict=True)
        return [overlay(image, label, self.taxonomy.colors) for image, label in pairs]


def _masks(raw: RawMicro, device: torch.device) -> _Masks | None:
    """The masks of the unlabelled half of a raw micro-batch, made on the device; None without such a half."""
    arrays = raw["unlabeled"]
    if arrays is None:
        return None
    height, width = arrays["weak"].shape[1:3]

    def mask(name: str) -> Tensor:
        return rectangle_mask(arrays[name].to(device, non_blocking=True), height, width)

    valid, boxes = mask("content"), mask("boxes").unbind(1)
    # No partner among the arrays: it is the neighbour in the batch.
    partner_valid = mask("partner_content") if "partner_content" in arrays else swap_pairs(valid)
    return _Masks(valid, boxes, partner_valid, tuple(paste(valid, partner_valid, box) for box in boxes))


def _area(rectangle: Tensor) -> Tensor:
    """int64 [B]: pixels inside rectangles [B, 4]; 0 where an end does not lie behind its start."""
    x0, y0, x1, y1 = rectangle.long().unbind(-1)
    return (x1 - x0).clamp(min=0) * (y1 - y0).clamp(min=0)


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """Rectangles [B, 4] of the pixels inside both."""
    return torch.cat([torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])], dim=1)


def _outlined(images: list[np.ndarray], boxes: np.ndarray) -> list[np.ndarray]:
    """The images with the border of their boxes drawn in white; an empty box draws nothing."""
    for image, box in zip(images, boxes, strict=False):
        y, x = np.nonzero(box)
        if len(y):
            top, bottom, left, right = y.min(), y.max(), x.min(), x.max()
            image[[top, bottom], left : right + 1] = 255
            image[top : bottom + 1, [left, right]] = 255
    return images


def _sheet(columns: list[list[np.ndarray]]) -> np.ndarray:
    """One row an image, one column a kind of picture."""
    return grid([column[row] for row in range(len(columns[0])) for column in columns], columns=len(columns))
