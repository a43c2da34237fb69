"""The whole way from files to batches: views on the CPU or on the device, against a literal implementation.

One step is 1 labelled and U unlabelled images in every case; counted are the unlabelled ones, each with one
weak view and two strong ones. Rates are images per second of CPU time (user and system, of this process and
its workers), that is per core, because wall time means little on a shared machine; wall time is beside it.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from unimatch.benchmarks.literal_input import literal_epoch
from unimatch.benchmarks.timing import in_turns, table
from unimatch.codecs.decode import decode_image
from unimatch.codecs.encode import jpeg, png
from unimatch.data.decoded import Decoded, node_memory
from unimatch.data.plan import Plan
from unimatch.data.samples import Pool, Samples
from unimatch.data.training import train_loader
from unimatch.errors import DataError
from unimatch.packing import folder, synthetic
from unimatch.packing.recipe import Recipe, SubsetSource
from unimatch.shardset.archive import ShardSet
from unimatch.views.natural import NaturalViews, ViewConfig

# Our cases make so many times more images a round than the literal one, which takes that much longer: so that
# the start of the workers, 50 to 100 ms, is as small a part of the one as of the other.
OURS = 10
QUALITY = 90  # of made-up JPEG images: about as many bytes a pixel as in photo collections


@dataclass(frozen=True)
class Setting:
    """One table: images of a kind and a crop. With U unlabelled images a step, `images` different ones."""

    name: str
    width: int
    height: int
    ext: str
    crop: int
    unlabeled: int
    images: int


SETTINGS = (
    Setting("voc-321", 500, 375, "jpg", 321, 32, 32),
    Setting("voc-513", 500, 375, "jpg", 513, 16, 32),
    Setting("city-png-801", 2048, 1024, "png", 801, 8, 8),
    Setting("city-jpg-801", 2048, 1024, "jpg", 801, 8, 8),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    names = [setting.name for setting in SETTINGS]
    parser.add_argument("--settings", nargs="+", choices=names, default=names, help="tables (%(default)s)")
    parser.add_argument(
        "--images", type=Path, help="folder of JPEG or PNG files, instead of synthetic scenes"
    )
    parser.add_argument(
        "--count",
        type=int,
        default=128,
        help="images a round of the literal case, of ours 10 times as many; fewer large ones (%(default)s)",
    )
    parser.add_argument("--rounds", type=int, default=5, help="times each case is measured (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="worker processes (%(default)s)")
    parser.add_argument("--crop", type=int, help="side of the crop, instead of the setting's own")


def run(options: argparse.Namespace) -> str:
    """Markdown: a table for each setting."""
    parts = []
    for setting in SETTINGS:
        if setting.name in options.settings:
            with tempfile.TemporaryDirectory(prefix="unimatch-bench-") as scratch:
                parts.append(_measure(Path(scratch), setting, options))
    return "\n\n".join(parts)


def _measure(root: Path, setting: Setting, options: argparse.Namespace) -> str:
    pairs = _make_files(root / "files", setting, options.images)
    crop = options.crop or setting.crop
    # Large images are slower: the time of a round should not depend on the size.
    weight = setting.width * setting.height / (500 * 375) if setting.width > 1000 else (crop / 321) ** 2
    steps = max(1, round(options.count / weight / setting.unlabeled))
    literal = partial(literal_epoch, pairs, crop, steps, setting.unlabeled)
    steps *= OURS
    cases: dict[str, Callable[[], int]] = {
        "literal, torch DataLoader": partial(literal, options.workers),
        "literal, without workers": partial(literal, 0),
    }
    stored = {}
    for name, fast in (("", False), (", --fast-decode", True)):
        out = root / f"set{fast:d}"
        _pack(root, out, setting, fast)
        stored[name] = sum(path.stat().st_size for path in out.glob("*.tar")) / len(pairs)
        shards = ShardSet.open(out)
        for place, on_device in (("cpu", False), ("device (weak only)", True)):
            transform = NaturalViews(ViewConfig(crop=crop), 2, None, on_device)
            cases[place + name] = partial(
                _epoch, shards, transform, steps, setting.unlabeled, options.workers
            )
        rows = shards.rows("train")
        whole = node_memory(
            sum(shards.index["width"][rows] * shards.index["height"][rows].astype(int)) * 5, _alone
        )
        assert whole is not None
        decoded = Decoded(whole, shards.index, rows, np.zeros((1, 1, 3), np.uint8))
        labeled = partial(_labeled_epoch, shards, transform, steps, setting.unlabeled, options.workers)
        cases["labelled" + name] = labeled
        cases["labelled, kept decoded" + name] = partial(labeled, decoded)
        cases["decode" + name] = partial(_decode, shards, steps * setting.unlabeled // OURS)
    timings = in_turns(cases, options.rounds, clock=cpu_seconds)
    source = "synthetic scenes" if options.images is None else str(options.images)
    sizes = ", ".join(f"{size / 1024:.0f} KiB a sample{name}" for name, size in stored.items())
    return (
        f"{setting.name}: {setting.width}x{setting.height} {setting.ext}, crop {crop}, {options.workers} "
        f"worker(s), {steps} steps of {setting.unlabeled} + 1, {source}; {sizes}\n\n"
        + table(timings, "images/s and core", wall=True)
    )


def cpu_seconds() -> float:
    """User and system time of this process and of those of its children that have ended."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


def _make_files(target: Path, setting: Setting, source: Path | None) -> list[tuple[Path, Path]]:
    """Images and masks as files."""
    (target / "image").mkdir(parents=True)
    (target / "mask").mkdir()
    found: list[Path | None] = [None] * setting.images
    if source is not None:
        paths = [path for ext in ("jpg", "png") for path in sorted(source.rglob(f"*.{ext}"))]
        found = [*paths[: setting.images]]
        if not found:
            raise DataError(f"{source}: no *.jpg or *.png below this folder")
    pairs = []
    for seed, path in enumerate(tqdm(found, desc="making images", disable=None)):
        image: np.ndarray
        if path is None:
            image, label = synthetic.render(seed, setting.height, setting.width)
        else:
            image = decode_image(path.read_bytes(), str(path))
            label = synthetic.render(seed, *image.shape[:2])[1]
        names = target / "image" / f"{seed:04d}.{setting.ext}", target / "mask" / f"{seed:04d}.png"
        kept = path is not None and path.suffix == f".{setting.ext}"
        if kept:
            assert path is not None
            data = path.read_bytes()
        else:
            data = jpeg(image, QUALITY) if setting.ext == "jpg" else png(image)
        names[0].write_bytes(data)
        names[1].write_bytes(png(label))
        pairs.append(names)
    return pairs


def _pack(root: Path, out: Path, setting: Setting, fast_decode: bool) -> None:
    source = SubsetSource(images=f"files/image/*.{setting.ext}", labels="files/mask/{stem}.png")
    recipe = Recipe(
        subsets={"train": source}, classes=synthetic.TAXONOMY.names, fast_decode=fast_decode, ignore_id=255
    )
    folder.pack(recipe, root, out, os.cpu_count() or 1)


def _epoch(shards: ShardSet, transform: NaturalViews, steps: int, unlabeled: int, workers: int) -> int:
    """`steps` steps through the loader; the number of unlabelled images."""
    rows = shards.rows("train")
    sizes = shards.shard_sizes(rows)
    plan = Plan(labeled=sizes, unlabeled=sizes, batch_labeled=1, batch_unlabeled=unlabeled, seed=0)
    loader = train_loader(
        Samples(shards, rows),
        Pool([Samples(shards, rows)]),
        plan,
        transform,
        stop_step=steps,
        workers=workers,
        num_classes=shards.taxonomy.num_classes,
    )
    for _ in loader:
        pass
    return steps * unlabeled


def _labeled_epoch(
    shards: ShardSet,
    transform: NaturalViews,
    steps: int,
    batch: int,
    workers: int,
    decoded: Decoded | None = None,
) -> int:
    """`steps` steps of labelled images only; their number. What is kept decoded is there after the first."""
    rows = shards.rows("train")
    plan = Plan(labeled=shards.shard_sizes(rows), unlabeled=None, batch_labeled=batch, seed=0)
    num_classes = shards.taxonomy.num_classes
    for _ in train_loader(
        Samples(shards, rows),
        None,
        plan,
        transform,
        stop_step=steps,
        workers=workers,
        num_classes=num_classes,
        decoded=decoded,
    ):
        pass
    return steps * batch


def _alone(value: object) -> list[object]:
    return [value]


def _decode(shards: ShardSet, count: int) -> int:
    """Nothing but the decoding of whole images, in this process."""
    stored = [shards.read(row, with_label=False).image for row in range(len(shards))]
    for number in range(count):
        decode_image(stored[number % len(stored)], "")
    return count
