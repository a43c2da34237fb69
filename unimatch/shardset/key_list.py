"""Key lists: text files that name samples, one key a line; the order of the lines does not matter.

Lists that this package writes start with their number of keys and a hash, so that a cut or edited one is not
trained on by mistake. Lists without that line are read as they are. In published splits, which travel with
the package, the line goes on: of how many samples of which subset these are the labelled ones, and whose list
it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from unimatch.errors import DataError

HEADER = "# unimatch split:"
HEADER_LINE = re.compile(
    re.escape(HEADER) + r" (?P<count>\d+) keys, sha256 (?P<hash>[0-9a-f]{16})"
    r"(?:, of (?P<total>\d+) in (?P<subset>\w+); (?P<source>.+))?"
)


@dataclass(frozen=True)
class Published:
    """What the first line of a published list says beside its hash."""

    total: int  # samples of the subset that the list divides; the others are the unlabelled ones
    subset: str
    source: str


def list_hash(keys: Iterable[str]) -> str:
    """16 hex digits that change when a key is added, removed or renamed; the order does not count."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:16]


def write_keys(path: Path, keys: Iterable[str], published: Published | None = None) -> None:
    """Write a key list, sorted, with its first line. DataError where the file cannot be written."""
    listed = sorted(keys)
    first = f"{HEADER} {len(listed)} keys, sha256 {list_hash(listed)}"
    if published is not None:
        first += f", of {published.total} in {published.subset}; {published.source}"
    try:
        path.write_text(first + "\n" + "".join(f"{key}\n" for key in listed), encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {error.filename or path}: {error.strerror}") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, stripped; a mark at the start and Windows line ends are dropped."""
    try:
        return [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def read_keys(path: Path) -> list[str]:
    """The keys of a list, in its order. DataError: not text, or not what its first line says."""
    return read_list(path)[0]


def read_list(path: Path) -> tuple[list[str], Published | None]:
    """As `read_keys`, and what the first line of a published list says."""
    lines = read_lines(path)
    stamped = bool(lines) and lines[0].startswith(HEADER)
    keys = [line for line in lines[stamped:] if line]
    published = None
    if stamped:
        told = HEADER_LINE.fullmatch(lines[0])
        if told is None or (int(told["count"]), told["hash"]) != (len(keys), list_hash(keys)):
            said = f"{told['count']} keys of hash {told['hash']}" if told else repr(lines[0])
            raise DataError(
                f"{path}: its first line says {said}, but it holds {len(keys)} keys of hash "
                f"{list_hash(keys)}: it was cut or edited. Make it again with unimatch split, or, if "
                "the change is meant, delete the first line"
            )
        if told["total"]:
            published = Published(int(told["total"]), told["subset"], told["source"])
    return keys, published
