"""Folders that are complete once they have their name: a crash at any moment leaves what stood there before.

A folder is filled as .NAME.partial beside it, by one process or by several, and renamed when all is on disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from unimatch.durable import sync
from unimatch.errors import UserError

LITTLE_BYTES = 2**20  # a file system with less room is full


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fills a new folder and gives it its name when it is complete and on disk; replaces an older one.

    Raises:
        UserError: the disk is full or refuses; what stood there before is intact.
    """
    try:
        with writing(folder):
            fill(begin(folder))
            commit(folder)
    except UserError:
        drop(folder)
        raise


def partial_of(folder: Path) -> Path:
    """Where a folder lies until it is complete."""
    return folder.with_name(f".{folder.name}.partial")


def begin(folder: Path) -> Path:
    """An empty `partial_of`, whatever an earlier attempt left there."""
    partial = partial_of(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def commit(folder: Path) -> None:
    """Gives what lies in `partial_of` its name, once all of it is on disk; replaces an older folder."""
    partial = partial_of(folder)
    for path in partial.rglob("*"):
        sync(path)
    sync(partial)
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
        os.replace(partial, folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(partial, folder)
    sync(folder.parent)


def drop(folder: Path) -> None:
    """Removes `partial_of`."""
    shutil.rmtree(partial_of(folder), ignore_errors=True)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Around what writes parts of a folder: what goes wrong is a UserError with the reason."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # Both savers wrap a failed write in errors of their own. torch tells of a short write and not of its
        # cause.
        full = (
            getattr(error, "errno", None) == errno.ENOSPC
            or "No space left" in str(error)
            or _is_full(partial_of(folder))
        )
        reason = "no space left on the device" if full else str(error)
        raise UserError(
            f"could not write the checkpoint {folder}: {reason}. Earlier checkpoints are intact: make "
            f"room and start again with --resume"
        ) from error


def _is_full(folder: Path) -> bool:
    return folder.exists() and shutil.disk_usage(folder).free < LITTLE_BYTES


def point(link: Path, target: Path) -> None:
    """Makes `link` a symbolic link to `target`, in one step."""
    temporary = link.with_name(f".{link.name}.partial")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)
    sync(link.parent)
