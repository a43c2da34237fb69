"""Samples that a configuration names: rows of shard sets, with hashes by which they are known again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from unimatch.data.orders import Mix
from unimatch.data.samples import Pool, Pseudo, Samples
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.key_list import list_hash

SIZES = ("width", "height", "image_size", "second_size", "label_size")  # fields of the index


@dataclass(frozen=True)
class Selection:
    """Rows of a shard set that a configuration names, and the hash of their keys."""

    shards: ShardSet
    name: str
    rows: np.ndarray
    hash: str

    @property
    def samples(self) -> Samples:
        return Samples(self.shards, self.rows)

    def spread(self, count: int) -> Selection:
        """At most `count` of the samples, see `evenly`."""
        if len(self.rows) <= count:
            return self
        return Selection(self.shards, self.name, evenly(self.rows, count), "")


@dataclass(frozen=True)
class PseudoLabeled(Selection):
    """Samples that get their labels from label sets; the hash is of keys and labels."""

    labels: Pseudo


@dataclass(frozen=True)
class Learned:
    """The labelled side of a run: samples with labels of their own, and those that label sets add.

    As in ST, the own ones are listed as often as it takes to be no fewer than the others.
    """

    own: Selection
    pseudo: PseudoLabeled | None = None

    def __len__(self) -> int:
        return listed(len(self.own.rows), 0 if self.pseudo is None else len(self.pseudo.rows))

    @property
    def samples(self) -> Samples:
        if self.pseudo is None:
            return self.own.samples
        own = np.tile(self.own.rows, self._times)
        return Samples(self.own.shards, np.concatenate([own, self.pseudo.rows]), self.pseudo.labels)

    @property
    def sizes(self) -> np.ndarray:
        """For the plan: samples in each shard, a shard of repeated ones counting as often."""
        own = self.own.shards.shard_sizes(self.own.rows)
        if self.pseudo is None:
            return own
        return np.concatenate([np.tile(own, self._times), self.own.shards.shard_sizes(self.pseudo.rows)])

    @property
    def _times(self) -> int:
        assert self.pseudo is not None
        return max(1, -(-len(self.pseudo.rows) // len(self.own.rows)))


def listed(own: int, pseudo: int) -> int:
    """How many samples the labelled side lists, see Learned."""
    return own * max(1, -(-pseudo // own)) + pseudo


@dataclass(frozen=True)
class Unlabeled:
    """The unlabelled samples: one selection, or several with their weights (None: by their numbers)."""

    sets: tuple[Selection, ...]
    weights: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return sum(len(one.rows) for one in self.sets)

    @property
    def hash(self) -> str:
        """Of one set that of its keys; of several, of their samples as `samples_hash` sees them."""
        if len(self.sets) == 1:
            return self.sets[0].hash
        return _hash("\n".join(samples_hash(one.shards, one.rows) for one in self.sets).encode())

    @property
    def pool(self) -> Pool:
        return Pool([one.samples for one in self.sets])

    @property
    def mix(self) -> Mix:
        """For the plan."""
        return Mix([one.shards.shard_sizes(one.rows) for one in self.sets], self.weights)

    def shares(self) -> list[float]:
        """The part of a batch that each set has, in the long run."""
        weights = self.weights or [len(one.rows) for one in self.sets]
        return [weight / sum(weights) for weight in weights]


def select(shards: ShardSet, name: str) -> Selection:
    """The samples of a subset, or of a key-list file."""
    rows = shards.rows(name)
    return Selection(shards, name, rows, list_hash(shards.keys(rows)))


def evenly(items: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of some items, spread evenly from the first to the last."""
    chosen = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(np.int64)
    return np.asarray(items[np.unique(chosen)])


def samples_hash(shards: ShardSet, rows: np.ndarray) -> str:
    """16 hex digits of the keys of some samples and of the sizes of their images and masks, in pixels and in
    bytes: the same keys packed from other files, or with another recipe, are other samples.
    """
    sizes = np.stack([shards.index[name][rows].astype(np.int64) for name in SIZES])
    return _hash(list_hash(shards.keys(rows)).encode() + sizes.tobytes())


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
