"""Worker processes: order, bounds, and every way in which they can fail, each within seconds."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from unimatch.data import workers as pool
from unimatch.data.processes import CONTEXT
from unimatch.data.shared_memory import shared_empty
from unimatch.data.stages import Monitor, stage
from unimatch.errors import ConfigError, DataError

needs_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="looks into /proc or forks closures"
)
pytestmark = needs_linux


def run(function: Callable[[int], Any], count: int, workers: int, **options: Any) -> Iterator[Any]:
    settings: dict[str, Any] = {"prefetch": 2, "timeout_s": 20.0, "describe": lambda item: f"step {item}"}
    return pool.ahead(function, range(count), workers=workers, **{**settings, **options})


def children() -> list[int]:
    """Process ids of the workers that this test started."""
    return [
        child.pid for child in multiprocessing.active_children() if child.pid and "data worker" in child.name
    ]


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def tree(item: int) -> dict[str, Any]:
    """A result of every kind: arrays of odd sizes, none, empty, not contiguous, scalars, nested."""
    return {
        "a": np.full((item % 3, 5), item, np.uint8),
        "b": [np.arange(7.0) + item, None, "text"],
        "c": np.arange(24).reshape(4, 6)[:, ::2] * item,
        "d": (item, {"e": np.array(item, np.int64)}),
    }


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("workers", [0, 1, 3, 9])
def test_results_come_in_order_and_whole(workers: int, threads: bool) -> None:
    results = list(run(tree, 8, workers, threads=threads))
    assert len(results) == 8
    for item, result in enumerate(results):
        expected = tree(item)
        assert (result["a"] == expected["a"]).all() and result["a"].shape == expected["a"].shape
        assert (result["b"][0] == expected["b"][0]).all() and result["b"][1:] == [None, "text"]
        assert (result["c"] == expected["c"]).all() and result["c"].dtype == expected["c"].dtype
        assert result["d"][0] == result["d"][1]["e"] == item
    results[3]["a"][:] = 1  # the arrays can be written, and outlive the workers
    assert children() == []


def test_no_items_and_results_without_arrays() -> None:
    assert list(run(tree, 0, 4)) == []
    assert list(run(lambda item: item * item, 5, 2)) == [0, 1, 4, 9, 16]


def test_workers_end_with_the_iterator() -> None:
    results = run(tree, 1000, 2)
    next(results)
    pids = children()
    assert len(pids) == 2
    del results
    gc.collect()
    assert wait_until(lambda: all(map(gone, pids)))


def test_no_more_results_are_made_than_asked_for(tmp_path: Path) -> None:
    def touch(item: int) -> int:
        (tmp_path / str(item)).touch()
        return item

    results = run(touch, 1000, 2, prefetch=3)
    assert next(results) == 0
    assert wait_until(lambda: len(list(tmp_path.iterdir())) == 7)
    time.sleep(0.3)
    assert len(list(tmp_path.iterdir())) == 7  # the one taken, and two workers with three each
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_users_error_arrives_as_it_is_when_its_turn_comes(workers: int) -> None:
    def fail(item: int) -> int:
        if item == 3:
            raise ConfigError("train-00000.tar:a: bad")
        return item

    results = run(fail, 10, workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ConfigError) as error:
        next(results)
    assert str(error.value) == "train-00000.tar:a: bad"
    assert children() == []


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(
        RuntimeError, match=r"data worker 0 failed on step 0:\nTraceback[\s\S]*ZeroDivisionError"
    ):
        next(run(lambda item: 1 // item, 4, 2))


def test_a_killed_worker_is_an_error_at_once() -> None:
    def last_words(item: int) -> int:
        if item == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    results = run(last_words, 100, 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    start = time.monotonic()
    with pytest.raises(
        DataError,
        match=r"data worker 1 \(pid \d+\) was killed \(signal 9; out of memory\?\) before .* step 3",
    ):
        next(results)
    assert time.monotonic() - start < 5 and children() == []


def test_a_worker_killed_from_outside_while_idle_loses_only_what_it_had_not_sent() -> None:
    results = run(lambda item: np.full(9, item), 100, 1, prefetch=2)
    assert next(results)[0] == 0
    time.sleep(0.3)
    os.kill(children()[0], signal.SIGKILL)
    taken: list[int] = []
    with pytest.raises(DataError, match=r"signal 9; out of memory\?"):
        taken.extend(result[0] for result in results)
    assert children() == []


def test_a_worker_that_exits_is_an_error() -> None:
    with pytest.raises(DataError, match="ended with exit code 3 before it finished step 0"):
        next(run(lambda item: os._exit(3), 4, 1))


def test_a_slow_worker_is_an_error_that_names_the_step() -> None:
    start = time.monotonic()
    with pytest.raises(
        DataError, match=r"data worker 0 .* not finished step 0 within 0\.5 s; .*data\.timeout_s"
    ):
        next(run(lambda item: time.sleep(60), 4, 2, timeout_s=0.5))
    assert time.monotonic() - start < 5 and children() == []


def test_signals_to_the_group_do_not_stop_workers() -> None:
    results = run(lambda item: item, 200, 2, prefetch=1)
    assert next(results) == 0 and next(results) == 1
    for pid in children():
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    assert list(results) == list(range(2, 200))


def open_names(pid: int | str) -> set[str]:
    names = set()
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):
            names.add(os.readlink(link))
    return names


def shared_names(pids: list[int]) -> list[str]:
    """Files of /dev/shm and /tmp that processes have open; not what they have from here, such as a log."""
    names = set().union(*map(open_names, pids)) - open_names("self")
    return [name for name in names if name.startswith(("/dev/shm/", "/tmp/")) and "deleted" not in name]


def leave_workers_behind(tell: Connection, end: Callable[[], None]) -> None:
    """A parent process that never closes its iterator."""
    results = run(lambda item: time.sleep(0.01) or np.zeros(1000), 10**6, 2)
    next(results), next(results)
    tell.send(children())
    end()


@pytest.mark.parametrize(
    ("end", "code"), [(lambda: os.kill(os.getpid(), signal.SIGKILL), -9), (lambda: None, 0)]
)
def test_workers_do_not_outlive_their_parent_nor_hold_up_its_exit(end: Callable[[], None], code: int) -> None:
    ours, theirs = CONTEXT.Pipe()
    parent = CONTEXT.Process(target=leave_workers_behind, args=(theirs, end))
    parent.start()
    pids = ours.recv()
    held = shared_names(pids)
    parent.join(10)
    assert parent.exitcode == code and len(pids) == 2
    assert held == [], "a kill would leave these behind"
    assert wait_until(lambda: all(map(gone, pids)))


def test_workers_start_after_opencv_has_worked_here():
    """A fork of a process in which OpenCV had started its threads used to hang."""
    big = np.zeros((2000, 2000, 3), np.uint8)
    cv2.GaussianBlur(big, (31, 31), 5)
    cv2.resize(big, (900, 900))
    assert list(pool.ahead(str, [1, 2], workers=2, prefetch=1, timeout_s=20, describe=str)) == ["1", "2"]


class Heirloom:
    """Garbage of this process, in a cycle, whose end is told."""

    def __init__(self, told: Path) -> None:
        self.told = told
        self.cycle = self

    def __del__(self) -> None:
        self.told.write_text(str(os.getpid()))


def collect_garbage(item: int) -> int:
    gc.collect()
    return item


def test_workers_leave_their_parents_garbage_alone(tmp_path: Path):
    """Its end may wait for threads or connections that a forked process does not have."""
    gc.disable()
    try:
        Heirloom(tmp_path / "told")
        assert list(run(collect_garbage, 2, workers=1)) == [0, 1]
        assert not (tmp_path / "told").exists()
        gc.collect()
        assert (tmp_path / "told").read_text() == str(os.getpid())
    finally:
        gc.enable()


def in_place(item: int) -> dict[str, np.ndarray]:
    """Arrays made where they are sent from, of sizes that grow and shrink, and one that is not."""
    size = (7 * item) % 23 + 1
    made = {name: shared_empty((size, 3), np.dtype(np.int32)) for name in "ab"}
    for number, array in enumerate(made.values()):
        array[...] = item + number
    return {**made, "c": np.full(size, item), "view": made["a"][::2]}


@pytest.mark.parametrize("keep", [False, True])
def test_arrays_made_in_shared_memory_arrive_and_stay(keep: bool) -> None:
    """Whether they are kept, so that each needs memory of its own, or dropped, so that it is used again."""
    kept = []
    for item, result in enumerate(run(in_place, 60, 2, prefetch=3)):
        assert (result["a"] == item).all() and (result["b"] == item + 1).all() and (result["c"] == item).all()
        assert (result["view"] == item).all()
        kept += [result] if keep else []
    for item, result in enumerate(kept):
        assert all((result[name] == item + (name == "b")).all() for name in result)


def test_memory_is_used_again_once_its_arrays_are_gone() -> None:
    results = run(lambda item: {"a": shared_empty((1000, 1000), np.dtype(np.uint8))}, 200, 1)
    first = next(results)
    addresses = {result["a"].ctypes.data for result in results}
    assert len(addresses) < 10, "a block for each result"
    assert first["a"].ctypes.data not in addresses


def test_results_without_arrays_in_between_cost_no_memory() -> None:
    def work(item: int) -> Any:
        if item % 3:
            return item
        files = sum("memfd" in os.readlink(link) for link in Path("/proc/self/fd").glob("*") if link.exists())
        return shared_empty((100,), np.dtype(np.uint8)), files

    found = [result[1] for item, result in enumerate(run(work, 601, 1)) if item % 3 == 0]
    assert found[-1] < 20


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def shared_memory() -> int:
    """Mappings of this process that have a name in /dev/shm, which others may use meanwhile, or in memory."""
    return sum(
        "/dev/shm/" in line or "memfd:unimatch" in line
        for line in Path("/proc/self/maps").read_text().splitlines()
    )


def grow(tell: Connection) -> None:
    list(run(in_place, 50, 2))
    gc.collect()
    before = open_files(), shared_memory(), threading.active_count()
    maps = Path("/proc/self/maps")
    lines = 0
    for item, result in enumerate(run(in_place, 3000, 2)):
        if item == 500:
            lines = len(maps.read_text().splitlines())
        del result  # its memory is a mapping and a file descriptor
    gc.collect()
    after = open_files(), shared_memory(), threading.active_count()
    tell.send((before, after, len(maps.read_text().splitlines()) - lines))


def test_nothing_grows_over_many_results() -> None:
    """The short version of `tools/bench.py endurance`. In a process of its own: here, threads and connections
    of earlier tests may end meanwhile.
    """
    ours, theirs = CONTEXT.Pipe()
    alone = CONTEXT.Process(target=grow, args=(theirs,))
    alone.start()
    assert ours.poll(60), "the process ended, or hangs"
    before, after, new_mappings = ours.recv()
    alone.join(10)
    assert after == before and new_mappings <= 5


def test_the_monitor_knows_what_waits_and_where_time_goes() -> None:
    def work(item: int) -> int:
        with stage("decode"):
            time.sleep(0.02)
        with stage("views"):
            time.sleep(0.005)
        return item

    for options in ({"workers": 2}, {"workers": 2, "threads": True}, {"workers": 0}):
        monitor = Monitor()
        results = run(work, 10, monitor=monitor, **options)
        next(results)
        if options["workers"]:
            time.sleep(0.5)
            monitor.figures()
            next(results)
            # The second of worker 1, and what both made after it: prefetch is 2.
            assert monitor.figures()["queue"] == 4, options
        list(results)
        figures = monitor.figures()
        assert 0.015 < figures["decode_s"] < 0.2 and 0.003 < figures["views_s"] < figures["decode_s"], figures
        assert figures["read_s"] == 0 and monitor.figures()["decode_s"] == 0


@pytest.mark.parametrize("threads", [False, True])
def test_a_stall_names_the_stage(threads: bool) -> None:
    def work(item: int) -> int:
        with stage("read"):
            time.sleep(3 if item == 2 else 0.01)
        return item

    results = run(work, 8, 1, timeout_s=0.5, threads=threads)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(
        DataError,
        match=r"has not finished step 2 within 0\.5 s and is in stage 'read' \(so far: read 100 %\)",
    ):
        next(results)


def test_threads_end_with_the_iterator_and_tell_errors() -> None:
    def fail(item: int) -> int:
        if item == 3:
            raise ConfigError("bad")
        return 1 // (item - 5)

    results = run(fail, 10, 2, threads=True)
    assert [next(results) for _ in range(3)] == [-1, -1, -1]
    with pytest.raises(ConfigError, match="^bad$"):
        next(results)
    with pytest.raises(RuntimeError, match=r"failed on step 5:\nTraceback[\s\S]*ZeroDivisionError"):
        list(run(lambda item: 1 // (item - 5), 10, 2, threads=True))
    names = [thread.name for thread in threading.enumerate()]
    assert wait_until(lambda: not any("data worker" in thread.name for thread in threading.enumerate())), (
        names
    )


def test_threads_make_no_more_results_than_asked_for() -> None:
    made: list[int] = []
    results = run(lambda item: made.append(item), 1000, 2, prefetch=3, threads=True)
    next(results)
    assert wait_until(lambda: len(made) == 7)
    time.sleep(0.2)
    assert len(made) == 7
    results.close()  # type: ignore[attr-defined]


def test_default_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, processes, expected in [(2, "1", 1), (1, "1", 1), (16, "1", 15), (64, "4", 15), (64, "1", 16)]:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        monkeypatch.setattr("unimatch.cores.quota", lambda _: None)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert pool.default_workers() == expected
