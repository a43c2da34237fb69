"""Contact sheets of training batches: a row an image, a column a kind of picture."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from unimatch.codecs.picture import scaled
from unimatch.codecs.sheet import Sample, sheet, tile_side
from unimatch.data.sample import Labeled, Unlabeled
from unimatch.mixing import paste
from unimatch.taxonomy import IGNORE_INDEX

NUM_PICTURES = 4
Column = tuple[str, list[np.ndarray]]  # a title; uint8 [H, W, 3] or [H, W], one an image
Paint = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Sheets:
    """Makes the sheets of normalised images [B, ..., C, H, W]; axes between (dates) stand side by side.

    mean, std: float [C, 1, 1] or of one number, of the pixel values 0 to 255. One channel is shown as grey,
    of more than three those of `show`. paint: puts class ids [h, w] over a picture. legend: what it paints.
    """

    def __init__(
        self,
        mean: Tensor,
        std: Tensor,
        paint: Paint,
        legend: list[tuple[str, np.ndarray]],
        show: tuple[int, ...] = (0, 1, 2),
    ) -> None:
        self.mean = mean
        self.std = std
        self.paint = paint
        self.legend = legend
        self.show = list(show)

    @torch.no_grad()
    def labeled(self, net: nn.Module, x: Labeled) -> np.ndarray:
        """Image, truth, prediction. Leaves `net` in eval mode."""
        net.eval()
        image, label = x.image[:NUM_PICTURES], x.label[:NUM_PICTURES]
        prediction = net(image)["logits"].argmax(dim=1)
        side = tile_side(3 * _dates(image))
        shown = self._shown("image", image, side)
        painted = [*self._painted("truth", shown, label), *self._painted("prediction", shown, prediction)]
        return self._sheet([*shown, *painted])

    @torch.no_grad()
    def unlabeled(self, net: nn.Module, u: Unlabeled) -> np.ndarray:
        """Weak view, each mixed strong view with its box outlined, pseudo-label and confidence of the weak
        view (black is 0, white is 1). Leaves `net` in eval mode.
        """
        net.eval()
        weak, valid = u.weak[:NUM_PICTURES], u.valid[:NUM_PICTURES]
        conf, labels = net(weak)["logits"].float().softmax(dim=1).max(dim=1)
        side = tile_side(_dates(weak) * (2 + len(u.boxes)) + 1)
        shown = self._shown("weak view", weak, side)
        columns = list(shown)
        for view, box in enumerate(u.boxes):
            mixed = u.strong[view]
            if u.partner is not None:
                mixed = paste(mixed, u.partner.strong[view], box)
            boxes = box[:NUM_PICTURES].cpu().numpy()
            for title, pictures in self._shown(f"strong view {view + 1}", mixed[:NUM_PICTURES], side):
                columns.append((title, list(map(_outlined, pictures, boxes))))
        columns += self._painted("pseudo-label", shown, torch.where(valid, labels, IGNORE_INDEX))
        grey = (255 * conf * valid).round().to(torch.uint8).cpu().numpy()
        columns.append(("confidence", [scaled(picture, side) for picture in grey]))
        return self._sheet(columns)

    def _shown(self, title: str, image: Tensor, side: int) -> list[Column]:
        """A column for each date of normalised images; one column if there are none."""
        values = image.float() * self.std.to(image.device) + self.mean.to(image.device)
        pixels = values.round().clamp(0, 255).to(torch.uint8).movedim(-3, -1)
        pixels = pixels.expand(*pixels.shape[:-1], 3) if pixels.shape[-1] == 1 else pixels[..., self.show]
        if pixels.ndim < 5:
            return [(title, _tiles(pixels, side))]
        return [(f"{title}, date {k}", _tiles(date, side)) for k, date in enumerate(pixels.unbind(1), 1)]

    def _painted(self, title: str, dates: list[Column], labels: Tensor) -> list[Column]:
        """A column of overlays for each date."""
        ids = labels.cpu().numpy()
        return [(title, list(map(self.paint, pictures, ids))) for _, pictures in dates]

    def _sheet(self, columns: list[Column]) -> np.ndarray:
        titles, pictures = zip(*columns, strict=True)
        rows = zip(*pictures, strict=True)
        return sheet([Sample(list(row)) for row in rows], titles, legend=self.legend)


def _dates(image: Tensor) -> int:
    return image.shape[1] if image.ndim == 5 else 1


def _tiles(pixels: Tensor, side: int) -> list[np.ndarray]:
    return [scaled(picture, side) for picture in pixels.contiguous().cpu().numpy()]


def _outlined(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The picture with the border of its box [h, w] drawn in white; an empty box draws nothing."""
    y, x = np.nonzero(box)
    if len(y):
        factors = np.array(picture.shape[:2]) / box.shape
        top, left = np.floor(factors * (y.min(), x.min())).astype(int)
        bottom, right = np.ceil(factors * (y.max() + 1, x.max() + 1)).astype(int) - 1
        cv2.rectangle(picture, (int(left), int(top)), (int(right), int(bottom)), (255, 255, 255), 1)
    return picture
