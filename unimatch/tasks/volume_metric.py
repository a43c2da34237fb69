"""Dice and surface distances of whole volumes, from slices that arrive one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from unimatch.errors import DataError
from unimatch.taxonomy import IGNORE_INDEX

# Sums are kept in steps of 2**-32: integers add up to the same in any order, so a figure does not depend on
# which process had which volume.
STEPS = 2**32
DICE, VOLUMES, HD95, ASD, MEASURED = range(5)  # rows of the state


class VolumeMetric:
    """Sums over volumes of what each class scores in a volume; a mean counts every volume once.

    A class that is in neither truth nor prediction of a volume says nothing about it, and the volume is left
    out of the class's means (the released code divides 0 by 0). If it is in only one of them, its Dice is 0
    and its distances are undefined: they are left out and counted.
    """

    def __init__(
        self, num_classes: int, unit: Callable[[str], str], device: torch.device | str = "cpu"
    ) -> None:
        self.unit = unit
        self.device = device
        self._sums = np.zeros((5, num_classes), np.int64)
        self._volume: str | None = None  # the one whose slices are arriving
        self._slices: list[tuple[np.ndarray, np.ndarray]] = []
        self._done: set[str] = set()

    @property
    def state(self) -> Tensor:
        """int64 [5, num_classes]. To ask for it, or for a figure, ends the volume that was arriving."""
        self._close()
        return torch.from_numpy(self._sums.copy()).to(self.device)

    @state.setter
    def state(self, sums: Tensor) -> None:
        self._sums = sums.cpu().numpy()

    def update(self, prediction: Tensor, label: Tensor, keys: Sequence[str]) -> None:
        """Adds slices, integers [B, H, W], in the order of their depth. Labels of IGNORE_INDEX do not count.

        DataError if a volume's slices differ in size.
        """
        pairs = zip(prediction.cpu().numpy(), label.cpu().numpy(), keys, strict=True)
        for predicted, true, key in pairs:
            volume = self.unit(key)
            if volume != self._volume:
                self._close()
            # The loader brings samples of one size together.
            if volume in self._done or (self._slices and self._slices[0][1].shape != true.shape):
                raise DataError(
                    f"volume {volume}: its slices have several sizes (seen at {key}), so they are no volume; "
                    "pack them again, or evaluate images by themselves: task.evaluate.per: image"
                )
            self._volume = volume
            self._slices.append((predicted.astype(np.uint8), true.astype(np.uint8)))

    def _close(self) -> None:
        """Scores the volume that was arriving, if there is one."""
        if self._volume is None:
            return
        prediction, truth = (np.stack(slices) for slices in zip(*self._slices, strict=True))
        prediction[truth == IGNORE_INDEX] = IGNORE_INDEX
        for label in range(1, self._sums.shape[1]):
            self._add(label, prediction == label, truth == label)
        self._done.add(self._volume)
        self._volume = None
        self._slices.clear()

    def _add(self, label: int, predicted: np.ndarray, true: np.ndarray) -> None:
        size = int(predicted.sum()) + int(true.sum())
        if size == 0:
            return
        self._sums[DICE, label] += round(2 * int((predicted & true).sum()) / size * STEPS)
        self._sums[VOLUMES, label] += 1
        # SciPy's import takes a third of a second, and other tasks do without.
        from unimatch.tasks.surface import surface_distances

        distances = surface_distances(predicted, true)
        if distances is not None:
            self._sums[HD95, label] += round(distances.hd95 * STEPS)
            self._sums[ASD, label] += round(distances.asd * STEPS)
            self._sums[MEASURED, label] += 1

    def dice(self) -> list[float | None]:
        """Mean Dice of each class but the background; None for one that occurs nowhere."""
        return self._means(DICE, VOLUMES)

    def hd95(self) -> list[float | None]:
        """Mean HD95 in voxels of each class but the background, over volumes that define it, or None."""
        return self._means(HD95, MEASURED)

    def asd(self) -> list[float | None]:
        """Mean average surface distance, as `hd95`."""
        return self._means(ASD, MEASURED)

    def undefined(self) -> list[int]:
        """For each class but the background: volumes with a Dice (0) but no distances."""
        self._close()
        return (self._sums[VOLUMES] - self._sums[MEASURED])[1:].tolist()

    def _means(self, total: int, count: int) -> list[float | None]:
        self._close()
        pairs = zip(self._sums[total, 1:].tolist(), self._sums[count, 1:].tolist(), strict=True)
        return [total / STEPS / count if count else None for total, count in pairs]
