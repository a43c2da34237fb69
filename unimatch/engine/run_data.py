"""The shards of a run and the samples that its configuration names, checked against task and method."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path

import numpy as np

from unimatch import shipped
from unimatch.codecs.bands import Bands
from unimatch.engine.label_sets import open_pseudo
from unimatch.engine.run_config import CacheConfig, RunConfig, UnlabeledSet
from unimatch.engine.selection import Learned, PseudoLabeled, Selection, Unlabeled, select
from unimatch.errors import DataError, UserError
from unimatch.methods.base import Method
from unimatch.registry import nearest
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.key_list import Published, list_hash, read_list
from unimatch.tasks.base import Task

SPLITS = "splits"  # the kind of shipped file


def open_shards(place: str, cache: CacheConfig) -> ShardSet:
    """The shard set in a folder or behind a URL."""
    return ShardSet.open(place, cache=cache.opened())


@dataclass(frozen=True)
class Lists:
    """The samples that a run learns from."""

    labeled: Selection
    unlabeled: Unlabeled | None
    pseudo: PseudoLabeled | None = None

    @property
    def learned(self) -> Learned:
        return Learned(self.labeled, self.pseudo)


@dataclass(frozen=True)
class RunData(Lists):
    """The shards of a run and the samples that its lists name."""

    _: KW_ONLY
    shards: ShardSet
    val: Selection | None

    @property
    def bands(self) -> Bands | None:
        """What the channels of the images are, with the statistics of the subsets that labelled samples are
        of; None: ordinary pictures."""
        return self.shards.bands(self.labeled.rows)

    @property
    def selections(self) -> dict[str, Selection]:
        """Every list by the name of its setting, without `data`."""
        found = {"labeled": self.labeled}
        sets = () if self.unlabeled is None else self.unlabeled.sets
        many = len(sets) > 1
        found |= {f"unlabeled[{n}]" if many else "unlabeled": one for n, one in enumerate(sets)}
        more = {"pseudo": self.pseudo, "val": self.val}
        return found | {name: one for name, one in more.items() if one is not None}

    @property
    def hashes(self) -> dict[str, str]:
        """Of "labeled", "unlabeled", "pseudo" and "val", as far as they are given."""
        lists = {"labeled": self.labeled, "unlabeled": self.unlabeled}
        lists |= {"pseudo": self.pseudo, "val": self.val}
        return {name: one.hash for name, one in lists.items() if one is not None}


def open_data(config: RunConfig) -> RunData:
    """What the configuration's `data` names; opened once, for the preflight and for the trainer."""
    shards = open_shards(config.data.shards, config.data.cache)
    lists = training_samples(config, shards)
    val = select(shards, config.data.val) if config.data.val else None
    return RunData(lists.labeled, lists.unlabeled, lists.pseudo, shards=shards, val=val)


def training_samples(config: RunConfig, shards: ShardSet) -> Lists:
    """The labelled samples and, if the configuration names any, the unlabelled and pseudo-labelled ones."""
    found = _named(config, shards)
    return replace(found, pseudo=open_pseudo(config.data, shards, found.labeled))


def _named(config: RunConfig, shards: ShardSet) -> Lists:
    data = config.data
    if data.split is not None:
        labeled, rest = divided(shards, data.split)
        return Lists(labeled, Unlabeled((rest,)) if config.batch.unlabeled else None)
    assert data.labeled is not None, "a split, or labelled samples"
    unlabeled = None
    if isinstance(data.unlabeled, list):
        unlabeled = _several(shards, data.unlabeled, data.cache)
    elif data.unlabeled:
        unlabeled = Unlabeled((select(shards, data.unlabeled),))
    return Lists(select(shards, data.labeled), unlabeled)


def _several(shards: ShardSet, sets: list[UnlabeledSet], cache: CacheConfig) -> Unlabeled:
    """UserError: a sample in two of the sets, or images of another kind than those of the run's shards."""
    opened = {_identity(shards): shards}
    found: list[Selection] = []
    for number, one in enumerate(sets):
        where = f"data.unlabeled[{number}]"
        other = shards if one.shards is None else open_shards(one.shards, cache)
        other = opened.setdefault(_identity(other), other)
        try:
            mine = select(other, one.samples)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        _require_same_bands(shards, other, where)
        for before, earlier in enumerate(found):
            both = np.intersect1d(mine.rows, earlier.rows) if earlier.shards is other else mine.rows[:0]
            if len(both):
                raise UserError(
                    f"{len(both)} samples are in data.unlabeled[{before}] and in {where} (first: "
                    f"{other.keys(both[:1])[0]}): name each sample once, and give its set a larger weight"
                )
        found.append(mine)
    weights = tuple(one.weight for one in sets if one.weight is not None)
    return Unlabeled(tuple(found), weights or None)


def _identity(shards: ShardSet) -> str:
    """Equal for one shard set in two places, or under two names."""
    return str(shards.info["index"]["sha256"])


def _require_same_bands(shards: ShardSet, other: ShardSet, where: str) -> None:
    mine, theirs = shards.bands(), other.bands()
    kinds = [
        "ordinary pictures"
        if one is None
        else f"{one.describe()} with the ranges {[list(pair) for pair in one.ranges]}"
        for one in (mine, theirs)
    ]
    if kinds[0] != kinds[1]:
        raise UserError(
            f"{where}: {other.root} has {kinds[1]}, the labelled samples are {kinds[0]}; pack them with the "
            "same bands, depth and scaling"
        )


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
        Selection(shards, name, labeled, list_hash(shards.keys(labeled))),
        Selection(shards, f"{told.subset} without {name}", rest, list_hash(shards.keys(rest))),
    )


def check_samples(config: RunConfig, data: RunData, task: Task, method: Method) -> None:
    """UserError unless the samples named are what the task and the method train on, and others evaluate."""
    require_unlabeled(config, data.unlabeled, method)
    for name, selection in data.selections.items():
        if name != "val":
            require_dates(selection, task)
    require_labels(data.labeled)
    _refuse_overlap(data)


def require_unlabeled(config: RunConfig, unlabeled: Unlabeled | None, method: Method) -> None:
    """UserError if the method uses unlabelled samples and the configuration names none."""
    missing = []
    if method.views.unlabeled and unlabeled is None and config.data.split is None:
        missing.append("data.unlabeled")
    if method.views.unlabeled and not config.batch.unlabeled:
        missing.append("batch.unlabeled")
    if missing:
        raise UserError(f"method {config.method.name} uses unlabelled samples: set {' and '.join(missing)}")


def require_dates(selection: Selection, task: Task) -> None:
    rows, shards = selection.rows, selection.shards
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


def require_labels(selection: Selection) -> None:
    rows, shards = selection.rows, selection.shards
    without = rows[shards.index["label_size"][rows] == 0]
    if len(without):
        keys = ", ".join(shards.keys(without[:5]))
        raise UserError(
            f"{len(without)} of the {len(rows)} samples of {selection.name!r} have no label mask "
            f"(first: {keys}); only data.unlabeled may name such samples"
        )


def _refuse_overlap(data: RunData) -> None:
    for name, one in data.selections.items():
        if data.val is None or name == "val" or one.shards is not data.val.shards:
            continue
        both = np.intersect1d(data.val.rows, one.rows)
        if len(both):
            keys = ", ".join(data.shards.keys(both[:5]))
            raise UserError(
                f"{len(both)} samples are in data.{name} and in data.val (first: {keys}): evaluating on "
                f"training images says nothing; remove them from one of the two lists"
            )
