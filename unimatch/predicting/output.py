"""What is written of each image into a folder of results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from unimatch.annotations import coco_masks
from unimatch.codecs.picture import GAP, label_colors, scaled
from unimatch.codecs.prepared import Preparation, restored
from unimatch.codecs.sheet import Sample, sheet, tile_side
from unimatch.codecs.volume_files import is_volume, write_labels
from unimatch.errors import UserError
from unimatch.predicting.inputs import COCO, RESULTS
from unimatch.predicting.predictor import Predictor, Seen
from unimatch.predicting.reading import Size, overlay
from unimatch.predicting.results import write_picture
from unimatch.predicting.scenes import predict_scene
from unimatch.tasks.base import Task

KINDS = (*RESULTS, "coco")
USUAL = ("ids", "colors", "overlays")
OF_ALL = ("ids", "overlays")  # what there is also of volumes and scenes

Entry = dict[str, Any]
"""What is told of an image when all are done: {}, {"told": sentences} or {"coco": its annotations}."""


@dataclass(frozen=True)
class Output:
    """kinds: of KINDS. picture: from the name of an image to that of its PNG."""

    folder: Path
    kinds: Sequence[str]
    task: Task
    picture: Callable[[Path], Path]
    alpha: float = 0.5

    def place(self, kind: str, name: Path) -> Path:
        return self.folder / kind / name

    @property
    def needs_conf(self) -> bool:
        return "coco" in self.kinds

    @property
    def needs_probabilities(self) -> bool:
        return "probabilities" in self.kinds

    def write_image(self, name: Path, image: np.ndarray, seen: Seen, number: int, size: Size) -> Entry:
        """One of a batch [B, ..., H, W, C] and what was seen in it. size: of ids and colours."""
        small, picture = seen.ids[number], self.picture(name)
        ids, colors = restored(small, size), self.task.taxonomy.colors
        if "ids" in self.kinds:
            write_picture(self.place("ids", picture), size, lambda rows: ids[rows])
        if "colors" in self.kinds:
            write_picture(self.place("colors", picture), size, lambda rows: label_colors(ids[rows], colors))
        if "overlays" in self.kinds:
            own, dates = image[number], self.task.dates
            write_picture(
                self.place("overlays", picture),
                (small.shape[0], small.shape[1] * dates + GAP * (dates - 1)),
                lambda rows: overlay(self.task, own[..., rows, :, :], small[rows], self.alpha),
            )
        if seen.probabilities is not None:
            target = self.place("probabilities", picture.with_suffix(".npy"))
            target.parent.mkdir(parents=True, exist_ok=True)
            np.save(target, seen.probabilities[number].astype(np.float16))
        if "coco" not in self.kinds:
            return {}
        assert seen.conf is not None
        return {"coco": coco_masks.entry(name.as_posix(), ids, nearest(seen.conf[number], size))}

    def write_other(
        self, predictor: Predictor, prepared: Preparation, files: Sequence[Path], name: Path
    ) -> Entry:
        """A volume, or a scene of bands, predicted and written."""
        if is_volume(name):
            self._write_volume(predictor, prepared, files[0], name)
            return {}
        return {"told": self._write_scene(predictor, files, name)}

    def _write_scene(self, predictor: Predictor, files: Sequence[Path], name: Path) -> list[str]:
        """ids/NAME on the grid of the file, with .tif behind if it is another kind, and overlays/NAME, which
        is smaller if need be.
        """
        is_tiff = name.suffix.lower() in (".tif", ".tiff")
        target = self.place("ids", name if is_tiff else name.with_name(f"{name.name}.tif"))
        found = predict_scene(predictor.net, self.task, files, target)
        if "overlays" in self.kinds:
            picture = self.task.paint(found.picture, found.ids, self.alpha)
            place = self.place("overlays", self.picture(name))
            write_picture(place, found.ids.shape, lambda rows: picture[rows])
        return found.told

    def _write_volume(self, predictor: Predictor, prepared: Preparation, path: Path, name: Path) -> None:
        """ids/NAME, of the kind of the input, and overlays/NAME, a sheet of all slices."""
        volume = prepared.read_volume(path)
        images = volume.slices[..., None]
        ids = predictor.see(images).ids
        write_labels(self.place("ids", name), restored(ids, volume.size), volume)
        if "overlays" not in self.kinds:
            return
        across = math.ceil(math.sqrt(len(images)))
        side = tile_side(across)
        samples = []
        for number, (image, label) in enumerate(zip(images, ids, strict=True)):
            tile = self.task.paint(scaled(self.task.show(image)[0], side), label, self.alpha)
            samples.append(Sample([tile], f"slice {number}"))
        picture = sheet(samples, across=across, legend=self.task.legend("not predicted"))
        place = self.place("overlays", self.picture(name))
        write_picture(place, picture.shape[:2], lambda rows: picture[rows])

    def finish(self, entries: Callable[[], Any]) -> None:
        """What is of all images together. entries: what `write_image` gave, in order, from the start at each
        call.
        """
        if "coco" in self.kinds:
            coco_masks.write(self.folder / COCO, self.task.taxonomy.names, entries(), entries())


def refuse_kinds(kinds: Sequence[str], what: str) -> None:
    """UserError: something that there is not of `what`, volumes or scenes."""
    wrong = [kind for kind in kinds if kind not in (*OF_ALL, "colors")]
    if wrong:
        raise UserError(f"--write {wrong[0]}: of {what} there are {' and '.join(OF_ALL)} alone")


def nearest(values: np.ndarray, size: Size) -> np.ndarray:
    """float [H, W] of [h, w]: each pixel takes the value of the nearest one, as `restored` does with ids."""
    if values.shape == size:
        return values
    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
