"""Results of a function, computed ahead by worker processes and handed out in order.

Not torch's DataLoader: its dead workers raise RuntimeError from a signal handler, anywhere in the trainer,
and its slow ones are told from dead ones only after the full timeout. Here both are found while waiting for a
result, and named. Arrays travel in anonymous shared memory, one block a result, mapped and not copied; so
the size of /dev/shm, 64 MB in many containers, does not matter, and nothing is left behind by a kill.
Arrays from `shared_empty` are made in that memory to begin with. A block is used again once all arrays in it
are gone, since fresh memory must be cleared and mapped page by page, on both sides.
"""

from __future__ import annotations

import gc
import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import connection, reduction, util
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import cv2
import numpy as np
import torch

from unimatch.data.stages import Monitor, watch
from unimatch.data.threads import ThreadPool, stall
from unimatch.errors import DataError, UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

ALIGNMENT = 64
PARENT_CHECK_S = 1.0
KILL_WAIT_S = 5.0
# fork: workers start in milliseconds and share the parent's pages. It is not safe on macOS.
if sys.platform.startswith("linux"):
    CONTEXT = multiprocessing.get_context("fork")
else:
    CONTEXT = multiprocessing.get_context("spawn")


def default_workers() -> int:
    """A worker for each core of this machine that is this process's share, less one for itself, 1 to 16."""
    # What a scheduler left of the cores, where the system tells.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # as torchrun and accelerate tell
    return min(max(cores // max(processes, 1) - 1, 1), 16)


def ahead(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    prefetch: int,
    timeout_s: float,
    describe: Callable[[Item], str],
    threads: bool = False,
    monitor: Monitor | None = None,
) -> Iterator[Result]:
    """Yield function(item) for each item, in order.

    Item i is computed by worker i modulo `workers` (0: right here), which holds at most `prefetch` finished
    results. A UserError of the function is raised as it is, any other exception as RuntimeError with its
    traceback. DataError, with `describe(item)`, when a worker dies or a result takes longer than `timeout_s`.
    Workers end with the iterator. Results are trees of plain objects and NumPy arrays. `threads`: workers are
    threads of this process. `monitor` is told how many results wait and where the workers spend their time.
    """
    workers = min(workers, len(items))
    monitor = monitor or Monitor()
    if workers == 0:
        for item in items:
            monitor.asked(0)
            spent: dict[str, float] = {}
            with watch(spent):
                result = function(item)
            monitor.add(spent)
            yield result
        return
    pool: ThreadPool | _Pool
    if threads:
        pool = ThreadPool(function, items, workers, prefetch, monitor)
    else:
        pool = _Pool(function, items, workers, prefetch, monitor)
    try:
        for place, item in enumerate(items):
            yield pool.take(place % workers, timeout_s, partial(describe, item))
    finally:
        pool.stop()


def shared_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array as np.empty makes it; in a worker process where it need not be copied to be sent. The
    worker must not keep it beyond the result that it is part of.
    """
    return np.empty(shape, dtype) if _desk is None else _desk.empty(shape, dtype)


class _Pool:
    """Workers, each with a two-way pipe: credits go in, one per result that may be made; results come out.

    A credit names the blocks of memory that are free again.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        workers: int,
        prefetch: int,
        monitor: Monitor,
    ) -> None:
        self.monitor = monitor
        self.pipes: list[Connection] = []
        self.processes: list[BaseProcess] = []
        self.blocks: list[dict[int, mmap.mmap]] = [{} for _ in range(workers)]
        self.free: list[list[int]] = [[] for _ in range(workers)]
        self.taken = [0] * workers
        # Of each worker: how many results it has made, and the stage it is in. Shared by forked workers only.
        self.board = mmap.mmap(-1, 16 * workers) if CONTEXT.get_start_method() == "fork" else None
        # Runs before multiprocessing waits for its children at exit: they ignore its SIGTERM.
        self.stop = util.Finalize(self, _kill, (self.processes, self.pipes), exitpriority=10)
        for number in range(workers):
            ours, theirs = CONTEXT.Pipe()
            arguments = (theirs, function, items[number::workers], os.getpid(), self.board, number)
            process = CONTEXT.Process(target=_work, args=arguments, name=f"data worker {number}")
            process.start()
            theirs.close()  # so that the worker's death is the end of the stream
            self.processes.append(process)
            self.pipes.append(ours)
            for _ in range(max(1, prefetch)):
                self._credit(number)

    def _credit(self, number: int) -> None:
        free = self.free[number]
        names = [free.pop() for _ in range(len(free))]
        with suppress(OSError):  # a dead worker is reported when its next result is asked for
            self.pipes[number].send_bytes(np.array(names, np.int64).tobytes())

    def _ready(self) -> int:
        """Results that wait; of workers that were not forked, only whether they have one."""
        if self.board is None:
            return len(connection.wait(self.pipes, 0))
        return sum(np.frombuffer(self.board, np.int64)[::2].tolist()) - sum(self.taken)

    def take(self, number: int, timeout_s: float, describe: Callable[[], str]) -> Any:
        """The next result of a worker."""
        pipe, process = self.pipes[number], self.processes[number]
        self.monitor.asked(self._ready())
        ready = connection.wait([pipe, process.sentinel], timeout_s)
        if not ready:
            at = 0 if self.board is None else int(np.frombuffer(self.board, np.int64)[2 * number + 1])
            raise DataError(
                stall(f"{process.name} (pid {process.pid})", describe(), timeout_s, at, self.monitor)
            )
        try:
            (kind, result), spent = self._receive(number)
        except (EOFError, OSError) as error:
            raise DataError(_death(process, describe())) from error
        self.taken[number] += 1
        self.monitor.add(spent)
        self._credit(number)
        if kind == "user error":
            raise result
        if kind == "bug":
            raise RuntimeError(f"{process.name} failed on {describe()}:\n{result}")
        return result

    def _receive(self, number: int) -> tuple[tuple[str, Any], dict[str, float]]:
        """What `_Desk.send` sent; its arrays lie in shared memory, which is theirs as long as they live."""
        pipe, blocks = self.pipes[number], self.blocks[number]
        head, spans, spent, block, new = pipe.recv()
        if not spans:
            return pickle.loads(head), spent
        if new:
            handle = reduction.recv_handle(pipe)
            try:
                blocks[block] = mmap.mmap(handle, 0)
            finally:
                os.close(handle)
        memory = np.frombuffer(blocks[block], np.uint8)
        # Every array below has `memory` at its root: when it goes, the last of them has gone.
        weakref.finalize(memory, self.free[number].append, block).atexit = False
        return pickle.loads(head, buffers=[memory[start:end] for start, end in spans]), spent


def _kill(processes: list[BaseProcess], pipes: list[Connection]) -> None:
    """End the workers at once: they hold nothing that needs an orderly end."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join(KILL_WAIT_S)  # one that hangs in a dead network file system cannot even be killed
    for pipe in pipes:
        pipe.close()


def _death(process: BaseProcess, what: str) -> str:
    process.join(PARENT_CHECK_S)
    code = process.exitcode
    if code is None or code >= 0:
        how = f"ended with exit code {code}"
    else:
        hints: dict[int, str] = {
            signal.SIGKILL: "; out of memory?",
            signal.SIGBUS: "; out of shared memory, or a shard was cut?",
        }
        how = f"was killed (signal {-code}{hints.get(-code, '')})"
    return f"{process.name} (pid {process.pid}) {how} before it finished {what}"


def _work(
    pipe: Connection,
    function: Callable[[Any], Any],
    items: Sequence[Any],
    parent: int,
    board: mmap.mmap | None,
    number: int,
) -> None:
    """A worker's life: results as long as there are credits, then nothing until the parent ends it or is
    gone.
    """
    global _desk
    # A signal to the whole group (Ctrl-C, a scheduler's warning) is the trainer's to act upon, after its
    # checkpoint.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # What the parent left to its garbage collector stays: its end (threads to join, sockets to close) is the
    # parent's affair and may hang where those threads are not.
    gc.freeze()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _desk = desk = _Desk(pipe, parent)
    told = None if board is None else np.frombuffer(board, np.int64)[2 * number : 2 * number + 2]
    with suppress(EOFError, OSError):  # the parent is gone
        for item in items:
            desk.await_credit()
            spent: dict[str, float] = {}
            with watch(spent, None if told is None else told[1:]):
                result = _attempt(function, item)
            desk.send(result, spent)
            del result
            if told is not None:
                told[0] += 1
        while True:
            desk.await_credit()


def _attempt(function: Callable[[Any], Any], item: Any) -> tuple[str, Any]:
    try:
        return "result", function(item)
    except UserError as error:
        return "user error", type(error)(*error.args)  # without its traceback and context
    except Exception:
        return "bug", traceback.format_exc()


class _Block:
    """Anonymous shared memory; the process that reads it maps it too."""

    def __init__(self, name: int, size: int) -> None:
        self.name = name
        self.size = size
        self.file = _anonymous_file()
        os.ftruncate(self.file, size)
        self.memory = np.frombuffer(mmap.mmap(self.file, size), np.uint8)
        self.address = self.memory.ctypes.data
        self.new = True  # not told to the parent yet


class _Desk:
    """A worker's side of its pipe, and the blocks of memory that its results lie in."""

    def __init__(self, pipe: Connection, parent: int) -> None:
        self.pipe = pipe
        self.parent = parent
        self.blocks: dict[int, _Block] = {}
        self.free: list[_Block] = []
        self.block: _Block | None = None  # of the result that is being made
        self.used = 0
        self.asked = 0  # bytes that this result wants, whether they fit or not
        self.size = 0  # of the largest result so far

    def await_credit(self) -> None:
        """Wait until a result may be made. EOFError: the parent is gone."""
        while not self.pipe.poll(PARENT_CHECK_S):
            if os.getppid() != self.parent:
                raise EOFError("the parent is gone")
        for name in np.frombuffer(self.pipe.recv_bytes(), np.int64).tolist():
            self.free.append(self.blocks[name])
        self._begin()

    def _begin(self) -> None:
        """Choose the memory of the next result: as large as the largest before; none for the first."""
        self.used = self.asked = 0
        for block in [block for block in self.free if block.size < self.size]:
            self.free.remove(block)
            del self.blocks[block.name]
            os.close(block.file)
        if self.free:
            self.block = self.free.pop()
        elif self.size:
            self.block = self._new_block(self.size)

    def _new_block(self, size: int) -> _Block:
        name = max(self.blocks, default=0) + 1
        self.blocks[name] = _Block(name, size)
        return self.blocks[name]

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        start, self.asked = self.asked, _aligned(self.asked + size)
        if self.block is None or self.asked > self.block.size:
            return np.empty(shape, dtype)
        self.used = self.asked
        return self.block.memory[start : start + size].view(dtype).reshape(shape)

    def send(self, result: tuple[str, Any], spent: dict[str, float]) -> None:
        """Send an object; its arrays go through one block of memory, most of them lie there already."""
        buffers: list[pickle.PickleBuffer] = []
        head = pickle.dumps(result, protocol=5, buffer_callback=buffers.append)
        raws = [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]
        if not raws:
            self.free += [] if self.block is None else [self.block]
            self.block = None
            self.pipe.send((head, [], spent, 0, False))
            return
        block = self.block
        spans: list[tuple[int, int]] = []
        end = self.used
        for raw in raws:
            start = -1 if block is None else raw.ctypes.data - block.address
            if block is None or not 0 <= start < max(block.size, 1):
                start, end = end, _aligned(end + len(raw))
            spans.append((start, start + len(raw)))
        needed = max(end, 1)
        self.size = max(self.size, needed, self.asked)
        if block is None or needed > block.size:
            old, block = block, self._new_block(self.size)
            if old is not None:  # the arrays in it move to the new one
                block.memory[: self.used] = old.memory[: self.used]
                self.free.append(old)
        for raw, (start, stop) in zip(raws, spans, strict=True):
            if raw.ctypes.data - block.address != start:
                block.memory[start:stop] = raw
        self.block = None
        self.pipe.send((head, spans, spent, block.name, block.new))
        if block.new:
            reduction.send_handle(self.pipe, block.file, self.parent)
            block.new = False


_desk: _Desk | None = None  # of this process, if it is a worker


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):  # Linux
        return os.memfd_create("unimatch")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
