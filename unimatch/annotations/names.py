"""Which picture of an annotation file an image on disk is: tools write bare names, paths below one folder or
another, whole paths, backslashes, and either Unicode form.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from urllib.parse import unquote


def composed(name: str) -> str:
    """The name in the Unicode form NFC: names that look alike are equal then."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def plain_name(name: str) -> str:
    """A `file_name` with slashes, in the form NFC, without `./` or `/` at its start."""
    text = composed(name.replace("\\", "/"))
    while text.startswith(("./", "/")):
        text = text[text.index("/") + 1 :]
    return text


class NameIndex:
    """Finds among `names` the one that an image is called by."""

    def __init__(self, names: Sequence[str]) -> None:
        self._parts: list[list[str]] = []
        self._by_file: dict[str, list[int]] = {}
        for place, name in enumerate(names):
            parts = plain_name(name).split("/")
            self._parts.append(parts)
            for file in {parts[-1], unquote(parts[-1])}:
                self._by_file.setdefault(file, []).append(place)

    def find(self, path: str) -> list[int]:
        """The places of the names that fit a path below the source folder best: those of which one is the
        end of the other, and of these the ones that agree in most parts.
        """
        parts = composed(path).split("/")
        best: dict[int, list[int]] = {}
        for place in self._by_file.get(parts[-1], []):
            theirs = self._parts[place]
            shared = min(len(parts), len(theirs))
            if all(a in (b, unquote(b)) for a, b in zip(parts[-shared:], theirs[-shared:], strict=True)):
                best.setdefault(shared, []).append(place)
        return best[max(best)] if best else []

    def same_file(self, path: str) -> list[int]:
        """The places of names with the same last part, in whatever folder."""
        return self._by_file.get(composed(path).rpartition("/")[2], [])
