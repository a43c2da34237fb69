"""Many samples through the loader: memory, open files, threads and shared memory must not grow."""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from unimatch.data.plan import Plan
from unimatch.data.samples import Pool, Samples
from unimatch.data.training import train_loader
from unimatch.packing import synthetic
from unimatch.shardset.archive import ShardSet
from unimatch.views.natural import NaturalViews, ViewConfig

BATCH = 16
MARKS = 10  # rows of the table


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=200_000, help="unlabelled samples (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="data workers (%(default)s)")
    parser.add_argument("--threads", action="store_true", help="workers are threads")
    parser.add_argument("--crop", type=int, default=64, help="side of the crop (%(default)s)")
    parser.add_argument("--shards", type=Path, help="a shard set with a subset train (made-up scenes)")


def run(options: argparse.Namespace) -> str:
    """Markdown: what the process and its workers hold at ten moments, and what is left afterwards."""
    lines = [
        "| samples | own MB | workers' MB | mapped files | open files | threads | processes | /dev/shm |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    with tempfile.TemporaryDirectory(prefix="unimatch-bench-") as scratch:
        root = options.shards
        if root is None:
            root = Path(scratch) / "set"
            synthetic.write_synthetic(root, train=200, val=1, workers=os.cpu_count() or 1)
        lines.append(_row("before", []))
        steps = options.samples // BATCH
        loader = _loader(ShardSet.open(root), steps, options)
        for step in tqdm(loader, total=steps, desc="loading", unit="step", disable=None):
            if (step + 1) % max(steps // MARKS, 1) == 0:
                lines.append(_row(f"{(step + 1) * BATCH:,}", _children()))
        del loader
    lines.append(_row("after", _children()))
    return "\n".join(lines)


def _loader(shards: ShardSet, steps: int, options: argparse.Namespace) -> Iterator[int]:
    """The step after each of its batches, which are dropped."""
    rows = shards.rows("train")
    sizes = shards.shard_sizes(rows)
    loader = train_loader(
        Samples(shards, rows),
        Pool([Samples(shards, rows)]),
        Plan(sizes, sizes, BATCH, BATCH, partner="same"),
        NaturalViews(ViewConfig(crop=options.crop), 2, "same"),
        stop_step=steps,
        workers=options.workers,
        threads=options.threads,
        num_classes=shards.taxonomy.num_classes,
    )
    return (step for step, _ in loader)


def _row(name: str, children: list[int]) -> str:
    own = Path("/proc/self")
    cells = [
        name,
        f"{_private(own) / 1e6:.0f}",
        f"{sum(_private(Path(f'/proc/{child}')) for child in children) / 1e6:.0f}",
        len((own / "maps").read_text().splitlines()),
        len(list((own / "fd").iterdir())),
        threading.active_count(),
        len(children),
        len(list(Path("/dev/shm").iterdir())),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _children() -> list[int]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _private(process: Path) -> int:
    """Bytes in memory that no other process has; shared memory counts where it is the only one."""
    lines = (process / "smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024
