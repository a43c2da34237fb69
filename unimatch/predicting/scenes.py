"""Rasters of bands, of any size: read, predicted and written window by window, with their place on earth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unimatch.codecs.bands import Bands
from unimatch.codecs.part import Rect
from unimatch.codecs.rasters import Grid, read_bands, read_header, write_ids
from unimatch.errors import DataError, UserError
from unimatch.tasks.base import Task
from unimatch.tasks.prediction import sliding_ids
from unimatch.taxonomy import IGNORE_INDEX

RASTERS = (".tif", ".tiff", ".vrt", ".jp2", ".img", ".png")
WHOLE_PIXELS = 1 << 20  # a scene up to this size is predicted as evaluation does it
LEAST_WINDOW = 512  # side of the windows of a larger one, unless the run says it
SHOWN = 2048  # pixels of the longer side of an overlay
CLIPPED = 0.01  # share of values outside the scaling that is told


@dataclass(frozen=True)
class Predicted:
    """uint8 [h, w, 3] and [h, w]: a picture of a scene and its class ids, both smaller if it is large."""

    picture: np.ndarray
    ids: np.ndarray
    told: list[str]


@dataclass
class Scene:
    """One place, a file a date, read as packing read the images that a run learnt from."""

    files: Sequence[Path]
    bands: Bands
    missing: list[tuple[int, int, np.ndarray]] = field(
        default_factory=list
    )  # y, x, bool [h, w]: no data there
    clipped: int = 0
    values: int = 0

    def grid(self) -> Grid:
        """DataError: a file of another kind than those that were packed, or dates of two grids."""
        headers = [read_header(path, str(path)) for path in self.files]
        for path, header in zip(self.files, headers, strict=True):
            header.check(self.bands, str(path))
        difference = headers[0].grid.differs(headers[-1].grid)
        if difference:
            raise DataError(f"{self.files[-1]}: the second date of {self.files[0]} {difference}")
        return headers[0].grid

    def read(self, rect: Rect, step: int = 1) -> np.ndarray:
        """[h, w, C], or [dates, h, w, C], as stored."""
        dates, lost = [], None
        for path in self.files:
            values, valid = read_bands(path, self.bands.order, rect, self.bands.nodata, str(path), step)
            image, clipped = self.bands.stored(values, valid)
            dates.append(image)
            lost = ~valid if lost is None else lost | ~valid
            self.clipped += clipped
            self.values += values.size
        if lost is not None and lost.any() and step == 1:
            self.missing.append((rect[1], rect[0], lost))
        return dates[0] if len(dates) == 1 else np.stack(dates)

    def hide(self, ids: np.ndarray, top: int) -> None:
        """Set class ids [h, W] of rows from `top` on to IGNORE_INDEX where there was no data."""
        bottom = top + len(ids)
        for y, x, lost in self.missing:
            first, last = max(y, top), min(y + len(lost), bottom)
            if first < last:
                ids[first - top : last - top, x : x + lost.shape[1]][lost[first - y : last - y]] = (
                    IGNORE_INDEX
                )
        self.missing = [found for found in self.missing if found[0] + len(found[2]) > bottom]


def read_scene(files: Sequence[Path], bands: Bands) -> np.ndarray:
    """[H, W, C] of a raster, or [2, H, W, C] of two dates, whole. DataError as Scene.grid."""
    scene = Scene(files, bands)
    grid = scene.grid()
    return scene.read((0, 0, grid.width, grid.height))


def predict_scene(net: nn.Module, task: Task, files: Sequence[Path], target: Path) -> Predicted:
    """Writes `target`, a GeoTIFF of class ids on the grid of the first file, 255 where there is no data.

    A scene of up to WHOLE_PIXELS is predicted as evaluation does it. Of a larger one the softmax of
    overlapping windows is summed, which are those of the run's `evaluate` where its mode is sliding; memory
    does not grow with the scene's height. DataError: a raster of another kind; nothing is written then.
    """
    assert task.bands is not None
    scene = Scene(files, task.bands)
    grid = scene.grid()
    step = -(-max(grid.width, grid.height) // SHOWN)
    small = []
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    try:
        with write_ids(partial, grid, task.taxonomy.colors) as out, torch.inference_mode():
            for top, ids in rows_of_ids(net.eval(), task, scene, grid):
                scene.hide(ids, top)
                out.write(ids, 1, window=((top, top + len(ids)), (0, grid.width)))
                small.append(ids[-top % step :: step, ::step])
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    told = []
    if scene.clipped > CLIPPED * scene.values:
        share = scene.clipped / scene.values
        told.append(
            f"{files[0].name}: {share:.1%} of the values lie outside the run's scaling and were clipped"
        )
    picture = scene.read((0, 0, grid.width, grid.height), step)
    return Predicted(task.show(picture)[-1], np.concatenate(small), told)


def rows_of_ids(net: nn.Module, task: Any, scene: Scene, grid: Grid) -> Any:
    """(y, uint8 [h, W]) of class ids, from the top."""
    device = next(net.parameters()).device
    evaluate, crop = task.config.evaluate, task.config.views.crop

    def tensor(rect: Rect) -> Tensor:
        return torch.from_numpy(scene.read(rect))[None].to(device)

    def read(y: int, x: int, h: int, w: int) -> Tensor:
        values: Tensor = task.normalize(tensor((x, y, x + w, y + h)))
        return values

    if grid.width * grid.height <= WHOLE_PIXELS:
        ids = task.predict(net, tensor((0, 0, grid.width, grid.height)))
        yield 0, ids[0].cpu().numpy()
        return
    (window, stride), border = evaluate.windows(crop), evaluate.border
    if evaluate.mode != "sliding":
        window = -(-max(LEAST_WINDOW, crop) // evaluate.multiple_of) * evaluate.multiple_of
        stride, border = int(window * 2 / 3), "inside"
    if evaluate.multiple_of > 1 and min(grid.height, grid.width) < window:
        raise UserError(
            f"{scene.files[0]}: is {grid.width}x{grid.height} pixels, narrower than the windows of {window} "
            "that the network takes; cut it into pieces"
        )
    for top, ids in sliding_ids(net, read, (grid.height, grid.width), window, stride, border):
        yield top, ids[0].cpu().numpy()
