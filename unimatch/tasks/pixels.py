"""What tasks have in common whose views are arrays of pixels and rectangles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unimatch import losses
from unimatch.codecs.bands import WIDTH_SHOWN, Bands
from unimatch.data import images
from unimatch.data.sample import Batch, Labeled, Partner, Unlabeled
from unimatch.metrics import ConfusionMatrix, Metric
from unimatch.mixing import swap_pairs
from unimatch.tasks.base import Needs, RawMicro, Task
from unimatch.tasks.prediction import EvaluateConfig, Predicted, predicted, spread
from unimatch.tasks.sheets import Sheets
from unimatch.taxonomy import IGNORE_INDEX, Taxonomy
from unimatch.views.base import Extra
from unimatch.views.masks import draw_areas, draw_masks, valid_pixels
from unimatch.views.on_device import blur_radius, strong_views
from unimatch.views.op_lists import listed_views


def extra(needs: Needs) -> Extra:
    """What a method asks of views beyond the task's settings."""
    return Extra(needs.ops, needs.boxes, needs.areas, needs.labeled_areas, needs.strong_labeled)


class PixelTask(Task):
    """Everything but views and figures, for images with any axes between B and C: none, or two dates.

    config: settings of a task, with `views.crop`, `loss` and `evaluate`.
    mean, std: of the encoder, for values in [0, 1], one number a channel.
    bands: of a set of other images than ordinary pictures, whose own statistics then replace the encoder's.
    """

    def __init__(
        self,
        config: Any,
        taxonomy: Taxonomy,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        bands: Bands | None = None,
    ) -> None:
        if isinstance(config.evaluate, EvaluateConfig):
            config.evaluate.windows(config.views.crop)  # or an error, before anything is trained
        self.config = config
        self.taxonomy = taxonomy
        white = 255.0
        if bands is not None:
            self.bands, self.channels, white = bands, len(bands.order), float(bands.white)
            mean, std = bands.mean, tuple(max(each, 1 / white) for each in bands.std)
            decode = images.Channels(self.channels, bands.dtype.name, self.dates)
            self.decode = decode  # type: ignore[method-assign]
        self.mean = white * torch.tensor(mean).view(-1, 1, 1)
        self.std = white * torch.tensor(std).view(-1, 1, 1)
        self._lines: dict[torch.device, tuple[Tensor, Tensor]] = {}
        blur = config.views.blur
        self._blur_radius = blur_radius(blur.sigma[1]) if blur.p else 0

    def part_of_image(self, width: int, height: int) -> float:
        return float(min(1.0, self.config.views.crop**2 / (width * height)))

    def without_effect(self) -> list[str]:
        loss = getattr(self.config, "loss", None)  # the medical losses have no settings
        text = loss.without_effect(self.config.views.crop) if loss else None
        return [text] if text else []

    def normalize(self, image: Tensor) -> Tensor:
        """float32 [B, ..., C, H, W]: integers [B, ..., H, W, C] minus the mean, over the deviation.

        Each image has the axes in memory that it came with (channels_last).
        """
        return self._scale(image.to(torch.float32, copy=True).movedim(-1, -3))

    def _normalized(self, images: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The same of several batches of one size, as parts of one block of memory: a launch costs the host
        as much for one batch as for all.
        """
        counts = [len(batch) for batch in images]
        first = images[0]
        values = torch.empty(sum(counts), *first.shape[1:], dtype=torch.float32, device=first.device)
        torch._foreach_copy_(list(values.split(counts)), list(images))
        scaled = self._scale(values.flatten(0, -4).permute(0, 3, 1, 2), by_lines=True)
        return scaled.unflatten(0, values.shape[:-3]).split(counts)

    def _scale(self, values: Tensor, by_lines: bool = False) -> Tensor:
        """[..., C, H, W] minus the mean, over the deviation, in place.

        by_lines: with constants for a whole line of pixels, if these lie one behind the other. With an inner
        loop over the channels alone a CPU takes three times as long; a traced graph would be for one width.
        """
        pixels = values.movedim(-3, -1)
        if by_lines and pixels.is_contiguous():
            mean, std = self._constants(values.device, values.shape[-1])
            pixels.flatten(-2).sub_(mean).div_(std)
            return values
        mean, std = self.mean, self.std
        if values.device.type != "cpu":
            mean, std = (one.view(-1, 1, 1) for one in self._constants(values.device, 1))
        return values.sub_(mean).div_(std)

    def _constants(self, device: torch.device, pixels: int) -> tuple[Tensor, Tensor]:
        """Mean and deviation of so many pixels in a row, float32 [pixels * C] on the device."""
        size = pixels * self.mean.numel()
        if device not in self._lines or len(self._lines[device][0]) < size:
            # A blocking copy would wait for all that the device still has to do.
            mean, std = (
                one.flatten().repeat(pixels).to(device, non_blocking=True) for one in (self.mean, self.std)
            )
            self._lines[device] = mean, std
        mean, std = self._lines[device]
        return mean[:size], std[:size]

    def pixel_counts(self, raw: RawMicro) -> list[int]:
        """Labelled pixels, then, if any, valid ones of the weak and of each mixed strong view."""
        # NumPy counts 75 times as fast as torch sums booleans, and this is the training's own thread.
        counts = [int(np.count_nonzero(raw["labeled"]["label"].numpy() != IGNORE_INDEX))]
        if raw["unlabeled"] is not None:
            counts += valid_pixels(raw["unlabeled"])
        return counts

    def to_device(self, raw: RawMicro, device: torch.device, shares: Tensor | None = None) -> Batch:
        """The micro-batch that methods see. Integers cross to the device, and masks as rectangles.

        Strong views that come as colours are made here, see tasks.device_views.
        """

        def move(values: Tensor) -> Tensor:
            return values.to(device, non_blocking=True)

        labeled, unlabeled = raw["labeled"], raw["unlabeled"]
        label = move(labeled["label"])
        masks = None if unlabeled is None else draw_masks(unlabeled, device)
        if shares is None:
            shares = torch.ones(1 if masks is None else 2 + len(masks.boxes))
        share, *unlabeled_shares = move(shares.float()).unbind()
        in_batch = unlabeled is not None and "partner_weak" not in unlabeled
        sources = [(labeled, "image", "")]
        if unlabeled is not None:
            sources.append((unlabeled, "weak", ""))
            if not in_batch:
                sources.append((unlabeled, "partner_weak", "partner_"))
        (image, strong_labeled), *others = self._views(sources, device)
        half = Labeled(
            image=image,
            label=label.long(),
            noise_key=move(labeled["noise_key"]),
            share=share,
            strong=next(iter(strong_labeled), None),
            pseudo=move(labeled["pseudo"]) if "pseudo" in labeled else None,
            areas=draw_areas(labeled, device),
        )
        if unlabeled is None or masks is None:
            return Batch(half, None)

        weak, strong = others[0]
        if in_batch:
            partner = Partner(
                swap_pairs(weak), tuple(swap_pairs(view) for view in strong), masks.partner_valid
            )
        else:
            partner = Partner(*others[1], masks.partner_valid)
        return Batch(
            half,
            Unlabeled(
                weak=weak,
                strong=strong,
                valid=masks.valid,
                boxes=masks.boxes,
                partner=partner,
                partner_in_batch=in_batch,
                mixed_valid=masks.mixed_valid,
                noise_key=move(unlabeled["noise_key"]),
                share=unlabeled_shares[0],
                mixed_share=tuple(unlabeled_shares[1:]),
                areas=masks.areas,
            ),
        )

    def _views(
        self, sources: Sequence[tuple[dict[str, Tensor], str, str]], device: torch.device
    ) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
        """Images and their strong views, if any, of each source: arrays, the name of its images among them,
        and how the names of what makes its strong views begin.
        """
        groups: list[list[Tensor]] = []
        for arrays, name, prefix in sources:
            groups.append([arrays[name].to(device, non_blocking=True)])
            if f"{prefix}strong" in arrays:
                groups[-1] += arrays[f"{prefix}strong"].to(device, non_blocking=True).unbind(1)
        normalised = iter(self._normalized([view for group in groups for view in group]))
        found = []
        for (arrays, _, prefix), group in zip(sources, groups, strict=True):
            weak, *strong = [next(normalised) for _ in group]
            found.append((weak, tuple(strong) or self._made(arrays, group[0], prefix, device)))
        return found

    def _made(
        self, arrays: dict[str, Tensor], weak: Tensor, prefix: str, device: torch.device
    ) -> tuple[Tensor, ...]:
        """The strong views of `weak` by the numbers among the arrays; none if there are none."""
        for name in ("colors", "ops"):
            if f"{prefix}{name}" in arrays:
                # Each date is an image of its own.
                rows = arrays[f"{prefix}{name}"].to(device, non_blocking=True).movedim(1, -2).flatten(0, -3)
                images = weak.flatten(0, -4)
                made = (
                    strong_views(images, rows, self._blur_radius)
                    if name == "colors"
                    else listed_views(images, rows)
                )
                ordered = (view.to(memory_format=torch.channels_last, copy=True) for view in made)
                return tuple(self._scale(view).unflatten(0, weak.shape[:-3]) for view in ordered)
        return ()

    def supervised_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy or OHEM, as configured."""
        return losses.supervised_loss(self.config.loss, logits, labels)

    def consistency_loss(self, logits: Tensor, pseudo: losses.PseudoLabels) -> Tensor:
        """Cross-entropy against confident pseudo-labels, over the number of valid pixels."""
        return losses.masked_consistency(logits, pseudo)

    def predicted(self, net: nn.Module, image: Tensor, sure: bool = False) -> Predicted:
        """See Task; IGNORE_INDEX outside the middle in mode "centre".

        image: uint8 [B, ..., H, W, C] as decoded, on the device of `net`.
        """
        return predicted(net, image, self.normalize, self.config.evaluate, self.config.views.crop, sure)

    def spread(self, net: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
        """See Task; no probability, of 0, outside the middle in mode "centre"."""
        return spread(net, image, self.normalize, self.config.evaluate, self.config.views.crop)

    def metric(self, device: torch.device | str = "cpu") -> Metric:
        """An empty confusion matrix of the taxonomy's classes."""
        return ConfusionMatrix(self.taxonomy.num_classes, device)

    @torch.no_grad()
    def pictures(self, net: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
        """Contact sheets "labeled" and "unlabeled" of the first images of a batch, see Sheets."""
        if self.bands is None:
            sheets = Sheets(self.mean, self.std, self.paint, self.legend())
        else:  # normalised values, as Bands.picture shows them
            grey = torch.tensor(127.5)
            sheets = Sheets(grey, grey / WIDTH_SHOWN, self.paint, self.legend(), self.bands.show)
        found = {"labeled": sheets.labeled(net, batch.labeled)}
        if batch.unlabeled is not None:
            found["unlabeled"] = sheets.unlabeled(net, batch.unlabeled)
        return found
