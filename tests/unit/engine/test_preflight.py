from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unimatch
from tests.support.training import changed
from unimatch import config as config_io
from unimatch.engine import preflight as preflight_module
from unimatch.engine.preflight import mismatches, preflight, ranks
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_folder import flat
from unimatch.engine.runtime import Runtime
from unimatch.errors import UserError
from unimatch.packing.synthetic import write_synthetic
from unimatch.shardset.key_list import read_keys


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([3], "rank 3"), ([0, 1], "ranks 0-1"), ([0, 2, 3, 4, 9], "ranks 0, 2-4, 9")],
)
def test_ranks_are_told_in_few_words(numbers, text):
    assert ranks(numbers) == text


def test_what_differs_is_told_with_ranks_and_values():
    old, new = {"torch": "2.9", "commit": "abc", "seed": "0"}, {"torch": "2.10", "commit": "abc", "seed": "0"}
    assert mismatches([old] * 3) == []
    assert mismatches([old, new, new, old]) == ["torch: 2.9 on ranks 0, 3; 2.10 on ranks 1-2"]
    assert mismatches([old, {**new, "seed": "1"}]) == [
        "torch: 2.9 on rank 0; 2.10 on rank 1",
        "seed: 0 on rank 0; 1 on rank 1",
    ]


def test_a_setting_that_only_some_have_differs():
    assert mismatches([{}, {"a": "1"}]) == ["a: not set on rank 0; 1 on rank 1"]


def test_what_one_process_cannot_know_is_no_mismatch():
    assert mismatches([{"commit": "unknown"}, {"commit": "abc"}, {"commit": "abc"}]) == []
    assert len(mismatches([{"commit": "unknown"}, {"commit": "abc"}, {"commit": "abd"}])) == 1


def test_one_process_says_what_it_runs_on(tiny_config: RunConfig):
    lines = preflight(tiny_config, Runtime(), resume=False)[1].splitlines()
    assert lines[0] == "preflight" and len(lines) == 3
    assert re.fullmatch(r"  host \S+ \(node 0\): rank 0 on \w.*", lines[1])
    assert re.search(r"torch \d.*, commit \w+.*; settings [0-9a-f]{16}$", lines[2])


def test_shards_that_are_not_there_are_an_error_before_anything_is_built(tiny_config: RunConfig):
    tiny_config.data.shards = "/nowhere"
    with pytest.raises(UserError, match="^/nowhere: no such folder"):
        preflight(tiny_config, Runtime(), resume=False)


class OneOfTwo(Runtime):
    """A process of two, which run one after the other: `first` is what the one before told."""

    def __init__(self, first: OneOfTwo | None = None) -> None:
        super().__init__()
        self.world, self.rank = 2, int(first is not None)
        self.told: list[Any] = []
        self.first = first or self

    def await_all(self) -> None:
        pass

    def all_reduce_s(self, size_bytes: int) -> float:
        return 0.0

    def gather(self, value: Any) -> list[Any]:
        self.told.append(value)
        return [self.first.told[len(self.told) - 1], value]


@pytest.fixture
def own_config(tiny_config: RunConfig, tmp_path: Path) -> RunConfig:
    """A run whose shards and lists may be changed."""
    shutil.copytree(Path(tiny_config.data.shards).parent, tmp_path / "data")
    tiny_config.data.shards = str(tmp_path / "data" / "shards")
    for name in ("labeled", "unlabeled"):
        setattr(tiny_config.data, name, str(tmp_path / "data" / "split" / f"{name}.txt"))
    return tiny_config


def shorten(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "split" / f"{name}.txt"
        path.write_text("\n".join(read_keys(path)[1:]))

    return change


def change_info(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        path = folder / "shards" / "index.json"
        info = json.loads(path.read_text())
        change(info)
        path.write_text(json.dumps(info))

    return rewrite


def swap_classes(info: dict[str, Any]) -> None:
    names = info["taxonomy"]["names"]
    names[0], names[1] = names[1], names[0]


def other_pixels(info: dict[str, Any]) -> None:
    info["shards"][0]["sha256"] = "0" * 64


def repacked(folder: Path) -> None:
    """Other scenes of the same names and sizes."""
    shutil.rmtree(folder / "shards")
    write_synthetic(folder / "shards", train=40, val=10, height=48, width=64, seed=1)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (shorten("labeled"), r"data.labeled \(hash of its keys\): \w{16} on rank 0; \w{16} on rank 1"),
        (shorten("unlabeled"), r"data.unlabeled \(hash of its keys\): \w{16} on rank 0; \w{16} on rank 1"),
        (change_info(swap_classes), r"shards: \w{16} on rank 0; \w{16} on rank 1"),
        (change_info(other_pixels), r"shards: \w{16} on rank 0; \w{16} on rank 1"),
        (repacked, r"shards: \w{16} on rank 0; \w{16} on rank 1"),
    ],
)
def test_hosts_whose_data_differ_do_not_train_together(own_config, tmp_path, change, told):
    first = OneOfTwo()
    preflight(own_config, first, resume=False)
    preflight(own_config, OneOfTwo(first), resume=False)
    change(tmp_path / "data")
    with pytest.raises(UserError, match=rf"must be alike:\n  {told}\n  \(host"):
        preflight(own_config, OneOfTwo(first), resume=False)


def test_the_same_shards_may_lie_elsewhere(own_config, tmp_path):
    first = OneOfTwo()
    preflight(own_config, first, resume=False)
    shutil.move(tmp_path / "data" / "shards", tmp_path / "here")
    own_config.data.shards = str(tmp_path / "here")
    preflight(own_config, OneOfTwo(first), resume=False)


@pytest.mark.parametrize("file", ["losses.py", "engine/trainer.py"])
def test_hosts_whose_sources_differ_in_one_byte_do_not_train_together(
    tiny_config, tmp_path, monkeypatch, file
):
    first = OneOfTwo()
    preflight(tiny_config, first, resume=False)
    copy = tmp_path / "unimatch"
    shutil.copytree(Path(unimatch.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(unimatch, "__file__", str(copy / "__init__.py"))
    preflight(tiny_config, OneOfTwo(first), resume=False)
    data = (copy / file).read_bytes()
    (copy / file).write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    with pytest.raises(UserError, match=r"sources: \w{16} on rank 0; \w{16} on rank 1"):
        preflight(tiny_config, OneOfTwo(first), resume=False)


def test_hosts_of_other_settings_timeouts_and_checkpoints_are_told_apart(tiny_config, tmp_path):
    first = OneOfTwo()
    preflight(tiny_config, first, resume=False)
    later = OneOfTwo(first)
    later.timeout_s = 5.0
    with pytest.raises(UserError, match="--timeout: 600 on rank 0; 5 on rank 1"):
        preflight(tiny_config, later, resume=False)
    (tiny_config.out / "checkpoints" / "step_00000007").mkdir(parents=True)
    with pytest.raises(UserError, match="--resume from: the start on rank 0; step_00000007 on rank 1"):
        preflight(tiny_config, OneOfTwo(first), resume=True)
    tiny_config.optimizer.weight_decay = 0.5
    first.told.append({"optimizer.weight_decay": "0.0001"})
    with pytest.raises(UserError, match="optimizer.weight_decay: 0.0001 on rank 0; 0.5 on rank 1"):
        preflight(tiny_config, OneOfTwo(first), resume=False)


def test_hosts_may_differ_in_where_data_lie_and_how_they_are_read_alone(tiny_config):
    may = {f"data.{name}" for name in ("shards", "workers", "worker_kind", "prefetch", "timeout_s")}
    may |= {"data.cache.folder", "data.cache.size_gb", "data.decoded_mb", "data.pseudo"}
    settings = preflight_module._settings(tiny_config)
    for name in flat(config_io.plain(tiny_config)):
        same = preflight_module._settings(changed(tiny_config, name)) == settings
        assert same == (name in may), name


def test_a_host_without_the_data_is_named(own_config, tmp_path):
    first = OneOfTwo()
    preflight(own_config, first, resume=False)
    shutil.rmtree(tmp_path / "data" / "shards")
    with pytest.raises(UserError, match=r"^rank 1: .*data/shards: no such folder"):
        preflight(own_config, OneOfTwo(first), resume=False)
