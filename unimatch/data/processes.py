"""Workers that are processes: named in the error when they die or are late, and ended by a kill."""

from __future__ import annotations

import gc
import mmap
import multiprocessing
import os
import selectors
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import connection, util
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import cv2
import numpy as np
import torch

from unimatch.data.shared_memory import PARENT_CHECK_S, Inbox, open_desk
from unimatch.data.stages import Monitor, watch
from unimatch.data.threads import stall
from unimatch.errors import DataError, UserError

KILL_WAIT_S = 5.0
# fork: workers start in milliseconds and share the parent's pages. It is not safe on macOS.
if sys.platform.startswith("linux"):
    CONTEXT = multiprocessing.get_context("fork")
else:
    CONTEXT = multiprocessing.get_context("spawn")


class ProcessPool:
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
        self.inboxes: list[Inbox] = []
        self.ends: list[selectors.PollSelector] = []  # of each worker: its pipe, and its death
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
            self.inboxes.append(Inbox(ours))
            self.ends.append(selectors.PollSelector())
            for end in (ours, process.sentinel):
                self.ends[number].register(end, selectors.EVENT_READ)
            for _ in range(max(1, prefetch)):
                self.inboxes[number].send_credit()

    def _ready(self) -> int:
        """Results that wait; of workers that were not forked, only whether they have one."""
        if self.board is None:
            return len(connection.wait(self.pipes, 0))
        return sum(np.frombuffer(self.board, np.int64)[::2].tolist()) - sum(self.taken)

    def take(self, number: int, timeout_s: float, describe: Callable[[], str]) -> Any:
        """The next result of a worker."""
        process = self.processes[number]
        self.monitor.asked(self._ready())
        if not self.ends[number].select(timeout_s):
            at = 0 if self.board is None else int(np.frombuffer(self.board, np.int64)[2 * number + 1])
            raise DataError(
                stall(f"{process.name} (pid {process.pid})", describe(), timeout_s, at, self.monitor)
            )
        try:
            (kind, result), spent = self.inboxes[number].receive()
        except (EOFError, OSError) as error:
            raise DataError(_death(process, describe())) from error
        self.taken[number] += 1
        self.monitor.add(spent)
        self.inboxes[number].send_credit()
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
    # A signal to the whole group (Ctrl-C, a scheduler's warning) is the trainer's to act upon, after its
    # checkpoint.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # What the parent left to its garbage collector stays: its end (threads to join, sockets to close) is the
    # parent's affair and may hang where those threads are not.
    gc.freeze()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    desk = open_desk(pipe, parent)
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
