"""Label sets: class ids by key, which go with a shard set of images without copying it.

The files are those of a shard set, see archive; a sample is the member `<key>.label.npy.zst` or `.png` alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from unimatch.codecs.decode import check_label, class_counts, decode_label
from unimatch.durable import replace_file
from unimatch.errors import DataError, summary
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.cache import Cache
from unimatch.shardset.index import INDEX_JSON, Shard
from unimatch.shardset.names import LABELS
from unimatch.shardset.remote import is_url
from unimatch.shardset.scan import scan_tar, tars_in
from unimatch.shardset.writer import ShardWriter, finish_set
from unimatch.taxonomy import Taxonomy

SUBSET = "labels"  # how the tars of a new set are called
BEGUN = ".begun.json"  # by what an unfinished set is made


class LabelSet(ShardSet):
    """An opened label set; as a ShardSet, safe in threads and forked workers, and picklable."""

    kind: ClassVar[str] = LABELS
    other_kind: ClassVar[str] = "is a shard set of images and no label set, which unimatch predict writes"

    @classmethod
    def open(cls, root: str | Path, taxonomy: Taxonomy | None = None, cache: Cache | None = None) -> LabelSet:
        """As ShardSet.open, but nothing is indexed. DataError: no label set, a damaged one, other classes."""
        if not is_url(root) and not (Path(root) / INDEX_JSON).exists():
            what = f"has no {INDEX_JSON}: an unfinished label set" if Path(root).is_dir() else "is no folder"
            raise DataError(f"{root} {what}; unimatch predict RUN --data LIST --labels {root} makes one")
        found = super().open(root, taxonomy, cache)
        assert isinstance(found, cls)
        return found

    @property
    def hash(self) -> str:
        """16 hex digits of all keys and labels, whatever else changes."""
        names = "\n".join([self.taxonomy.hash, *(shard["sha256"] for shard in self.info["shards"])])
        return hashlib.sha256(names.encode()).hexdigest()[:16]

    def rows_in(self, images: ShardSet) -> np.ndarray:
        """int64 [len(self)]: the row of each label's image. DataError: a key that is not there, or an image
        of another size.
        """
        keys = self.index["key"]
        order = self.index["by_key"]  # neighbouring searches touch the same pages
        rows = np.empty(len(keys), np.int64)
        rows[order] = images.find(keys[order])
        lost = self.keys(np.flatnonzero(rows < 0))
        if lost:
            raise DataError(
                f"{self.root}: {len(lost)} of its {len(rows)} keys are not in {images.root}: "
                f"{summary(map(repr, lost))}; a label set goes with the images that were labelled"
            )
        sizes = [np.stack([one["width"], one["height"]], 1) for one in (self.index, images.index[rows])]
        other = np.flatnonzero((sizes[0] != sizes[1]).any(1))
        if len(other):
            (key,), pair = self.keys(other[:1]), ["x".join(map(str, one[other[0]])) for one in sizes]
            raise DataError(
                f"{self.root}: {len(other)} of its {len(rows)} labels have another size than the image in "
                f"{images.root} (first: {key}, label {pair[0]}, image {pair[1]}); label the images as they "
                "were packed"
            )
        return rows

    def read_label(self, row: int) -> tuple[bytes, str]:
        """The bytes of a label, see decode.decode_label, and "shard:key" for messages."""
        entry = self.index[row]
        where = f"{self.root}/{self.shard_names[entry['shard']]}:{entry['key'].decode()}"
        size, offset = int(entry["label_size"]), int(entry["label_offset"])
        return self._pread(int(entry["shard"]), size, offset, where), where


@contextmanager
def label_writer(
    root: Path, taxonomy: Taxonomy, created: Mapping[str, Any], max_samples: int = 10_000
) -> Iterator[ShardWriter]:
    """Writes a label set with `add_label`; it is complete, with its index, when this ends.

    What an earlier writer was killed over goes on: `writer.shards` holds the shards that it finished, and
    samples come in the same order. Then the bytes are those of a writer that was never stopped. DataError:
    what lies there is of other classes, or of another `created`, or damaged.
    """
    root.mkdir(parents=True, exist_ok=True)
    begun, mine = root / BEGUN, json.dumps(created).encode()
    if begun.exists() and (others := differing(begun.read_bytes(), mine)):
        raise DataError(
            f"{root} holds labels that were begun with another {', '.join(others)}: remove it, or choose "
            "another folder"
        )
    replace_file(begun, mine)
    for stale in root.glob(f".{SUBSET}-*.tmp-*"):
        stale.unlink()
    kept = [_counted(path, taxonomy) for path in tars_in(root)]
    with ShardWriter(root, SUBSET, max_samples=max_samples, kept=kept) as writer:
        yield writer
    finish_set(root, taxonomy, created, [writer], kind=LABELS)
    begun.unlink()


def differing(begun: bytes, now: bytes) -> list[str]:
    """The settings in which two JSON objects differ, by name."""
    before, after = json.loads(begun), json.loads(now)
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


def _counted(path: Path, taxonomy: Taxonomy) -> Shard:
    """A finished shard of labels, with the pixels of each class."""
    shard = scan_tar(path, SUBSET, kind=LABELS)
    total = np.zeros(taxonomy.num_classes, np.int64)
    with open(path, "rb") as file:
        for sample in shard.samples:
            file.seek(sample.label_offset)
            where = f"{path.name}:{sample.key.decode()}"
            label = decode_label(file.read(sample.label_size), where)
            check_label(label, taxonomy.num_classes, where)
            total += class_counts(label, taxonomy.num_classes)
    return Shard(shard.name, SUBSET, shard.size_bytes, shard.sha256, shard.samples, total)


def written(writer: ShardWriter) -> Sequence[str]:
    """The keys that the shards of a writer hold already."""
    return [sample.key.decode() for shard in writer.shards for sample in shard.samples]
