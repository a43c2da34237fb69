"""Images that a label is to be found for: files, or samples of a shard set, looked at one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn
from tqdm import tqdm

from unimatch.data.evaluation import image_loader, neighbours
from unimatch.data.load import load_image
from unimatch.engine import checkpoint
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import open_shards, require_dates, training_samples
from unimatch.engine.selection import Selection, select
from unimatch.errors import DataError, UserError
from unimatch.packing.groups import volume_of
from unimatch.predicting.inputs import check_images, find_inputs, suffixes_of
from unimatch.predicting.looks import Look, Watched, joined, look
from unimatch.shardset.archive import ShardSet
from unimatch.tasks.base import Task

Looks = tuple[list[str], list[Look]]  # names of images, and what was seen of each


class Reader(Protocol):
    """The part of a trained run that reads files; see interface.Run."""

    task: Task
    config: RunConfig
    folder: Path

    def open_file(self, path: Path, second: Path | None = None) -> tuple[np.ndarray, tuple[int, int]]: ...

    def batched(self, given: np.ndarray) -> tuple[np.ndarray, bool]: ...

    def passes(self, batch: np.ndarray) -> Iterator[Tensor]: ...


class FileCandidates:
    """Files of a folder.

    names: their paths in it. told: sentences for people. problems: one for each file that cannot be read.
    """

    def __init__(self, run: Reader, images: Path, second: Path | None, out: Path) -> None:
        check_images(images)
        if images.resolve() in (out.resolve(), *out.resolve().parents):
            raise UserError(
                f"--out {out} lies among the images in {images}; results need a place of their own"
            )
        self.run = run
        inputs = find_inputs(images, second, out, run.task.dates, suffixes_of(run.task))
        self.folders = inputs.folders
        self.names = [name.as_posix() for name in inputs.names]
        self.told = list(inputs.told)
        self.problems: list[str] = []

    def looks(self, net: Watched, other: nn.Module | None) -> Looks:
        """Of each file that can be read, in the order of `names`; the others become problems."""
        names, found = [], []
        for name in tqdm(self.names, unit="image", desc="looking", dynamic_ncols=True, disable=None):
            try:
                batch = self.read(name)
                seen = [
                    one for part in self.run.passes(batch) for one in look(self.run.task, net, part, other)
                ]
            except (DataError, OSError) as error:
                self.problems.append(str(error))
                continue
            names.append(name)
            found.append(joined(seen))
        if not names:
            raise UserError(f"none of the {len(self.names)} images could be read: {self.problems[0]}")
        return names, found

    def read(self, name: str) -> np.ndarray:
        """[n, ..., H, W, C] as the task decodes images: one, or the slices of a volume."""
        image, _ = self.run.open_file(*(folder / name for folder in self.folders))
        return self.run.batched(image)[0]

    def labeled_features(self, net: Watched) -> np.ndarray:
        """[M, C] of the images that the run learnt from, if its shards are still there, which is told."""
        try:
            labeled = learnt_from(self.run.config)
        except UserError as error:
            self.told.append(f"the images that the run learnt from were not looked at: {error}")
            return np.empty((0, 1))
        return sample_features(self.run.task, net, labeled, 4, 0, self.run.config.data.timeout_s)


class SampleCandidates:
    """Samples of a shard set, without those that the run learnt from, if the shards are the run's own.

    labeled: the keys of these; None: the shards are others.
    """

    def __init__(self, run: Reader, name: str, place: str | None, batch: int, workers: int) -> None:
        data = run.config.data
        self.run, self.batch, self.workers = run, batch, workers
        self.shards = open_shards(place or data.shards, data.cache)
        state = checkpoint.load_state(run.folder)
        checkpoint.check_shards(state, self.shards, run.folder)
        selection = select(self.shards, name)
        require_dates(selection, run.task)
        self.told: list[str] = []
        self.problems: list[str] = []
        rows, self.labeled, self._own = selection.rows, None, None
        if place is None or place == data.shards:
            self._own = learnt_from(run.config, self.shards)
            self.labeled = self.shards.keys(self._own.rows)
            rows = np.setdiff1d(rows, self._own.rows)
            known = len(selection.rows) - len(rows)
            if known:
                self.told.append(f"{known} samples that the run learnt from are not ranked")
        self.rows = rows
        self.names: list[str] = self.shards.keys(rows)
        volumes = {volume_of(key) for key in self.names}
        if None not in volumes and len(volumes) < len(self.names):
            self.told.append(
                f"these {len(self.names)} samples are slices of {len(volumes)} volumes, each of them ranked "
                "by itself; for whole volumes give their files with --images"
            )

    def looks(self, net: Watched, other: nn.Module | None) -> Looks:
        """Of each sample, in the order of `names`. DataError: one that cannot be read."""
        found = sample_looks(
            self.run.task,
            net,
            other,
            (self.shards, self.rows),
            (self.batch, self.workers, self.run.config.data.timeout_s),
            "looking",
        )
        return self.names, found

    def read(self, name: str) -> np.ndarray:
        """[1, ..., H, W, C] as the task decodes images."""
        row = int(self.rows[self.names.index(name)])
        return load_image(self.shards, row, self.run.task.decode).pixels[None]

    def labeled_features(self, net: Watched) -> np.ndarray:
        """[M, C] of the images that the run learnt from; none of other shards."""
        if self._own is None:
            return np.empty((0, 1))
        timeout_s = self.run.config.data.timeout_s
        return sample_features(self.run.task, net, self._own, self.batch, self.workers, timeout_s)

    def tell_of_masks(self, chosen: list[str]) -> None:
        """How many of the chosen samples have no label yet."""
        rows = self.shards.find(np.array([key.encode() for key in chosen]))
        without = int((self.shards.index["label_size"][rows] == 0).sum())
        if without:
            self.told.append(
                f"{without} of the chosen samples have no label in {self.shards.root}: data.labeled takes "
                "the list once they are labelled and packed"
            )


def learnt_from(config: RunConfig, shards: ShardSet | None = None) -> Selection:
    """The labelled samples of a run. UserError: its shards or lists are not there."""
    return training_samples(config, shards or open_shards(config.data.shards, config.data.cache)).labeled


def sample_looks(
    task: Task,
    net: Watched,
    other: nn.Module | None,
    samples: tuple[ShardSet, np.ndarray],
    reading: tuple[int, int, float],
    doing: str,
    feature_only: bool = False,
) -> list[Look]:
    """samples: a shard set and rows; reading: images together, workers, seconds of patience."""
    (shards, rows), (batch, workers, timeout_s) = samples, reading
    device = next(net.parameters()).device
    loader = image_loader(
        shards, neighbours(shards, rows, batch), workers=workers, timeout_s=timeout_s, decode=task.decode
    )
    found: list[Any] = []
    with tqdm(total=len(rows), unit="image", desc=doing, dynamic_ncols=True, disable=None) as bar:
        for one in loader:
            found += look(task, net, one["image"].to(device), other, feature_only)
            bar.update(len(one["keys"]))
    return found


def sample_features(
    task: Task, net: Watched, labeled: Selection, batch: int, workers: int, timeout_s: float
) -> np.ndarray:
    """float32 [M, C] of samples."""
    seen = sample_looks(
        task,
        net,
        None,
        (labeled.shards, labeled.rows),
        (batch, workers, timeout_s),
        "labelled ones",
        feature_only=True,
    )
    return np.stack([one.feature for one in seen])
