"""Files and arrays as a trained run's task takes images: read and changed as packing did with its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unimatch.codecs.opening import header_size
from unimatch.codecs.picture import side_by_side
from unimatch.codecs.prepared import Preparation
from unimatch.codecs.volume_files import is_volume
from unimatch.data.images import stack_dates
from unimatch.errors import UserError
from unimatch.predicting.scenes import read_scene
from unimatch.tasks.base import Task

Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class Reader:
    """Reads for one task; `prepared`: what packing did to the images that a run learnt from. Picklable."""

    task: Task
    prepared: Preparation

    def open_file(self, path: str | Path, second: str | Path | None = None) -> tuple[np.ndarray, Size]:
        """A file's image, see interface.Run.read, and the size of the file's own image or slices."""
        paths = [Path(path)] if second is None else [Path(path), Path(second)]
        if len(paths) != self.task.dates:
            raise UserError(f"this run reads {self.task.dates} image(s) a sample, but was given {len(paths)}")
        if self.task.bands is not None:
            image = read_scene(paths, self.task.bands)
            return image, (image.shape[-3], image.shape[-2])
        if self.task.channels == 1:
            if is_volume(paths[0]):
                volume = self.prepared.read_volume(paths[0])
                return volume.slices[..., None], volume.size
            grey, size = self.prepared.read_grey(paths[0])
            return grey[..., None], size
        dates = [self.prepared.read_photo(one) for one in paths]
        if second is None:
            return dates[0]
        return stack_dates(dates[0][0], dates[1][0], paths[0].name), dates[0][1]

    @staticmethod
    def is_large(files: Sequence[Path], pixels: int) -> bool:
        """Whether a picture has more pixels than that, as far as the file's header tells."""
        height, width = header_size(files[0])
        return height * width > pixels

    def batched(self, given: np.ndarray) -> tuple[np.ndarray, bool]:
        """`given` as the task decodes images, behind a batch axis, and whether it had none."""
        images, dates, bands = given, self.task.dates, self.task.bands
        dtype: type[np.unsignedinteger]
        if bands is not None:
            tail, dtype = (self.task.channels,), bands.dtype.type
            wanted = f"[H, W, {self.task.channels}] of {bands.dtype}"
        elif self.task.channels == 1:
            wanted, dtype, tail = "[H, W] of uint8 or uint16", np.uint16, (1,)
            if images.dtype == np.uint8:
                images = images.astype(np.uint16) * np.uint16(257)  # as decode_grey does
            if images.ndim == 2 or images.shape[-1] != 1:
                images = images[..., None]
        else:
            wanted, dtype, tail = "[H, W, 3] of uint8", np.uint8, (3,)
            if dates == 1 and (images.ndim == 2 or images.shape[2:] == (1,)):
                images = np.repeat(images.reshape(*images.shape[:2], 1), 3, axis=2)  # as decode_rgb does
        axes = 3
        if dates > 1:
            wanted, axes = f"[{dates}, {wanted[1:]}", 4
        fits = images.shape[-1:] == tail and (dates == 1 or images.shape[-4:-3] == (dates,))
        if not fits or images.dtype != dtype or images.ndim not in (axes, axes + 1) or not images.size:
            raise UserError(
                f"this run reads an image {wanted}, or several of one size behind another axis; found "
                f"{list(given.shape)} of {given.dtype}"
            )
        single = images.ndim == axes
        batch = images[None] if single else images
        return np.require(batch, requirements=["C", "W"]), single  # what Pillow gives is to be read only


def overlay(task: Task, image: np.ndarray, ids: np.ndarray, alpha: float) -> np.ndarray:
    """uint8 [h, w, 3]: class ids [h, w] over an image as the task decodes it, its dates side by side."""
    return side_by_side([task.paint(date, ids, alpha) for date in task.show(image)])
