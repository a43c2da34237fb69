"""Packing against plain `tar`, and reading by index against the webdataset reader and against files."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import webdataset

from unimatch import keyed
from unimatch.benchmarks.timing import in_turns, table
from unimatch.codecs.decode import decode_label
from unimatch.codecs.encode import LabelFormat, encode_label
from unimatch.errors import DataError
from unimatch.packing import folder, synthetic
from unimatch.packing.recipe import Recipe, SubsetSource
from unimatch.shardset.archive import ShardSet

LABELS = 20  # different ones, at most


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images",
        type=Path,
        help="folder of JPEG files to copy until there are enough (default: synthetic scenes of 375x500)",
    )
    parser.add_argument("--count", type=int, default=1000, help="images (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="times each case is measured (%(default)s)")


def run(options: argparse.Namespace) -> str:
    """Markdown: a table for packing, for reading, and for decoding labels."""
    with tempfile.TemporaryDirectory(prefix="unimatch-bench-") as scratch:
        root = Path(scratch)
        size = _make_files(root / "files", options.images, options.count)
        packing = table(in_turns(_packing(root, options.count), options.rounds), "images/s")
        _pack(root, root / "set", workers=1)
        reading = table(in_turns(_reading(root, options.count), options.rounds), "images/s")
    labels = table(in_turns(_labels(min(options.count, LABELS)), options.rounds), "labels/s")
    what = f"{options.count} JPEG files, {size / options.count / 1024:.0f} KiB each"
    return (
        f"Packing, {what}:\n\n{packing}\n\nReading the bytes of each sample, {what}:\n\n{reading}\n\n"
        f"Decoding labels of synthetic scenes, 375x500:\n\n{labels}"
    )


def _make_files(target: Path, source: Path | None, count: int) -> int:
    """`count` JPEG files in `target`; their bytes in all."""
    target.mkdir()
    if source is None:
        contents = []
        for seed in range(min(count, 50)):
            image = synthetic.render(seed, 375, 500)[0]
            contents.append(cv2.imencode(".jpg", image[..., ::-1])[1].tobytes())
    else:
        paths = sorted(path for path in source.rglob("*.jpg"))[:count]
        if not paths:
            raise DataError(f"{source}: no *.jpg below this folder")
        contents = [path.read_bytes() for path in paths]
    for number in range(count):
        (target / f"{number:08d}.jpg").write_bytes(contents[number % len(contents)])
    return sum(len(contents[number % len(contents)]) for number in range(count))


def _packing(root: Path, count: int) -> dict[str, Callable[[], int]]:
    def tar() -> int:
        (root / "plain.tar").unlink(missing_ok=True)
        subprocess.run(["tar", "cf", root / "plain.tar", "-C", root, "files"], check=True)
        return count

    def ours(workers: int, trust_images: bool = False) -> Callable[[], int]:
        def case() -> int:
            shutil.rmtree(root / "packed", ignore_errors=True)
            _pack(root, root / "packed", workers, trust_images)
            return count

        return case

    return {
        "tar": tar,
        "decoded and checked, 1 worker": ours(1),
        "decoded and checked, 2 workers": ours(2),
        "--trust-images, 1 worker": ours(1, trust_images=True),
        "--trust-images, 2 workers": ours(2, trust_images=True),
    }


def _pack(root: Path, out: Path, workers: int, trust_images: bool = False) -> None:
    """Pack `root`/files into `out` in this process, without the start of an interpreter."""
    recipe = Recipe(subsets={"train": SubsetSource(images="files/*.jpg")}, classes=("a", "b"))
    folder.pack(recipe, root, out, workers, trust_images=trust_images)


def _reading(root: Path, count: int) -> dict[str, Callable[[], int]]:
    shards = ShardSet.open(root / "set")
    tars = [str(root / "set" / name) for name in shards.shard_names]
    order = keyed.permutation(keyed.key(0), count).tolist()
    files = sorted((root / "files").iterdir())

    def walk() -> int:
        # Plain tars: no decoding, no shuffling, nothing but the reader itself.
        return sum(1 for _ in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))

    def index(rows: list[int]) -> Callable[[], int]:
        def case() -> int:
            for row in rows:
                shards.read(row)
            return count

        return case

    def single() -> int:
        for number in order:
            files[number].read_bytes()
        return count

    return {
        "webdataset reader": walk,
        "by index, in order": index(np.arange(count).tolist()),
        "by index, random order": index(order),
        "files, random order": single,
    }


def _labels(count: int) -> dict[str, Callable[[], int]]:
    labels = [synthetic.render(seed, 375, 500)[1] for seed in range(count)]
    formats: dict[str, LabelFormat] = {"PNG": "png", "npy.zst": "zst"}
    cases: dict[str, Callable[[], int]] = {}
    for name, label_format in formats.items():
        stored = [encode_label(label, label_format)[0] for label in labels]
        cases[f"{name}, {sum(map(len, stored)) // len(stored):,} bytes each"] = partial(_decode, 20 * stored)
    return cases


def _decode(stored: list[bytes]) -> int:
    for data in stored:
        decode_label(data, "")
    return len(stored)
