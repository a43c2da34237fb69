"""What packing has to tell beside problems: files that were read otherwise than they lie there, palettes, and
samples that were left out. It is collected file by file, kept with finished shards, and told at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

EXAMPLES = 3  # files named in a note
MAX_PALETTE = 4096  # pairs of index and colour that are remembered: more would be a palette a file


@dataclass(frozen=True)
class Problem:
    """Something wrong with the files. `image`: the image without which all would be well, if there is one."""

    kind: str  # what it is counted under
    text: str
    image: str | None = None


@dataclass(frozen=True)
class Note:
    """A fact about one file. `text` is a sentence with {files}, {examples} and, of a sum, {amount}; facts of
    the same text become one sentence."""

    text: str
    where: str
    amount: int = 0


@dataclass
class Count:
    files: int = 0
    amount: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, files: int, amount: int, examples: Iterable[str]) -> None:
        self.files += files
        self.amount += amount
        self.examples = [*self.examples, *examples][:EXAMPLES]


@dataclass
class Findings:
    """Notes by text; which colour palette masks give an index, with a file of each; samples left out."""

    notes: dict[str, Count] = field(default_factory=dict)
    palettes: dict[tuple[int, int], str] = field(default_factory=dict)  # (index, 0xRRGGBB) -> file
    skipped: list[list[Problem]] = field(default_factory=list)

    def collect(self, notes: Iterable[Note], palette: tuple[str, Mapping[int, int]] | None) -> None:
        """Add what is to be told of one sample."""
        for note in notes:
            self.notes.setdefault(note.text, Count()).add(1, note.amount, [note.where])
        if palette is not None:
            self._add_palette(palette_pairs(palette))

    def _add_palette(self, pairs: Iterable[tuple[tuple[int, int], str]]) -> None:
        for pair, where in pairs:
            if len(self.palettes) < MAX_PALETTE:
                self.palettes.setdefault(pair, where)

    def merge(self, other: Findings) -> None:
        for text, count in other.notes.items():
            self.notes.setdefault(text, Count()).add(count.files, count.amount, count.examples)
        self._add_palette(other.palettes.items())
        self.skipped += other.skipped

    def sentences(self) -> list[str]:
        """A line for each note, one for palettes that differ, and one for images that were left out."""
        told = [sentence(text, count) for text, count in sorted(self.notes.items())]
        told += list(islice(palette_differences(self.palettes), 1))
        if self.skipped:
            first = [problems[0].text for problems in self.skipped[:EXAMPLES]]
            more = "; ..." if len(self.skipped) > EXAMPLES else ""
            told.append(f"{len(self.skipped)} images were left out (skip_bad): {'; '.join(first)}{more}")
        return told

    def to_json(self) -> dict[str, Any]:
        return {
            "notes": {
                text: [count.files, count.amount, count.examples] for text, count in self.notes.items()
            },
            "palettes": [[*pair, where] for pair, where in self.palettes.items()],
            "skipped": [[[each.kind, each.text, each.image] for each in one] for one in self.skipped],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Findings:
        return cls(
            {text: Count(files, amount, names) for text, (files, amount, names) in content["notes"].items()},
            {(index, color): where for index, color, where in content["palettes"]},
            [[Problem(*each) for each in one] for one in content["skipped"]],
        )


def sentence(text: str, count: Count) -> str:
    more = ", ..." if count.files > len(count.examples) else ""
    return text.format(files=count.files, amount=count.amount, examples=", ".join(count.examples) + more)


def palette_pairs(palette: tuple[str, Mapping[int, int]]) -> list[tuple[tuple[int, int], str]]:
    """((index, 0xRRGGBB), file) of a mask file and its palette."""
    return [(pair, palette[0]) for pair in palette[1].items()]


def palette_differences(palettes: Mapping[tuple[int, int], str]) -> Iterator[str]:
    """A sentence for each index that two masks give different colours, naming both."""
    first: dict[int, tuple[int, str]] = {}
    for (index, color), where in palettes.items():
        other, other_where = first.setdefault(index, (color, where))
        if other != color:
            yield (
                f"the palettes of masks differ: index {index} is {rgb(color)} in {where} and {rgb(other)} in "
                f"{other_where}; the indices were taken as ids, whatever their colours"
            )


def rgb(color: int) -> list[int]:
    return [color >> 16, color >> 8 & 255, color & 255]


class PaletteCheck:
    """Finds colours to which palette masks give several indices."""

    def __init__(self) -> None:
        self._first: dict[int, tuple[int, str]] = {}
        self._told: set[int] = set()

    def add(self, pairs: Iterable[tuple[tuple[int, int], str]]) -> Iterator[Problem]:
        """A problem for each colour of these pairs (index, 0xRRGGBB) that contradicts earlier ones."""
        for (index, color), where in pairs:
            other, other_where = self._first.setdefault(color, (index, where))
            if other != index and color not in self._told:
                self._told.add(color)
                yield Problem(
                    "palettes that differ",
                    f"{where}: its palette gives the colour {rgb(color)} the index {index}, that of "
                    f"{other_where} the index {other}; read the masks by colour (label_kind: colors, with "
                    "`colors`), or, if the indices are right all the same, set palettes_may_differ: true",
                )
