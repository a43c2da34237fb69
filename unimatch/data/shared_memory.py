"""Arrays sent from a worker process to its parent in anonymous shared memory, one block a result, not copied.

The size of /dev/shm, 64 MB in many containers, does not matter, and nothing is left behind by a kill. Arrays
from `shared_empty` are made in that memory to begin with. A block is used again once all arrays in it are
gone, since fresh memory must be cleared and mapped page by page, on both sides.
"""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
import weakref
from contextlib import suppress
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

ALIGNMENT = 64
PARENT_CHECK_S = 1.0


def shared_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array as np.empty makes it; in a worker process where it need not be copied to be sent. The
    worker must not keep it beyond the result that it is part of.
    """
    return np.empty(shape, dtype) if _desk is None else _desk.empty(shape, dtype)


_desk: Desk | None = None  # of this process, if it is a worker


def open_desk(pipe: Connection, parent: int) -> Desk:
    """This worker's desk, where `shared_empty` makes its arrays from now on."""
    global _desk
    _desk = Desk(pipe, parent)
    return _desk


class Inbox:
    """The parent's side of a worker's pipe: the memory of its results, mapped, and what is free of it."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.blocks: dict[int, mmap.mmap] = {}
        self.free: list[int] = []

    def send_credit(self) -> None:
        """Let the worker make one more result, and tell it the blocks that are free again."""
        names = [self.free.pop() for _ in range(len(self.free))]
        with suppress(OSError):  # a dead worker is reported when its next result is asked for
            self.pipe.send_bytes(np.array(names, np.int64).tobytes())

    def receive(self) -> tuple[tuple[str, Any], dict[str, float]]:
        """What `Desk.send` sent; its arrays lie in shared memory, which is theirs as long as they live."""
        head, spans, spent, block, new = self.pipe.recv()
        if not spans:
            return pickle.loads(head), spent
        if new:
            handle = reduction.recv_handle(self.pipe)
            try:
                self.blocks[block] = mmap.mmap(handle, 0)
            finally:
                os.close(handle)
        memory = np.frombuffer(self.blocks[block], np.uint8)
        # Every array below has `memory` at its root: when it goes, the last of them has gone.
        weakref.finalize(memory, self.free.append, block).atexit = False
        return pickle.loads(head, buffers=[memory[start:end] for start, end in spans]), spent


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


class Desk:
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


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):  # Linux
        return os.memfd_create("unimatch")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
