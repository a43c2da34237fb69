"""Labelled samples that are kept decoded: the same batches, a fixed budget, and nothing left behind."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.batches import same, write_scenes
from tests.support.change_set import write_changes
from tests.support.http_folder import HttpFolder
from tests.support.medical_set import write_scans
from tests.support.processes import Processes
from tests.support.tiny_set import HEIGHT, WIDTH, TinyTransform, damage, write_tiny
from unimatch.data import decoded as module
from unimatch.data import images
from unimatch.data.decoded import Decoded, node_memory
from unimatch.data.load import load_pair
from unimatch.data.plan import Plan
from unimatch.data.samples import Pool, Samples
from unimatch.data.training import Transform, train_loader
from unimatch.errors import DataError
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.cache import Cache
from unimatch.views.change import ChangeViewConfig, ChangeViews
from unimatch.views.medical import MedicalViewConfig, MedicalViews
from unimatch.views.natural import NaturalViews, ViewConfig

RGB = np.zeros((1, 1, 3), np.uint8)
SLOT = HEIGHT * WIDTH * 4  # of a tiny sample, a multiple of 64
MARKS = 64  # of up to eight samples


def alone(value: Any) -> list[Any]:
    return [value]


def keep(root: Path, rows: int, size: int = 10**7, one: np.ndarray = RGB) -> Decoded:
    memory = node_memory(size, alone)
    assert memory is not None
    shards = ShardSet.open(root)
    return Decoded(memory, shards.index, shards.rows("train")[:rows], one)


def load(root: Path, transform: Transform, decode: Any = images.rgb, **options: Any) -> list[Any]:
    """Batches of 2 of the first 5 samples, labelled, and of 2 of all; each labelled one comes up often."""
    shards = ShardSet.open(root)
    rows = shards.rows("train")
    plan = Plan(shards.shard_sizes(rows[:5]), shards.shard_sizes(rows), 2, 2, seed=1)
    options = {"workers": 0, "stop_step": 12, "num_classes": shards.taxonomy.num_classes, **options}
    samples = Samples(shards, rows[:5]), Pool([Samples(shards, rows)])
    return list(train_loader(*samples, plan, transform, decode=decode, **options))


KINDS: dict[str, tuple[Callable[[Path], Any], Callable[[], Transform], Any, np.ndarray]] = {
    "parts": (
        lambda root: write_scenes(root, True),
        lambda: NaturalViews(ViewConfig(crop=48), 2, None),
        images.rgb,
        RGB,
    ),
    "pairs": (
        write_changes,
        lambda: ChangeViews(ChangeViewConfig(crop=40), 2, None),
        images.rgb_pair,
        np.zeros((2, 1, 1, 3), np.uint8),
    ),
    "slices": (
        write_scans,
        lambda: MedicalViews(MedicalViewConfig(crop=32), 2, None),
        images.grey,
        np.zeros((1, 1, 1), np.uint16),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_the_same_and_come_from_memory(tmp_path: Path, kind: str) -> None:
    """First while it fills, by any workers, then full, when the files' images and labels are gone."""
    write, transform, decode, one = KINDS[kind]
    write(tmp_path)
    ways: list[dict[str, Any]] = [
        {"workers": 0}, {"workers": 1}, {"workers": 4}, {"workers": 3, "threads": True},
    ]  # fmt: skip
    expected = load(tmp_path, transform(), decode)
    kept = [keep(tmp_path, 5, one=one) for _ in ways]
    for way, decoded in zip(ways, kept, strict=True):
        assert same(expected, load(tmp_path, transform(), decode, decoded=decoded, **way))
        assert decoded.marks.all(), "what a worker decoded is not here"
    shards = ShardSet.open(tmp_path)
    for row in shards.rows("train")[:5]:
        for member in ("image", "label"):
            damage_row(shards, row, member)
    with pytest.raises(DataError):
        load(tmp_path, transform(), decode)
    for way, decoded in zip(ways, kept, strict=True):
        # Unlabelled samples are not kept: those that are gone are replaced.
        again = load(tmp_path, transform(), decode, decoded=decoded, skip_ceiling=5, **way)
        for (_, (micro,)), (_, (first,)) in zip(again, expected, strict=True):
            assert same(micro["labeled"], first["labeled"])


def damage_row(shards: ShardSet, row: int, member: str) -> None:
    entry = shards.index[row]
    with open(Path(str(shards.root)) / shards.shard_names[entry["shard"]], "r+b") as file:
        file.seek(int(entry[f"{member}_offset"]))
        file.write(bytes(int(entry[f"{member}_size"])))


@pytest.mark.parametrize(
    ("size", "count"), [(MARKS - 1, 0), (MARKS + 3 * SLOT - 1, 2), (MARKS + 3 * SLOT, 3), (10**6, 5)]
)
def test_the_first_rows_that_fit_are_kept_and_no_more(tmp_path: Path, size: int, count: int) -> None:
    decoded = keep(write_tiny(tmp_path), 5, size)
    shards = ShardSet.open(tmp_path)
    assert [row in decoded for row in range(len(shards))] == [row < count for row in range(len(shards))]
    assert decoded.describe().startswith(f"{count} of 5 labelled samples, ")
    assert same(load(tmp_path, TinyTransform()), load(tmp_path, TinyTransform(), decoded=decoded, workers=2))
    assert [bool(mark) for mark in decoded.marks] == [True] * count
    assert decoded.missing(np.array([1, 4, 9, 0])).tolist() == [r for r in (1, 4, 9, 0) if r >= count]


def test_a_sample_is_only_given_once_all_of_it_has_arrived(tmp_path: Path) -> None:
    decoded = keep(write_tiny(tmp_path), 5)
    shards = ShardSet.open(tmp_path)
    image, label = load_pair(shards, 2, 3)
    decoded._arrays(2)[0][...] = image.pixels  # as a worker that was killed half-way leaves it
    assert decoded.get(2) is None and decoded.missing(np.array([2])).tolist() == [2]
    decoded.put(2, image.pixels, label)
    decoded._arrays(2)[1][3:5] = 0  # as a core sees it to which the mark came first
    other = Decoded(decoded.memory.base, shards.index, decoded.rows, RGB)  # type: ignore[arg-type]
    assert decoded.get(2) is None and other.get(2) is None
    decoded._arrays(2)[1][3:5] = label[3:5]
    for one in (decoded, other):
        found = one.get(2)
        assert found is not None and (found[0] == image.pixels).all() and (found[1] == label).all()
        with pytest.raises(ValueError, match="read-only"):
            found[0][0] = 1
    assert decoded.get(1) is None


def test_shards_behind_a_url_are_not_fetched_again_for_what_is_kept(tmp_path: Path) -> None:
    write_tiny(tmp_path / "set")
    decoded = keep(tmp_path / "set", 5)
    server = HttpFolder(tmp_path / "set")
    try:
        fetched, batches = [], []
        for folder in ("first", "second"):
            shards = ShardSet.open(server.url, cache=Cache(tmp_path / folder))
            rows = shards.rows("train")[:5]
            plan = Plan(shards.shard_sizes(rows), None, 2, seed=1)
            options: dict[str, Any] = {"workers": 0, "stop_step": 6, "num_classes": 3, "decoded": decoded}
            batches.append(list(train_loader(Samples(shards, rows), None, plan, TinyTransform(), **options)))
            fetched.append(sum(server.count(name) for name in shards.shard_names))
        assert fetched == [2, 2] and same(*batches)
    finally:
        server.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_sample_is_skipped_as_ever_and_never_kept(
    tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    damage(write_tiny(tmp_path), "t001", "label")
    damage(tmp_path, "t003")
    decoded = keep(tmp_path, 5)
    with caplog.at_level(logging.WARNING):
        expected = load(tmp_path, TinyTransform(), skip_ceiling=2)
        messages = caplog.messages
        caplog.clear()
        kept = load(tmp_path, TinyTransform(), skip_ceiling=2, workers=workers, decoded=decoded)
    assert same(expected, kept) and caplog.messages == messages and len(messages) == 2
    assert [bool(mark) for mark in decoded.marks] == [True, False, True, False, True]
    with pytest.raises(DataError, match="2 samples cannot be read, data.skip_ceiling allows 1"):
        load(tmp_path, TinyTransform(), skip_ceiling=1, workers=workers, decoded=decoded)


def full(file: int, size: int) -> None:
    raise OSError("full")


def test_no_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert node_memory(0, alone) is None and not caplog.messages
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "ftruncate", full)
        assert node_memory(10**6, alone) is None
    assert "data.decoded_mb: no memory to share with this node's processes (full)" in caplog.text
    caplog.clear()
    monkeypatch.setattr(module, "BOOT", Path("/nowhere"))
    assert node_memory(10**6, alone) is None
    assert "data.decoded_mb: no memory to share with this node's processes (" in caplog.text


RANK = """
import os, sys, time
from pathlib import Path
import torch.distributed as dist
from tests.unit.data import test_decoded as t
from unimatch.data.decoded import Decoded, node_memory

dist.init_process_group("gloo")
def gather(value):
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values

root, told = map(Path, sys.argv[1:])
shards = t.ShardSet.open(root)
decoded = Decoded(node_memory(10**6, gather), shards.index, shards.rows("train")[:5], t.RGB)
rank = dist.get_rank()
if rank == 0:
    t.load(root, t.TinyTransform(), decoded=decoded, workers=2)
dist.barrier()
assert all(decoded.get(row) is not None for row in range(5)), f"rank {rank} does not see what 0 decoded"
class Endless(t.TinyTransform):
    def labeled(self, *args, **options):
        (told / f"{rank}-{os.getpid()}").touch()
        time.sleep(600)
t.load(root, Endless(), decoded=decoded, workers=2)
"""


def test_processes_of_a_node_share_one_copy_and_leave_nothing_after_a_kill(tmp_path: Path) -> None:
    root, told, scratch = tmp_path / "set", tmp_path / "told", tmp_path / "scratch"
    write_tiny(root)
    told.mkdir()
    scratch.mkdir()
    with Processes(2, ["-c", RANK, str(root), str(told)], TMPDIR=str(scratch)) as ranks:
        deadline = time.monotonic() + 60
        while len(list(told.iterdir())) < 4:
            if time.monotonic() > deadline or any(one.poll() is not None for one in ranks.processes):
                ranks.kill()
                pytest.fail("\n".join(one.err for one in ranks.wait()))
            time.sleep(0.05)
        pids = [int(path.name.split("-")[1]) for path in told.iterdir()]
        pids += [one.pid for one in ranks.processes]
        lines = [line for pid in pids for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
        mapped = [line.split(maxsplit=5) for line in lines if "unimatch decoded" in line]
        assert len(mapped) == 6 and len({inode for *_, inode, _ in mapped}) == 1, "more than one copy"
        # Whatever ends them, there is no name to remove.
        held = [*lines, *(str(link.readlink()) for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir())]
        named = [line for line in held if "/dev/shm/" in line or str(scratch) in line]
        for one in ranks.processes:
            one.kill()
        ranks.wait(20)
    assert not named and not list(scratch.iterdir())
