"""The shards of a run and the samples that its configuration names, checked against task and method."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unimatch import shipped
from unimatch.codecs.bands import Bands
from unimatch.engine.run_config import CacheConfig, RunConfig
from unimatch.errors import DataError, UserError
from unimatch.methods.base import Method
from unimatch.registry import nearest
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.cache import GIGABYTE, Cache, default_folder
from unimatch.shardset.key_list import Published, list_hash, read_list
from unimatch.tasks.base import Task

SPLITS = "splits"  # the kind of shipped file
SIZES = ("width", "height", "image_size", "second_size", "label_size")  # fields of the index


@dataclass(frozen=True)
class Selection:
    """Rows of a shard set that a configuration names, and the hash of their keys."""

    name: str
    rows: np.ndarray
    hash: str


def open_shards(place: str, cache: CacheConfig) -> ShardSet:
    """The shard set in a folder or behind a URL."""
    return ShardSet.open(place, cache=Cache(cache.folder or default_folder(), int(cache.size_gb * GIGABYTE)))


def select(shards: ShardSet, name: str) -> Selection:
    """The samples of a subset, or of a key-list file."""
    rows = shards.rows(name)
    if not len(rows):
        raise UserError(f"{name!r} names no samples in {shards.root}")
    return Selection(name, rows, list_hash(shards.keys(rows)))


def samples_hash(shards: ShardSet, rows: np.ndarray) -> str:
    """16 hex digits of the keys of some samples and of the sizes of their images and masks, in pixels and in
    bytes: the same keys packed from other files, or with another recipe, are other samples.
    """
    sizes = np.stack([shards.index[name][rows].astype(np.int64) for name in SIZES])
    return hashlib.sha256(list_hash(shards.keys(rows)).encode() + sizes.tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class RunData:
    """The shards of a run and the samples that its lists name: "labeled", "unlabeled" and "val" if set."""

    shards: ShardSet
    selections: dict[str, Selection]

    @property
    def bands(self) -> Bands | None:
        """What the channels of the images are, with the statistics of the subsets that labelled samples are
        of; None: ordinary pictures."""
        return self.shards.bands(self.selections["labeled"].rows)


def open_data(config: RunConfig) -> RunData:
    """What the configuration's `data` names; opened once, for the preflight and for the trainer."""
    shards = open_shards(config.data.shards, config.data.cache)
    val = {"val": select(shards, config.data.val)} if config.data.val else {}
    return RunData(shards, training_samples(config, shards) | val)


def training_samples(config: RunConfig, shards: ShardSet) -> dict[str, Selection]:
    """The "labeled" and, if the configuration names any, the "unlabeled" samples."""
    data = config.data
    if data.split is not None:
        labeled, rest = divided(shards, data.split)
        return {"labeled": labeled, "unlabeled": rest} if config.batch.unlabeled else {"labeled": labeled}
    names = {"labeled": data.labeled, "unlabeled": data.unlabeled}
    return {name: select(shards, spec) for name, spec in names.items() if spec}


def split_file(name: str) -> Path:
    """The key list of a split: a file, or a published one by its name. UserError: neither."""
    path = shipped.found(name, SPLITS)
    if not path.is_file():
        told = nearest(name, shipped.of_kind(SPLITS))
        raise UserError(
            f"data.split {name!r}: no such file, nor a published split; "
            + (told if told.startswith("did you mean") else "`unimatch where` lists the published ones")
        )
    return path


def divided(shards: ShardSet, name: str) -> tuple[Selection, Selection]:
    """The labelled samples of a split and the rest of the subset that it divides. UserError: other data."""
    path = split_file(name)
    told = read_list(path)[1] or Published(0, "train", "")
    try:
        labeled, pool = shards.rows(path), shards.rows(told.subset)
    except DataError as error:
        again = (
            ". A published split has the keys that our recipe makes; for a set packed otherwise: unimatch "
            f"split --shards {shards.root} --list {name} --out FOLDER, then data.labeled and data.unlabeled"
        )
        raise DataError(f"data.split {name}: {error}{again if told.total else ''}") from None
    outside = np.setdiff1d(labeled, pool)
    if len(outside):
        raise DataError(
            f"data.split {name}: {len(outside)} of its keys are not in subset {told.subset!r} of "
            f"{shards.root}, of which it is a part (first: {shards.keys(outside[:1])[0]}); give data.labeled "
            "and data.unlabeled"
        )
    if told.total not in (0, len(pool)):
        raise DataError(
            f"data.split {name} divides {told.total} samples, but subset {told.subset!r} of {shards.root} "
            f"has {len(pool)}: pack them all (Pascal's with recipe pascal_aug), or, if this is meant, give "
            "data.labeled and data.unlabeled"
        )
    rest = np.setdiff1d(pool, labeled)
    if not len(rest):
        raise DataError(f"data.split {name} names all samples of {told.subset!r}: none is left unlabelled")
    return (
        Selection(name, labeled, list_hash(shards.keys(labeled))),
        Selection(f"{told.subset} without {name}", rest, list_hash(shards.keys(rest))),
    )


def check_samples(config: RunConfig, data: RunData, task: Task, method: Method) -> None:
    """UserError unless the samples named are what the task and the method train on, and others evaluate."""
    require_unlabeled(config, data.selections, method)
    for name in ("labeled", "unlabeled"):
        if name in data.selections:
            require_dates(data.shards, data.selections[name], task)
    require_labels(data.shards, data.selections["labeled"])
    if "val" in data.selections:
        _refuse_overlap(data)


def require_unlabeled(config: RunConfig, selections: dict[str, Selection], method: Method) -> None:
    """UserError if the method uses unlabelled samples and the configuration names none."""
    missing = []
    if method.views.unlabeled and "unlabeled" not in selections and config.data.split is None:
        missing.append("data.unlabeled")
    if method.views.unlabeled and not config.batch.unlabeled:
        missing.append("batch.unlabeled")
    if missing:
        raise UserError(f"method {config.method.name} uses unlabelled samples: set {' and '.join(missing)}")


def require_dates(shards: ShardSet, selection: Selection, task: Task) -> None:
    rows = selection.rows
    dates = 1 + (shards.index["second_size"][rows] > 0)
    wrong = rows[dates != task.dates]
    if not len(wrong):
        return
    found, advice = "pairs of images", "this task reads single ones; pairs are for task change"
    if task.dates == 2:
        found, advice = "single images", "this task reads pairs; pack them with a recipe that has `second`"
    keys = ", ".join(shards.keys(wrong[:5]))
    raise UserError(
        f"{len(wrong)} of the {len(rows)} samples of {selection.name!r} are {found} (first: {keys}); {advice}"
    )


def require_labels(shards: ShardSet, selection: Selection) -> None:
    rows = selection.rows
    without = rows[shards.index["label_size"][rows] == 0]
    if len(without):
        keys = ", ".join(shards.keys(without[:5]))
        raise UserError(
            f"{len(without)} of the {len(rows)} samples of {selection.name!r} have no label mask "
            f"(first: {keys}); only data.unlabeled may name such samples"
        )


def _refuse_overlap(data: RunData) -> None:
    val = data.selections["val"]
    for name in (name for name in data.selections if name != "val"):
        both = np.intersect1d(val.rows, data.selections[name].rows)
        if len(both):
            keys = ", ".join(data.shards.keys(both[:5]))
            raise UserError(
                f"{len(both)} samples are in data.{name} and in data.val (first: {keys}): evaluating on "
                f"training images says nothing; remove them from one of the two lists"
            )
