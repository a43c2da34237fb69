"""Writing shard sets: the same samples in the same order give the same bytes, on any machine."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from unimatch.codecs.bands import Bands
from unimatch.durable import sync
from unimatch.errors import DataError, summary
from unimatch.shardset import index as shard_index
from unimatch.shardset.index import BLOCK, INDEX_JSON, Sample, Shard, local_folder
from unimatch.shardset.names import IMAGE_EXTENSIONS, IMAGES, LABEL_EXTENSIONS, key_problem, shard_name
from unimatch.shardset.scan import scan
from unimatch.taxonomy import Taxonomy

TAR_RECORD = 20 * BLOCK  # tars end on a multiple of this


class ShardWriter:
    """Writes `<root>/<subset>-00000.tar ...`; a context manager. Same samples, same order: same bytes.

    A shard is written to a temporary name and renamed; on an exception the open one is removed. The set is
    usable only after `finish_set`. `kept`: the first shards of the subset, which lie there already.
    DataError: the folder holds an index or other shards of this subset.
    """

    def __init__(
        self,
        root: str | Path,
        subset: str,
        *,
        max_bytes: int = 256 << 20,
        max_samples: int = 10_000,
        kept: Sequence[Shard] = (),
    ) -> None:
        self.root = local_folder(root)
        self.subset = subset
        self.max_bytes = max_bytes
        self.max_samples = max_samples
        self.shards: list[Shard] = list(kept)
        self._keys = {sample.key.decode() for shard in kept for sample in shard.samples}
        self._counts: list[np.ndarray | None] = []  # of each labelled sample of the open shard
        self._band_sums: list[np.ndarray] = []  # of each sample of it that has bands
        self._samples: list[Sample] = []
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._offset = 0
        if not re.fullmatch(r"[A-Za-z0-9_]+", subset):
            raise DataError(f"subset name {subset!r}: use letters, digits and _ only")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot make the folder {self.root}: {error.strerror}") from error
        found = {path.name for path in self.root.glob(f"{subset}-*.tar")} - {shard.name for shard in kept}
        if (self.root / INDEX_JSON).exists() or found:
            raise DataError(
                f"{self.root} already holds shards ({summary(sorted(found) or [INDEX_JSON])}); "
                "remove the folder or choose another"
            )

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None:
            self._close_shard()
        elif self._file is not None:
            self._file.close()
            self._temporary.unlink(missing_ok=True)

    @property
    def _name(self) -> str:
        return shard_name(self.subset, len(self.shards))

    @property
    def _temporary(self) -> Path:
        return self.root / f".{self._name}.tmp-{os.getpid()}"

    def add(
        self,
        key: str,
        image: bytes,
        image_ext: str,
        label: bytes | None,
        width: int,
        height: int,
        class_counts: Sequence[int] | np.ndarray | None = None,
        *,
        label_ext: str = "npy.zst",
        second: bytes | None = None,
        band_sums: np.ndarray | None = None,
    ) -> None:
        """Append a sample. `label`: class ids in a file of type `label_ext`, or None for a mask-free sample.
        `second`: the later image of a pair, of the same type and size as the first.

        `class_counts`: [num_classes] pixels of each class (ignored ones not counted); the subset's total goes
        into the index if every labelled sample brings it. `band_sums`: [3, C], see bands.sums_of. Bytes are
        stored as they are and not decoded here.
        """
        if image_ext not in IMAGE_EXTENSIONS:
            raise DataError(f"{key}: image type {image_ext!r}; allowed: {', '.join(IMAGE_EXTENSIONS)}")
        self._check_names(key, label_ext)
        for what, data in (("image", image), ("second image", second), ("label", label)):
            if data is not None and not data:
                raise DataError(f"{key}: the {what} file is empty")
        members = [(f"{key}.{image_ext}", image)]
        if second is not None:
            members = [(f"{key}.a.{image_ext}", image), (f"{key}.b.{image_ext}", second)]
        if label is not None:
            members.append((f"{key}.label.{label_ext}", label))
        places = self._write_members(members)
        self._samples.append(
            Sample(
                key=key.encode(),
                image_offset=places[0],
                image_size=len(image),
                image_ext=image_ext.encode(),
                second_offset=0 if second is None else places[1],
                second_size=len(second or b""),
                label_offset=0 if label is None else places[-1],
                label_size=len(label or b""),
                label_ext=b"" if label is None else label_ext.encode(),
                width=width,
                height=height,
            )
        )
        self._keys.add(key)
        if label is not None:
            self._counts.append(None if class_counts is None else np.asarray(class_counts, np.int64))
        if band_sums is not None:
            self._band_sums.append(band_sums)

    def add_label(
        self, key: str, label: bytes, label_ext: str, size: tuple[int, int], class_counts: np.ndarray
    ) -> None:
        """Append a sample of a label set; `size`: width and height. Else as `add`."""
        self._check_names(key, label_ext)
        (place,) = self._write_members([(f"{key}.label.{label_ext}", label)])
        self._samples.append(
            Sample(key.encode(), 0, 0, b"", 0, 0, place, len(label), label_ext.encode(), *size)
        )
        self._keys.add(key)
        self._counts.append(np.asarray(class_counts, np.int64))

    def _write_members(self, members: Sequence[tuple[str, bytes]]) -> list[int]:
        """Append the members of one sample, in the next shard if they do not fit; the offsets of their
        data.
        """
        headers = [_tar_header(name, len(data)) for name, data in members]
        size = sum(
            len(header) + _padded(len(data)) for header, (_, data) in zip(headers, members, strict=True)
        )
        if self._samples and (len(self._samples) >= self.max_samples or self._offset + size > self.max_bytes):
            self._close_shard()
        return [self._write(header, data) for header, (_, data) in zip(headers, members, strict=True)]

    def _check_names(self, key: str, label_ext: str) -> None:
        problem = key_problem(key)
        if problem or key in self._keys:
            raise DataError(f"key {key!r} {problem or 'occurs twice'}")
        if label_ext not in LABEL_EXTENSIONS:
            raise DataError(f"{key}: label type {label_ext!r}; allowed: {', '.join(LABEL_EXTENSIONS)}")

    def _write(self, header: bytes, data: bytes) -> int:
        """Append one member; the offset of its data."""
        padding = bytes(_padded(len(data)) - len(data))
        try:
            if self._file is None:
                self._file = open(self._temporary, "wb")  # noqa: SIM115 - closed by _close_shard or __exit__
            for part in (header, data, padding):
                self._file.write(part)
                self._digest.update(part)
        except OSError as error:
            raise DataError(f"cannot write {self.root / self._name}: {error.strerror}") from error
        start = self._offset + len(header)
        self._offset = start + len(data) + len(padding)
        return start

    def _close_shard(self) -> None:
        if self._file is None:
            return
        end = self._offset + 2 * BLOCK
        end = -(-end // TAR_RECORD) * TAR_RECORD
        self._write(b"", bytes(end - self._offset))
        try:
            self._file.close()
            sync(self._temporary)  # the index will say that its bytes are there
            os.replace(self._temporary, self.root / self._name)
        except OSError as error:
            self._temporary.unlink(missing_ok=True)
            raise DataError(f"cannot write {self.root / self._name}: {error.strerror}") from error
        counts = [found for found in self._counts if found is not None]
        pixels = np.sum(counts, axis=0) if counts and len(counts) == len(self._counts) else None
        sha256 = self._digest.hexdigest()
        sums = np.sum(self._band_sums, axis=0) if self._band_sums else None
        self.shards.append(Shard(self._name, self.subset, end, sha256, self._samples, pixels, sums))
        self._file, self._samples, self._counts, self._band_sums, self._offset = None, [], [], [], 0
        self._digest = hashlib.sha256()


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _tar_header(name: str, size: int) -> bytes:
    """A member's header with tarfile's defaults (mtime 0, owner 0, mode 644): nothing of this machine."""
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def finish_set(
    root: str | Path,
    taxonomy: Taxonomy,
    created: Mapping[str, Any],
    writers: Iterable[ShardWriter],
    bands: Bands | None = None,
    kind: str = IMAGES,
) -> None:
    """Make a set of what closed writers (one per subset, one folder) wrote: index.npy, then index.json.

    `created`: JSON-able settings of the recipe, without dates, so that the index is reproducible too.
    `bands`: what the channels of its images are, where they are no ordinary pictures. `kind`: of the set.
    DataError: a key in two subsets, no samples at all, or class counts of another number of classes.
    """
    writers = list(writers)
    assert all(writer._file is None for writer in writers), "finish_set before the writer was closed"
    shards = sorted((shard for writer in writers for shard in writer.shards), key=lambda shard: shard.name)
    for shard in shards:
        if shard.class_pixels is not None and shard.class_pixels.shape != (taxonomy.num_classes,):
            raise DataError(
                f"subset {shard.subset}: class counts of shape {shard.class_pixels.shape} for "
                f"{taxonomy.num_classes} classes"
            )
    shard_index.write(local_folder(root), taxonomy, created, shards, bands, kind)


def index_tars(root: str | Path, taxonomy: Taxonomy, label_member: str | None = None) -> None:
    """Index the tars that lie in a folder, whoever wrote them. Image sizes come from the image headers.

    `label_member`: what labels end on, such as seg.png, where it is neither label.png nor label.npy.zst.

    Walks every member once. Any number of processes may do this at the same time: each writes the same files.
    """
    folder = local_folder(root)
    if label_member is not None and not label_member.endswith(LABEL_EXTENSIONS):
        raise DataError(f"labels end on {' or '.join(LABEL_EXTENSIONS)}, found {label_member!r}")
    # ShardSet.check reads the setting when it walks the tars again.
    created = {"by": "indexing of existing tars", "label_member": label_member}
    shard_index.write(folder, taxonomy, created, scan(folder, label_member))
