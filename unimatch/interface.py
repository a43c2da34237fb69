"""unimatch from Python: train a run, predict with it, look at samples. `import unimatch` offers these names.

A mistake of the caller's is a UserError, as on the command line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from unimatch import config as config_io
from unimatch.codecs.decode import (
    check_label,
    decode_image,
    decode_label,
    decode_rgb,
    image_header,
)
from unimatch.codecs.prepared import Preparation, restored
from unimatch.data.images import stack_dates
from unimatch.engine.hub import on_this_machine
from unimatch.engine.options import TIMEOUT_S
from unimatch.engine.prediction_mode import NAMES, in_one_pass
from unimatch.engine.restore import Restored, restore
from unimatch.engine.run_config import RunConfig
from unimatch.engine.runtime import Runtime
from unimatch.errors import UserError
from unimatch.predicting.passes import passes
from unimatch.predicting.reading import Reader, overlay
from unimatch.shardset.archive import ShardSet
from unimatch.train import train_runs

Colors = tuple[tuple[int, int, int], ...]


def fit(config: RunConfig | str | Path, *changes: str, resume: bool = False) -> Path:
    """Trains a run as `unimatch train` does, and returns its folder, which `load` takes.

    config: a file, or the name of a shipped one; YAML text, which is a str with a line break or ": "; or an
        object.
    changes: "optimizer.lr=0.01" and the like, as with --set.
    resume: continue from the run's last checkpoint, if there is one.

    Under `accelerate launch` every process calls it. Ctrl-C saves a checkpoint and raises `Stopped`.
    """
    if isinstance(config, RunConfig):
        config = config_io.from_text(config_io.dump(config), RunConfig, changes, "the configuration")
    elif isinstance(config, str) and ("\n" in config or ": " in config):
        config = config_io.from_text(config, RunConfig, changes)
    else:
        config = config_io.load(config, RunConfig, changes)
    train_runs([config], resume, TIMEOUT_S)
    return config.out


def load(
    run: str | Path,
    checkpoint: str | int | None = None,
    network: str | None = None,
    **changes: str | int,
) -> Run:
    """A trained network, ready to predict on the GPU if there is one.

    run: a run's folder, that of one of its checkpoints, or hf://OWNER/NAME on the hub.
    checkpoint: "last" (the default), "best" or the number of a step.
    network: which one of the checkpoint, such as the teacher; by default the one whose figures are reported.
    changes: mode, window, stride or border other than in the run's task.evaluate, such as mode="sliding" for
        large images.
    """
    unknown = sorted(set(changes) - set(NAMES))
    if unknown:
        raise UserError(f"load: {unknown[0]} is no setting of a prediction; there are {', '.join(NAMES)}")
    runtime = Runtime()
    if runtime.world > 1:
        raise UserError("predicting takes one process: start it with python, not with a launcher")
    folder = on_this_machine(run)
    if (folder / "trainer.json").exists():
        if checkpoint is not None:
            raise UserError(f"{run} is a checkpoint itself: leave `checkpoint` out, or name the run's folder")
        place = folder.resolve()  # `last` is a link
        folder = place.parent if place.name == "best" else place.parent.parent
        checkpoint = place.name if place.name == "best" else int(place.name.removeprefix("step_"))
    return Run(restore(folder, "last" if checkpoint is None else str(checkpoint), network, runtime, changes))


def open_shards(place: str | Path, select: str | Path | None = None) -> Samples:
    """The samples of a shard set in a folder or behind a URL.

    select: a subset, or a key-list file such as a split's labeled.txt; None: all of them.
    """
    shards = ShardSet.open(place)
    return Samples(shards, np.arange(len(shards)) if select is None else shards.rows(select))


class Run:
    """A trained network and what it was trained for.

    Attributes:
        folder: its checkpoint.
        step: optimiser steps it was trained for.
        config: the run's configuration.
        classes, colors: the name and RGB of each class id.
        prepared: what packing did to the images that it learnt from, which `read` does too; put another one
            in its place to read otherwise.
        knows_preparation: whether the checkpoint, or its shards, say so; else files are read as they are.
        task, network: what it was trained for, and the torch module, in eval mode.
    """

    def __init__(self, found: Restored) -> None:
        self.folder: Path = found.folder
        self.step: int = found.state.step
        self.config: RunConfig = found.config
        self.task = found.task
        self.classes: tuple[str, ...] = tuple(found.task.taxonomy.names)
        self.colors: Colors = tuple(found.task.taxonomy.colors)
        self.prepared: Preparation = found.prepared or Preparation()
        self.knows_preparation: bool = found.prepared is not None
        self.network = found.net

    def read(self, path: str | Path, second: str | Path | None = None) -> np.ndarray:
        """A file's image as `predict` takes it: [H, W, 3] of a photograph, [2, H, W, 3] of one and its second
        date, [H, W, 1] of a slice and [D, H, W, 1] of a volume (.h5, .nii, .nii.gz) for a medical run;
        [H, W, C] or [2, H, W, C] of rasters for a run on bands.

        Read and changed as packing did with the images that the run learnt from, see `prepared`: photos
        upright, smaller if the recipe says so.
        DataError: a file that packing would refuse, or of another kind than the run was trained on. OSError:
        none.
        """
        return self.open_file(path, second)[0]

    def open_file(
        self, path: str | Path, second: str | Path | None = None
    ) -> tuple[np.ndarray, tuple[int, int]]:
        """The same, and the height and width of the file's own image or slices."""
        return self.reader.open_file(path, second)

    def predict_file(self, path: str | Path, second: str | Path | None = None) -> np.ndarray:
        """uint8 [H, W], of a volume [D, H, W]: class ids in the size of the file as people see it, photos
        upright. Where images were made smaller, each pixel has the id of the nearest one that was predicted.
        Errors as `read`.
        """
        image, size = self.open_file(path, second)
        return restored(self.predict(image), size)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """uint8 [H, W]: the class id of each pixel; [B, H, W] where `images` has one more axis in front.

        images: uint8 [H, W, 3] RGB, [2, H, W, 3] of two dates, or, grey, [H, W] or [H, W, 1] of 8 or 16 bits,
            whose largest possible value is white; values as in the file, not scaled, and of the size that
            `read` gives. Of a run on bands: [H, W, C] as `read` gives them, scaled as packing did.
        UserError: another shape or type. DataError: too large for the memory in one pass.
        """
        batch, single = self.batched(np.asarray(images))
        labels = []
        with torch.inference_mode():
            for part in self.passes(batch):
                labels.append(self.task.predict(self.network, part).to("cpu", torch.uint8).numpy())
        return labels[0][0] if single else np.concatenate(labels)

    def passes(self, batch: np.ndarray) -> Iterator[torch.Tensor]:
        """Parts of a batch of images as the task decodes them, on the device. DataError as `predict`."""
        return passes(self.network, batch, in_one_pass(self.config))

    def overlay(self, image: np.ndarray, labels: np.ndarray, alpha: float = 0.5) -> np.ndarray:
        """uint8 [H, W, 3]: class ids [H, W] in colour over one image, its dates side by side.

        alpha: strength of the colours, 0 to 1.
        """
        batch, single = self.batched(np.asarray(image))
        if not single:
            raise UserError("overlay takes one image at a time")
        return overlay(self.task, batch[0], labels, alpha)

    @property
    def reader(self) -> Reader:
        """What reads files as `prepared` says."""
        return Reader(self.task, self.prepared)

    def batched(self, given: np.ndarray) -> tuple[np.ndarray, bool]:
        """`given` as the task decodes images, behind a batch axis, and whether it had none."""
        return self.reader.batched(given)


@dataclass(frozen=True)
class Sample:
    """One sample of a shard set.

    image: as Run.predict takes it: uint8 [H, W, 3], [2, H, W, 3] of a pair, [H, W] of a grey file.
    label: uint8 [H, W] of class ids, 255 where nothing is labelled; None: it has no mask.
    """

    key: str
    image: np.ndarray
    label: np.ndarray | None


class Samples:
    """Samples of a shard set by number or key, also as a map-style data set for torch's DataLoader.

    Attributes:
        shards: the set.
        rows: of the samples in its index.
        classes, colors: the name and RGB of each class id.
        subsets: names of the set's subsets.
    """

    def __init__(self, shards: ShardSet, rows: np.ndarray) -> None:
        self.shards = shards
        self.rows = rows
        self.classes: tuple[str, ...] = tuple(shards.taxonomy.names)
        self.colors: Colors = tuple(shards.taxonomy.colors)
        self.subsets: tuple[str, ...] = tuple(shards.subsets)

    @cached_property
    def keys(self) -> list[str]:
        """The samples' keys, in their order."""
        return self.shards.keys(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Sample]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, which: int | str) -> Sample:
        """The sample of a number, also counted from the end, or of a key. IndexError, KeyError: none such."""
        if isinstance(which, str):
            try:
                which = self.keys.index(which)
            except ValueError:
                raise KeyError(which) from None
        record = self.shards.read(int(self.rows[which]))
        if record.second is not None:
            decode = decode_rgb if self.shards.bands() is None else decode_image
            first, second = (decode(data, record.where) for data in (record.image, record.second))
            image = stack_dates(first, second, record.where)
        else:
            image = decode_image(record.image, record.where)
            if (
                self.shards.bands() is None
                and image.ndim == 3
                and image_header(record.image, record.where).channels == 1
            ):
                image = image[..., 0]
        label = None
        if record.label is not None:
            label = decode_label(record.label, record.where)
            check_label(label, len(self.classes), record.where)
        return Sample(record.key, image, label)
