"""What an annotation file says of one picture, before labels are classes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from unimatch.annotations.labels import LabelClasses
from unimatch.errors import DataError

T = TypeVar("T")
Size = tuple[int, int]  # height, width

NO_AREA = "lines and points"  # what is left out as it covers no pixel


@dataclass(frozen=True)
class Piece:
    """A shape with its label. `shape` as in `shapes`; `number` is what messages call it."""

    label: str
    shape: Any
    number: Any


@dataclass
class Drawing:
    """The shapes of one picture, bottom first. `size` None: the file does not say it."""

    image: str | None = None  # the picture's name as it stands in the file
    size: Size | None = None
    pieces: list[Piece] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)  # kinds of things that are no areas
    faults: list[str] = field(default_factory=list)
    unlabeled: str | None = None  # why the picture counts as not annotated at all

    def add(self, number: Any, read: Callable[[], tuple[str, Any] | None]) -> None:
        """Add the (label, shape) that `read` gives, or what is wrong with it; None: nothing to draw."""
        found = attempt(self, f"shape {number}", read)
        if found is not None:
            self.pieces.append(Piece(*found, number))

    def shapes(self, classes: LabelClasses) -> list[list[Any]]:
        """[class id, shape, number] of each piece whose label is known; others become faults."""
        ids, unknown = classes.ids(piece.label for piece in self.pieces)
        self.faults += unknown
        pairs = zip(ids, self.pieces, strict=True)
        return [[target, piece.shape, piece.number] for target, piece in pairs if target is not None]


def attempt(drawing: Drawing, what: str, read: Callable[[], T]) -> T | None:
    """What `read` returns, or None and a fault of the drawing."""
    try:
        return read()
    except KeyError as error:
        drawing.faults.append(f"{what}: has no {error}")
    except (DataError, ValueError, TypeError, AttributeError, IndexError) as error:
        drawing.faults.append(f"{what}: {error}")
    return None


def json_of(data: bytes, where: str, tool: str) -> Any:
    """The content of a JSON file. DataError: it is none."""
    try:
        return json.loads(data)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is not UTF-8 ({error.reason} at byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is no {tool} file, or damaged: {error}") from error


def label_of(entry: dict[str, Any], key: str) -> str:
    """DataError: there is none."""
    label = entry.get(key)
    if not isinstance(label, str) or not label.strip():
        raise DataError(f"has {'no' if label is None else repr(label) + ' as'} {key!r}")
    return label


def size_of(height: Any, width: Any, names: str) -> Size | None:
    """(height, width) as a file says them; None: it says neither. DataError: no size."""
    if height is None and width is None:
        return None
    sides = (height, width)
    if not all(isinstance(side, (int, float)) and side == int(side) > 0 for side in sides):
        raise DataError(f"has {list(sides)!r} as {names}")
    return int(height), int(width)
