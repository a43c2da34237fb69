"""Shards behind a URL: real servers that fail, real processes that share a cache."""

from __future__ import annotations

import errno
import gc
import json
import logging
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import fsspec.config
import numpy as np
import pytest
from fsspec.implementations.http import HTTPFileSystem

from tests.support.http_folder import HttpFolder
from tests.support.tiny_set import TinyTransform, write_tiny
from unimatch.data.evaluation import eval_loader
from unimatch.data.plan import Plan
from unimatch.data.samples import Pool, Samples
from unimatch.data.training import train_loader
from unimatch.errors import DataError, masked
from unimatch.shardset import background, files, patience, remote
from unimatch.shardset import cache as cache_module
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.cache import Cache, RemoteFile
from unimatch.taxonomy import Taxonomy

FORK = multiprocessing.get_context("fork")
TAR = "train-00000.tar"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.005)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "set")  # train: 4 + 4 + 3 samples, val: 4


@pytest.fixture
def server(folder: Path) -> Iterator[HttpFolder]:
    served = HttpFolder(folder)
    yield served
    served.close()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 10**9)


def read_all(shards: ShardSet) -> list[Any]:
    return [shards.read(row) for row in range(len(shards))]


def entries(cache: Cache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir() if path.name != cache_module.LOCK)


def size_bytes(cache: Cache) -> int:
    return sum((cache.folder / name).stat().st_size for name in entries(cache))


def wait_for(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_set_behind_a_url_is_the_set_in_the_folder(folder: Path, server: HttpFolder, cache: Cache) -> None:
    here, there = ShardSet.open(folder), ShardSet.open(server.url, cache=cache)
    assert [name for name, _ in server.requests] == ["index.json", "index.npy"]
    assert (here.index == there.index).all() and here.info == there.info
    assert read_all(here) == read_all(there) == read_all(pickle.loads(pickle.dumps(there)))
    names = ["index.json", "index.npy", *here.shard_names]
    assert sorted(name for name, _ in server.requests) == sorted(names), "each once"
    again = ShardSet.open(server.url.rstrip("/"), Taxonomy.of(["road", "tree", "car"]), cache)
    assert read_all(again) == read_all(here)
    assert len(server.requests) == len(names) + 1 and server.requests[-1][0] == "index.json"
    with pytest.raises(DataError, match=r"127\.0\.0\.1:\d+ has other classes than asked for"):
        ShardSet.open(server.url, Taxonomy.of(["a", "b"]), cache)
    with pytest.raises(DataError, match="check the folder that was uploaded"):
        again.check()


def test_a_file_url_and_a_memory_url(folder: Path, cache: Cache) -> None:
    expected = read_all(ShardSet.open(folder))
    assert read_all(ShardSet.open(f"file://{folder}", cache=cache)) == expected
    store = fsspec.filesystem("memory")
    for path in folder.iterdir():
        store.pipe_file(f"/some where/{path.name}", path.read_bytes())
    assert read_all(ShardSet.open("memory://some where", cache=cache)) == expected


PASSING = (500, 503, 429, "drop", "stall")
DAMAGE = ("short", "page", "wrong")  # an index.json that arrives so is an error, see below


@pytest.mark.parametrize(
    ("name", "fault"),
    [*product(["index.json"], PASSING), *product(["index.npy", TAR], PASSING + DAMAGE)],
)
def test_passing_faults_do_no_harm(
    folder: Path, server: HttpFolder, cache: Cache, fault: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "STALL_S", 0.2)
    server.faults[name] = [fault]
    shards = ShardSet.open(server.url, cache=cache)
    assert shards.read(0) == ShardSet.open(folder).read(0)
    assert server.count(name) == 2


@pytest.mark.parametrize(
    ("fault", "tries", "message"),
    [
        (500, 3, "cannot be fetched, given up after 3 tries; the last: HTTP status 500"),
        ("drop", 3, "cannot be fetched, given up after 3 tries; the last: ClientPayloadError"),
        ("stall", 3, "cannot be fetched, given up after 3 tries; the last: no answer in time"),
        (
            "short",
            3,
            r"cannot be fetched, given up after 3 tries; the last: \d+ bytes came for bytes 0 to \d+ of",
        ),
        ("page", 3, "cannot be fetched, given up after 3 tries; the last: 27 bytes came for bytes 0 to"),
        (404, 1, "cannot be fetched: no such file"),
        (403, 1, "cannot be fetched: HTTP status 403"),
        ("wrong", 2, r"the server gives other bytes than its index describes, twice \(sha256 .*upload"),
    ],
)
def test_lasting_faults_are_one_clear_error(
    server: HttpFolder, cache: Cache, fault: Any, tries: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "TRIES", 3)
    monkeypatch.setattr(remote, "STALL_S", 0.1)
    server.always[TAR] = fault
    shards = ShardSet.open(server.url, cache=cache)
    with pytest.raises(DataError, match=rf"^http://127\.0\.0\.1:\d+/{TAR}: {message}"):
        shards.read(0)
    assert server.count(TAR) == tries
    assert len(entries(cache)) == 1, "only index.npy"
    server.always.clear()
    assert shards.read(0).key == "t000"


def test_a_bad_index_behind_a_url(folder: Path, server: HttpFolder, cache: Cache) -> None:
    text = (folder / "index.json").read_text()
    info = json.loads(text)
    del info["index"]["bytes"]
    for changed, message in [
        ("<html>Please sign in</html>", r"http://.*/index\.json is damaged: not a shard index"),
        (json.dumps({**json.loads(text), "version": 9}), "version 9; this program reads"),
        (json.dumps(info), "damaged"),
        (json.dumps({**json.loads(text), "shards": []}), "counts other samples"),
    ]:
        (folder / "index.json").write_text(changed)
        with pytest.raises(DataError, match=message):
            ShardSet.open(server.url, cache=cache)
    (folder / "index.json").unlink()
    with pytest.raises(DataError, match=r"/index\.json: cannot be fetched: no such file"):
        ShardSet.open(server.url, cache=cache)


def test_nobody_listens(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "TRIES", 2)
    with pytest.raises(
        DataError, match=r"http://127\.0\.0\.1:9/set/index\.json: .*2 tries; the last: Client"
    ):
        ShardSet.open("http://127.0.0.1:9/set", cache=cache)


def test_a_lost_connection_costs_a_range(
    folder: Path, server: HttpFolder, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "RANGE_BYTES", 4000)
    monkeypatch.setattr(remote, "SMALLEST_RANGE_BYTES", 500)
    shards = ShardSet.open(server.url, cache=cache)
    server.faults[TAR] = [None, "drop", 500, None, None, "drop"]
    shards.read(0)
    ranges = [asked for name, asked in server.requests if name == TAR]
    size = (folder / TAR).stat().st_size
    starts = [0, 4000, 4000, 4000, 4500, 5500, 5500]  # after a failure a quarter, then twice as much
    ends = [4000, 8000, 5000, 4500, 5500, 7500, 6000]
    assert ranges[:7] == [f"bytes={start}-{end - 1}" for start, end in zip(starts, ends, strict=True)]
    assert ranges[-1].endswith(f"-{size - 1}")


def test_tries_count_from_the_last_progress(
    server: HttpFolder, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "RANGE_BYTES", 2000)
    monkeypatch.setattr(remote, "SMALLEST_RANGE_BYTES", 500)
    monkeypatch.setattr(patience, "TRIES", 2)
    server.faults[TAR] = [500, None] * 3
    assert ShardSet.open(server.url, cache=cache).read(0).key == "t000"
    assert not server.faults[TAR], "all of them were met"


def test_a_server_without_ranges(
    folder: Path, server: HttpFolder, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "RANGE_BYTES", 4000)
    server.always[TAR] = "whole"
    assert ShardSet.open(server.url, cache=cache).read(2) == ShardSet.open(folder).read(2)
    assert server.count(TAR) == 1


def part_of(shards: ShardSet, cache: Cache) -> Path:
    """Where the first shard is being written."""
    entry = shards.info["shards"][0]
    return cache.folder / (shards.root.file(TAR, entry["bytes"], entry["sha256"]).entry + ".part")  # type: ignore[union-attr]


@pytest.mark.parametrize("sound", [True, False])
def test_what_a_killed_process_left_is_continued(
    folder: Path, server: HttpFolder, cache: Cache, sound: bool
) -> None:
    shards = ShardSet.open(server.url, cache=cache)
    data = (folder / TAR).read_bytes()
    part_of(shards, cache).write_bytes(data[:3000] if sound else bytes(3000))
    assert shards.read(0) == ShardSet.open(folder).read(0)
    asked = [asked for name, asked in server.requests if name == TAR]
    rest, whole = f"bytes=3000-{len(data) - 1}", f"bytes=0-{len(data) - 1}"
    assert asked == ([rest] if sound else [rest, whole])
    assert not part_of(shards, cache).exists()


def read_first(url: str, cache: Cache) -> None:
    assert ShardSet.open(url, cache=cache).read(0).key == "t000"


def test_processes_that_want_one_shard_fetch_it_once(server: HttpFolder, cache: Cache) -> None:
    server.faults[TAR] = ["late"]
    server.faults["index.npy"] = ["late"]
    processes = [FORK.Process(target=read_first, args=(server.url, cache)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert server.count(TAR) == server.count("index.npy") == 1 and server.count("index.json") == 3


def test_a_forked_process_does_not_close_its_parents_connections(
    server: HttpFolder, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait a second for each client, for an event loop that is not there."""
    parent = os.getpid()

    def close(*_: Any) -> None:
        if os.getpid() != parent:
            os._exit(7)

    def use_and_collect() -> None:
        read_first(server.url, cache)
        gc.collect()

    monkeypatch.setattr(HTTPFileSystem, "close_session", staticmethod(close))
    monkeypatch.setattr(remote, "STALL_S", 29.5)  # a client that no test before has made
    read_first(server.url, cache)
    child = FORK.Process(target=use_and_collect)
    child.start()
    child.join(30)
    assert child.exitcode == 0


def test_a_killed_writer_gives_its_place_up(server: HttpFolder, cache: Cache) -> None:
    server.faults[TAR] = ["stall"]
    first = FORK.Process(target=read_first, args=(server.url, cache))
    first.start()
    wait_for(lambda: server.count(TAR) == 1)
    second = FORK.Process(target=read_first, args=(server.url, cache))
    second.start()
    time.sleep(0.3)
    assert server.count(TAR) == 1, "the second waits"
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    second.join(30)
    assert second.exitcode == 0 and server.count(TAR) == 2
    first.join()


def test_the_least_recently_used_shards_go(folder: Path, server: HttpFolder, tmp_path: Path) -> None:
    info = json.loads((folder / "index.json").read_text())
    sizes = [shard["bytes"] for shard in info["shards"]]
    limit = info["index"]["bytes"] + sum(sorted(sizes)[-2:])
    cache = Cache(tmp_path / "cache", limit)
    foreign = tmp_path / "cache" / "thesis.tar"
    cache.folder.mkdir()
    foreign.write_bytes(bytes(10**6))
    shards = ShardSet.open(server.url, cache=cache)
    expected = ShardSet.open(folder)
    for _ in range(2):
        for row in (0, 4, 0, 8, 11):
            shards.close()
            assert shards.read(row) == expected.read(row)
            assert sum(int(name.split(".")[1]) for name in entries(cache) if name != foreign.name) <= limit
    assert foreign.stat().st_size == 10**6
    assert server.count("index.npy") == 1 and (shards.index == expected.index).all(), "removed, but mapped"


def write_zeros(wanted: RemoteFile, number: int) -> None:
    os.pwrite(number, bytes(wanted.size), 0)


def test_a_use_counts_as_well_as_a_fetch(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 250)
    a, b, c = (RemoteFile(f"x://h/{name}", 100, name * 64) for name in "abc")
    for wanted in (a, b, a, c):
        os.close(cache.open(wanted, write_zeros))
    assert entries(cache) == sorted([a.entry, c.entry])
    assert not cache.fetch_ahead(b, write_zeros, idle_s=60.0) and cache.fetch_ahead(c, write_zeros, 60.0)
    assert entries(cache) == sorted([a.entry, c.entry])
    os.utime(tmp_path / a.entry, (1, 1))
    assert cache.fetch_ahead(b, write_zeros, idle_s=60.0)
    assert entries(cache) == sorted([b.entry, c.entry])


def test_a_removed_shard_stays_readable_and_is_closed_when_idle(
    folder: Path,
    server: HttpFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    largest = max(path.stat().st_size for path in folder.glob("*.tar"))
    shards = ShardSet.open(server.url, cache=Cache(tmp_path / "cache", largest))
    expected = read_all(ShardSet.open(folder))
    for _ in range(2):
        assert read_all(shards) == expected
    assert [server.count(name) for name in shards.shard_names] == [1, 1, 1, 1], "kept open while in use"
    assert sum("raise data.cache.size_gb" in line.message for line in caplog.records) == 1
    monkeypatch.setattr(files, "IDLE_S", 0.0)
    shards.close()
    assert read_all(shards) == expected
    assert len(shards._files) <= 2, "removed ones are closed when another is opened"


def test_a_shard_larger_than_the_cache(server: HttpFolder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"index\.npy is larger than the whole cache.*data\.cache\.size_gb"):
        ShardSet.open(server.url, cache=Cache(tmp_path / "cache", 1000))
    shards = ShardSet.open(server.url, cache=Cache(tmp_path / "cache", 5000))
    with pytest.raises(DataError, match=rf"{TAR} is larger than the whole cache.*or pack smaller shards"):
        shards.read(0)
    shards.expect(np.arange(8))  # no error, no fetch
    time.sleep(0.1)
    assert server.count(TAR) == 0


def test_parts_of_others_are_never_removed(tmp_path: Path) -> None:
    """While one file arrives, another one makes room: only idle parts and whole files go."""
    cache = Cache(tmp_path, 250)
    files_ = [RemoteFile(f"x://h/{name}", 100, name * 64) for name in "abc"]

    def slow(_: RemoteFile, number: int) -> None:
        os.pwrite(number, bytes(50), 0)
        part = cache.folder / f"{files_[0].entry}.part"
        os.utime(part, (0, 0))  # the oldest of all
        for other in files_[1:]:
            os.close(cache.open(other, write_zeros))
            assert part.exists()
        os.pwrite(number, bytes(50), 50)

    stale = cache.folder / f"{'0' * 40}.100.part"
    stale.write_bytes(bytes(30))
    os.utime(stale, (1, 1))
    os.close(cache.open(files_[0], slow))
    assert entries(cache) == sorted([files_[0].entry, files_[2].entry])


def test_a_cut_entry_is_fetched_again(folder: Path, server: HttpFolder, cache: Cache) -> None:
    shards = ShardSet.open(server.url, cache=cache)
    shards.read(0)
    shards.close()
    os.truncate(part_of(shards, cache).with_suffix(""), 600)
    assert shards.read(0) == ShardSet.open(folder).read(0)
    assert server.count(TAR) == 2


def test_equal_names_never_meet(tmp_path: Path, cache: Cache) -> None:
    root = tmp_path / "both"
    for name, ext in (("labeled", "png"), ("unlabeled", "jpg")):
        write_tiny(root / name, ext=ext)
    server = HttpFolder(root)
    try:
        for name in ("labeled", "unlabeled"):
            mine = read_all(ShardSet.open(f"{server.url}{name}", cache=cache))
            assert mine == read_all(ShardSet.open(root / name))
        # The same URL with a new set.
        shutil.rmtree(root / "labeled")
        write_tiny(root / "labeled", ext="webp")
        mine = read_all(ShardSet.open(f"{server.url}labeled", cache=cache))
        assert mine == read_all(ShardSet.open(root / "labeled"))
        # A shard of a half uploaded set.
        shutil.copy(root / "unlabeled" / TAR, root / "labeled" / TAR)
        with pytest.raises(DataError, match=rf"labeled/{TAR}: "):
            ShardSet.open(f"{server.url}labeled", cache=Cache(tmp_path / "other", 10**9)).read(0)
    finally:
        server.close()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("pipe:cat x.tar", "commands such as pipe: are not run"),
        ("pipe://cat x.tar", "commands such as pipe: are not run"),
        ("gopipe://x", "no URL of a known kind"),
        ("simplecache::https://h/x", "no URL of a known kind"),
        ("https:/h/x", "two slashes"),
        (Path("https://h/x"), "two slashes"),
        ("file:/x", "two slashes"),
        ("c:data", "no folder, and no URL"),
    ],
)
def test_neither_folder_nor_url(place: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ShardSet.open(place)


@pytest.mark.parametrize("place", ["data/x", "/data/x", "./a:b", "data/a:b", Path("x"), "a b"])
def test_paths_are_paths(place: Any) -> None:
    assert not remote.is_url(place)


def test_passwords_and_tokens_are_not_shown(
    server: HttpFolder, cache: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(patience, "TRIES", 2)
    caplog.set_level(logging.DEBUG, "unimatch")
    server.password = "me:hunter2"
    url = f"http://me:hunter2@{server.address}/?sig=s3cr3t"
    shards = ShardSet.open(url, cache=cache)
    assert shards.read(0).key == "t000"
    for fault in (500, 403, "drop", "wrong", 404):
        server.always["train-00001.tar"] = fault
        with pytest.raises(DataError) as error:
            shards.read(4)
        assert re.match(r"http://\*\*\*@127\.0\.0\.1:\d+/train-00001\.tar\?\*\*\*: ", str(error.value))
        for text in (str(error.value), str(shards.root), caplog.text):
            assert "hunter2" not in text and "s3cr3t" not in text
    assert len(caplog.records) >= 3
    with pytest.raises(DataError, match=r"index\.json: cannot be fetched: HTTP status 401"):
        ShardSet.open(server.url, cache=cache)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://key:secret@bucket/x", "s3://***@bucket/x"),
        ("hf://datasets/me/set@main/x", "hf://datasets/me/set@main/x"),
        ("url='https://h/x?token=1&b=2', 500", "url='https://h/x?***', 500"),
        ("https://me:p@ss@h/x: 404", "https://***@h/x: 404"),
        ("what? 'a?b' x?y", "what? 'a?b' x?y"),
        ("https://h/a?X=1; try 2", "https://h/a?***; try 2"),
    ],
)
def test_masking(text: str, expected: str) -> None:
    assert masked(text) == expected


def test_the_password_of_netrc(
    server: HttpFolder, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.password = "me:hunter2"
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert ShardSet.open(server.url, cache=cache).read(0).key == "t000"


def test_a_cache_folder_that_cannot_be_used(
    server: HttpFolder, tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        DataError, match=r"the cache folder .*file/x cannot be used: Not a directory; set data"
    ):
        ShardSet.open(server.url, cache=Cache(tmp_path / "file" / "x"))

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(remote.os, "pwrite", full)
    with pytest.raises(DataError, match=r"No space left on device; lower data\.cache\.size_gb \(1 now\)"):
        ShardSet.open(server.url, cache=cache)
    assert entries(cache) == [] and server.count("index.npy") == 1, "not tried again"


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("UNIMATCH_CACHE", raising=False)
    assert Cache().folder == tmp_path / "unimatch"
    monkeypatch.setenv("UNIMATCH_CACHE", str(tmp_path / "mine"))
    assert Cache().folder == tmp_path / "mine"


def test_shards_are_fetched_ahead(server: HttpFolder, cache: Cache) -> None:
    shards = ShardSet.open(server.url, cache=cache)
    shards.expect(np.array([9, 0, 1, 10]))
    wait_for(lambda: len(entries(cache)) == 3 and not any("part" in name for name in entries(cache)))
    assert [name for name, _ in server.requests[2:]] == ["train-00002.tar", TAR], "the soonest first"
    shards.expect(np.array([9, 0]))
    assert shards.read(0).key == "t000" and shards.read(9).key == "t009"
    assert len(server.requests) == 4
    # A forked process has a thread of its own.
    child = FORK.Process(target=shards.expect, args=(np.array([4]),))
    child.start()
    child.join(20)
    assert child.exitcode == 0


def test_fetching_ahead_is_silent_and_bounded(
    server: HttpFolder, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "TRIES", 1)
    monkeypatch.setattr(background, "AHEAD_FILES", 1)
    shards = ShardSet.open(server.url, cache=cache)
    server.faults[TAR] = ["late"]
    shards.expect(np.array([0]))
    shards.expect(np.array([0, 4, 8, 11]))  # one at work, one waiting
    wait_for(lambda: len(entries(cache)) == 3 and not any("part" in name for name in entries(cache)))
    time.sleep(0.1)
    assert [name for name, _ in server.requests[2:]] == [TAR, "train-00001.tar"]
    server.always["train-00002.tar"] = 500
    for _ in range(3):
        shards.expect(np.array([8]))
        time.sleep(0.1)
    assert server.count("train-00002.tar") == 1, "a failure is followed by a pause"
    with pytest.raises(DataError, match="HTTP status 500"):
        shards.read(8)


def test_fetching_ahead_does_not_push_out_what_is_used(
    folder: Path, server: HttpFolder, tmp_path: Path
) -> None:
    info = json.loads((folder / "index.json").read_text())
    limit = info["index"]["bytes"] + info["shards"][0]["bytes"] + 100
    shards = ShardSet.open(server.url, cache=Cache(tmp_path / "cache", limit))
    shards.read(0)
    before = entries(shards.root.cache)  # type: ignore[union-attr]
    shards.expect(np.array([4]))
    time.sleep(0.2)
    assert entries(shards.root.cache) == before and server.count("train-00001.tar") == 0  # type: ignore[union-attr]


def batches(shards: ShardSet, workers: int) -> list[Any]:
    labeled, unlabeled = shards.rows("train")[:5], shards.rows("train")
    plan = Plan(shards.shard_sizes(labeled), shards.shard_sizes(unlabeled), 2, 4, seed=1, partner="shuffled")
    training = train_loader(
        Samples(shards, labeled),
        Pool([Samples(shards, unlabeled)]),
        plan,
        TinyTransform(),
        stop_step=6,
        workers=workers,
        num_classes=3,
    )
    found: list[Any] = [
        {name: tensor.tolist() for name, tensor in {**micro["labeled"], **(micro["unlabeled"] or {})}.items()}
        for _, micros in training
        for micro in micros
    ]
    evaluation = eval_loader(shards, shards.rows("val"), workers=workers, batch=2)
    return found + [(batch["keys"], batch["image"].tolist()) for batch in evaluation]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_where_the_shards_are(
    folder: Path, server: HttpFolder, tmp_path: Path, workers: int
) -> None:
    """With faults, and a cache that holds two of the four shards."""
    sizes = sorted(path.stat().st_size for path in folder.iterdir())
    cache = Cache(tmp_path / "cache", sizes[-1] + sizes[-2])
    for name in ("index.npy", TAR, "train-00001.tar", "val-00000.tar"):
        server.faults[name] = ["drop", 500]
    assert batches(ShardSet.open(server.url, cache=cache), workers) == batches(ShardSet.open(folder), 0)


def test_a_lost_server_ends_the_loader_with_its_message(
    server: HttpFolder, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "TRIES", 2)
    server.always[TAR] = 500
    with pytest.raises(DataError, match=rf"{TAR}: cannot be fetched, given up after 2 tries"):
        batches(ShardSet.open(server.url, cache=cache), 2)
