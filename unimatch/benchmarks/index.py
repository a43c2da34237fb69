"""The index and the plan of a set too large to pack here: rows are made up, tars are sparse files."""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from unimatch import keyed
from unimatch.data.plan import Plan
from unimatch.shardset import index as shard_index
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.index import Sample, Shard
from unimatch.taxonomy import Taxonomy

PER_SHARD = 10_000
IMAGE_BYTES = 100_000
BATCH = 4096


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--samples", type=int, nargs="+", default=[1_000_000, 10_000_000], help="samples (%(default)s)"
    )
    parser.add_argument("--steps", type=int, default=200, help="steps that are planned (%(default)s)")


def run(options: argparse.Namespace) -> str:
    """Markdown: a row for each size of set."""
    lines = [
        "| samples | index.npy MB | open s | 1 % key list s | plan ms a step, 1st | median | largest | "
        "worker's own MB |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for samples in options.samples:
        with tempfile.TemporaryDirectory(prefix="unimatch-bench-") as scratch:
            lines.append(_measure(Path(scratch), samples, options.steps))
    return (
        "\n".join(lines)
        + f"\n\nShards of {PER_SHARD:,} samples; global batch {BATCH} + {BATCH}, one rank of 64 plans its "
        "64 + 64 samples; 1 % of the keys are labelled. The worker reads the rows of 1000 steps."
    )


def _measure(root: Path, samples: int, steps: int) -> str:
    _make_set(root, samples)
    started = time.perf_counter()
    shards = ShardSet.open(root)
    opened = time.perf_counter() - started
    labeled = keyed.permutation(keyed.key(1), samples)[: samples // 100]
    (root / "labeled.txt").write_text("".join(f"{key}\n" for key in shards.keys(labeled)))
    started = time.perf_counter()
    rows = shards.rows(root / "labeled.txt")
    listed = time.perf_counter() - started
    everything = shards.rows("train")
    plan = Plan(shards.shard_sizes(rows), shards.shard_sizes(everything), BATCH, BATCH)
    times = []
    for step in range(steps):
        started = time.perf_counter()
        plan.slots(step, rank=5, world=64)
        times.append(1000 * (time.perf_counter() - started))
    own = _worker_bytes(shards, plan, everything)
    size = os.stat(root / shard_index.INDEX_NPY).st_size
    return (
        f"| {samples:,} | {size / 1e6:.0f} | {opened:.2f} | {listed:.2f} | {times[0]:.2f} | "
        f"{np.median(times):.2f} | {max(times[1:]):.2f} | {own / 1e6:.1f} |"
    )


def _make_set(root: Path, samples: int) -> None:
    """An index of `samples` made-up samples, and sparse tars of the sizes that it names."""
    shards = []
    for number in range(-(-samples // PER_SHARD)):
        count = min(PER_SHARD, samples - number * PER_SHARD)
        first = number * PER_SHARD
        rows = [
            Sample(
                key=f"train/{first + i:09d}".encode(),
                image_offset=i * IMAGE_BYTES,
                image_size=IMAGE_BYTES - 512,
                image_ext=b"jpg",
                second_offset=0,
                second_size=0,
                label_offset=0,
                label_size=0,
                label_ext=b"",
                width=640,
                height=480,
            )
            for i in range(count)
        ]
        name = f"train-{number:05d}.tar"
        with open(root / name, "wb") as file:
            file.truncate(count * IMAGE_BYTES)
        shards.append(Shard(name, "train", count * IMAGE_BYTES, "0" * 64, rows))
    shard_index.write(root, Taxonomy.of(["a", "b"]), {}, shards)


def _worker_bytes(shards: ShardSet, plan: Plan, rows: np.ndarray) -> int:
    """How much a forked worker's own memory grows while it plans and looks up the samples of 1000 steps."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        before = _private_bytes()
        for step in range(1000):
            for micro in plan.slots(step, rank=5, world=64):
                assert micro.unlabeled is not None
                shards.index[rows[micro.unlabeled.ordinals]].tolist()
        os.write(writer, str(_private_bytes() - before).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return int(text)


def _private_bytes() -> int:
    """Bytes that only this process holds; where the system does not say, the peak of all its memory."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024
