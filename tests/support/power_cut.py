"""A power cut at any moment: what was not flushed to disk is lost, though its name may be there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CALLS = ("fsync", "replace", "rename", "unlink")


class PowerCut(BaseException):
    """Nothing runs any more."""


@contextmanager
def power_cut(root: Path, survived: int) -> Iterator[None]:
    """Inside, the machine stops right before the call to the file system after the `survived` first ones.

    Names are taken to be on disk as soon as they are given, the worst that a file system does: of the files
    below `root` whose bytes are not those of their last flush, the bytes are zeros then.
    """
    flushed = {path.stat().st_ino: path.read_bytes() for path in _files(root)}
    done = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            if done >= survived:
                raise PowerCut
            done += 1
            if call is real["fsync"]:
                file = os.fstat(args[0])
                for path in _files(root):
                    if path.stat().st_ino == file.st_ino:
                        flushed[file.st_ino] = path.read_bytes()
            return call(*args, **kwargs)

        return counting

    real = {name: getattr(os, name) for name in CALLS}
    with pytest.MonkeyPatch.context() as patch:
        for name, call in real.items():
            patch.setattr(os, name, counted(call))
        try:
            yield
        except PowerCut:
            pass
        else:
            return
    for path in _files(root):
        data = path.read_bytes()
        if flushed.get(path.stat().st_ino) != data:
            path.write_bytes(bytes(len(data)))


def _files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]


def cuts(work: Callable[[], Any], root: Path, fresh: Callable[[], Any]) -> Iterator[int]:
    """Cuts `work` after 0, 1, 2 ... calls, each time on what `fresh` makes; ends with the first whole one."""
    survived = 0
    finished = False
    while not finished:
        fresh()
        finished = False
        with power_cut(root, survived):
            work()
            finished = True
        yield survived
        survived += 1
