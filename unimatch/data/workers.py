"""Results of a function, computed ahead by worker processes and handed out in order.

Not torch's DataLoader: its dead workers raise RuntimeError from a signal handler, anywhere in the trainer,
and its slow ones are told from dead ones only after the full timeout. Here both are found while waiting for a
result, and named. Arrays travel in anonymous shared memory, one block and one file descriptor a result,
mapped and not copied; so the size of /dev/shm, 64 MB in many containers, does not matter.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import connection, reduction, util
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import numpy as np
import torch

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


def ahead(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    prefetch: int,
    timeout_s: float,
    describe: Callable[[Item], str],
) -> Iterator[Result]:
    """Yield function(item) for each item, in order.

    Item i is computed by worker i modulo `workers` (0: right here), which holds at most `prefetch` finished
    results. A UserError of the function is raised as it is, any other exception as RuntimeError with its
    traceback. DataError, with `describe(item)`, when a worker dies or a result takes longer than `timeout_s`.
    Workers end with the iterator. Results are trees of plain objects and NumPy arrays.
    """
    workers = min(workers, len(items))
    if workers == 0:
        yield from map(function, items)
        return
    pool = _Pool(function, items, workers, prefetch)
    try:
        for place, item in enumerate(items):
            yield pool.take(place % workers, timeout_s, partial(describe, item))
    finally:
        pool.stop()


class _Pool:
    """Workers, each with a two-way pipe: credits go in, one per result that may be made; results come out."""

    def __init__(
        self, function: Callable[[Any], Any], items: Sequence[Any], workers: int, prefetch: int
    ) -> None:
        self.pipes: list[Connection] = []
        self.processes: list[BaseProcess] = []
        # Runs before multiprocessing waits for its children at exit: they ignore its SIGTERM.
        self.stop = util.Finalize(self, _kill, (self.processes, self.pipes), exitpriority=10)
        for number in range(workers):
            ours, theirs = CONTEXT.Pipe()
            arguments = (theirs, function, items[number::workers], os.getpid())
            process = CONTEXT.Process(target=_work, args=arguments, name=f"data worker {number}")
            process.start()
            theirs.close()  # so that the worker's death is the end of the stream
            self.processes.append(process)
            self.pipes.append(ours)
            for _ in range(max(1, prefetch)):
                self._credit(number)

    def _credit(self, number: int) -> None:
        with suppress(OSError):  # a dead worker is reported when its next result is asked for
            self.pipes[number].send_bytes(b"+")

    def take(self, number: int, timeout_s: float, describe: Callable[[], str]) -> Any:
        """The next result of a worker."""
        pipe, process = self.pipes[number], self.processes[number]
        ready = connection.wait([pipe, process.sentinel], timeout_s)
        if not ready:
            raise DataError(
                f"{process.name} (pid {process.pid}) has not finished {describe()} within {timeout_s:g} s; "
                "the storage or this machine is too slow, or hangs: raise data.timeout_s or use more workers"
            )
        try:
            kind, result = _receive(pipe)
        except (EOFError, OSError) as error:
            raise DataError(_death(process, describe())) from error
        self._credit(number)
        if kind == "user error":
            raise result
        if kind == "bug":
            raise RuntimeError(f"{process.name} failed on {describe()}:\n{result}")
        return result


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


def _work(pipe: Connection, function: Callable[[Any], Any], items: Sequence[Any], parent: int) -> None:
    """A worker's life: results as long as there are credits, then nothing until the parent ends it or is
    gone.
    """
    # A signal to the whole group (Ctrl-C, a scheduler's warning) is the trainer's to act upon, after its
    # checkpoint.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # What the parent left to its garbage collector stays: its end (threads to join, sockets to close) is the
    # parent's affair and may hang where those threads are not.
    gc.freeze()
    torch.set_num_threads(1)
    with suppress(EOFError, OSError):  # the parent is gone
        for item in items:
            _await_credit(pipe, parent)
            _send(pipe, _attempt(function, item), parent)
        while True:
            _await_credit(pipe, parent)


def _attempt(function: Callable[[Any], Any], item: Any) -> tuple[str, Any]:
    try:
        return "result", function(item)
    except UserError as error:
        return "user error", type(error)(*error.args)  # without its traceback and context
    except Exception:
        return "bug", traceback.format_exc()


def _await_credit(pipe: Connection, parent: int) -> None:
    while not pipe.poll(PARENT_CHECK_S):
        if os.getppid() != parent:
            raise EOFError("the parent is gone")
    pipe.recv_bytes()


def _send(pipe: Connection, result: tuple[str, Any], parent: int) -> None:
    """Send an object; its arrays go through one block of shared memory that has no name."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(result, protocol=5, buffer_callback=buffers.append)
    raws = [buffer.raw() for buffer in buffers]
    ends = np.cumsum([-(-len(raw) // ALIGNMENT) * ALIGNMENT for raw in raws], dtype=np.int64).tolist()
    spans = [(start, start + len(raw)) for start, raw in zip([0, *ends], raws, strict=False)]
    pipe.send((head, spans))
    if not spans:
        return
    block = _anonymous_file()
    try:
        os.ftruncate(block, max(ends[-1], 1))
        for raw, (start, end) in zip(raws, spans, strict=True):
            while start < end:
                start += os.pwrite(block, raw[len(raw) - (end - start) :], start)
        reduction.send_handle(pipe, block, parent)
    finally:
        os.close(block)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):  # Linux
        return os.memfd_create("unimatch")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _receive(pipe: Connection) -> tuple[str, Any]:
    """The object that `_send` sent; its arrays lie in the shared memory, which lives as long as they do."""
    head, spans = pipe.recv()
    if not spans:
        return pickle.loads(head)
    block = reduction.recv_handle(pipe)
    try:
        memory = np.frombuffer(mmap.mmap(block, 0), np.uint8)
    finally:
        os.close(block)
    return pickle.loads(head, buffers=[memory[start:end] for start, end in spans])
