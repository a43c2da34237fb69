"""Contact sheets of training batches: a row an image, a column a kind of picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from unimatch.codecs.picture import grid
from unimatch.data.sample import Labeled, Unlabeled
from unimatch.mixing import paste
from unimatch.taxonomy import IGNORE_INDEX

NUM_PICTURES = 4
Pictures = list[np.ndarray]  # uint8 [H, W, 3] or [H, W], one an image
Paint = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Sheets:
    """Makes the sheets of normalised images [B, ..., C, H, W]; axes between (dates) stand side by side.

    mean, std: float [C, 1, 1], of the pixel values 0 to 255. One channel is shown as grey, of more than three
    the first three. paint: puts class ids [H, W] over a picture.
    """

    def __init__(self, mean: Tensor, std: Tensor, paint: Paint) -> None:
        self.mean = mean
        self.std = std
        self.paint = paint

    @torch.no_grad()
    def labeled(self, net: nn.Module, x: Labeled) -> np.ndarray:
        """Image, truth, prediction. Leaves `net` in eval mode."""
        net.eval()
        image, label = x.image[:NUM_PICTURES], x.label[:NUM_PICTURES]
        prediction = net(image)["logits"].argmax(dim=1)
        shown = self._shown(image)
        return _sheet([*shown, *self._painted(shown, label), *self._painted(shown, prediction)])

    @torch.no_grad()
    def unlabeled(self, net: nn.Module, u: Unlabeled) -> np.ndarray:
        """Weak view, each mixed strong view with its box outlined, pseudo-label and confidence of the weak
        view (black is 0, white is 1). Leaves `net` in eval mode.
        """
        net.eval()
        weak, valid = u.weak[:NUM_PICTURES], u.valid[:NUM_PICTURES]
        conf, labels = net(weak)["logits"].float().softmax(dim=1).max(dim=1)
        shown = self._shown(weak)
        columns = list(shown)
        for view, box in enumerate(u.boxes):
            mixed = u.strong[view]
            if u.partner is not None:
                mixed = paste(mixed, u.partner.strong[view], box)
            boxes = box.cpu().numpy()
            columns += [_outlined(column, boxes) for column in self._shown(mixed[:NUM_PICTURES])]
        columns += self._painted(shown, torch.where(valid, labels, IGNORE_INDEX))
        columns.append(list((255 * conf * valid).round().to(torch.uint8).cpu().numpy()))
        return _sheet(columns)

    def _shown(self, image: Tensor) -> list[Pictures]:
        """A column of uint8 [H, W, 3] for each date of normalised images; one column if there are none."""
        values = image.float() * self.std.to(image.device) + self.mean.to(image.device)
        pixels = values.round().clamp(0, 255).to(torch.uint8).movedim(-3, -1)
        pixels = pixels.expand(*pixels.shape[:-1], 3) if pixels.shape[-1] == 1 else pixels[..., :3]
        dates = pixels.unbind(1) if pixels.ndim == 5 else (pixels,)
        return [list(date.contiguous().cpu().numpy()) for date in dates]

    def _painted(self, dates: list[Pictures], labels: Tensor) -> list[Pictures]:
        """A column of overlays for each date."""
        ids = labels.cpu().numpy()
        return [[self.paint(*pair) for pair in zip(date, ids, strict=True)] for date in dates]


def _outlined(images: Pictures, boxes: np.ndarray) -> Pictures:
    """The images with the border of their boxes drawn in white; an empty box draws nothing."""
    for image, box in zip(images, boxes, strict=False):
        y, x = np.nonzero(box)
        if len(y):
            top, bottom, left, right = y.min(), y.max(), x.min(), x.max()
            image[[top, bottom], left : right + 1] = 255
            image[top : bottom + 1, [left, right]] = 255
    return images


def _sheet(columns: list[Pictures]) -> np.ndarray:
    """One row an image, one column a kind of picture."""
    return grid([column[row] for row in range(len(columns[0])) for column in columns], columns=len(columns))
