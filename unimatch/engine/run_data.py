"""The shards of a run and the samples that its configuration names, checked against task and method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unimatch.codecs.bands import Bands
from unimatch.engine.run_config import CacheConfig, RunConfig
from unimatch.errors import UserError
from unimatch.methods.base import Method
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.cache import GIGABYTE, Cache, default_folder
from unimatch.shardset.key_list import list_hash
from unimatch.tasks.base import Task


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
    names = {"labeled": config.data.labeled, "unlabeled": config.data.unlabeled, "val": config.data.val}
    return RunData(shards, {name: select(shards, spec) for name, spec in names.items() if spec})


def check_samples(config: RunConfig, data: RunData, task: Task, method: Method) -> None:
    """UserError unless the samples named are what the task and the method train on, and others evaluate."""
    _require_unlabeled(config, method)
    for name in ("labeled", "unlabeled"):
        if name in data.selections:
            require_dates(data.shards, data.selections[name], task)
    require_labels(data.shards, data.selections["labeled"])
    if "val" in data.selections:
        _refuse_overlap(data)


def _require_unlabeled(config: RunConfig, method: Method) -> None:
    missing = []
    if method.views.unlabeled and not config.data.unlabeled:
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
