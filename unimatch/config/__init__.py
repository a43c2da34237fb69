"""YAML files to nested dataclasses and back, with every mistake reported at once.

A file is read by the types that the dataclasses declare, never by what YAML guesses: scalars stay raw text
until a type asks for them, so `split: 1_16` is the text "1_16", `lr: 5e-6` is a number, and `norm: off` is
the text "off". Every value keeps the file and line that it came from.

    include: ../base/camvid.yaml   # or a list, relative to this file; later files win, and this one most.
                                   # Where there is no such file: a shipped configuration, as base/camvid.yaml
    method:                        # a `Section`:
      name: unimatch               # the name chooses from a registry which other keys there are
      threshold: 0.95

Text becomes `nodes`, files, includes and overrides one `tree` of them, and the `reader` makes of it what the
dataclasses declare (`kinds`); the `writer` goes the other way.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from yaml.nodes import MappingNode

from unimatch import shipped
from unimatch.config.kinds import Kind, Section
from unimatch.config.mistakes import Mistakes
from unimatch.config.nodes import mapping
from unimatch.config.reader import Reader
from unimatch.config.tree import SHIPPED, merge, override, read_file, read_text
from unimatch.config.writer import dump, plain

__all__ = ["Section", "dump", "from_text", "load", "opened", "plain"]

T = TypeVar("T")


def load(path: str | Path, schema: type[T], overrides: Sequence[str] = ()) -> T:
    """The `schema` object that a YAML file and `a.b=value` overrides describe.

    Where there is no file at `path`, it is the name of a shipped configuration. ConfigError lists every
    mistake, a line each. The value of an override is YAML, also of a list or mapping.
    """
    return opened(path, schema)(overrides)


def opened(path: str | Path, schema: type[T]) -> Callable[[Sequence[str]], T]:
    """`load` of one file for many lists of overrides: the file, most of the work, is read once."""
    mistakes = Mistakes()
    path = shipped.found(str(path), SHIPPED)
    root = read_file(path, schema, mistakes, ())
    known: dict[str, MappingNode] = {}
    return lambda overrides: _build(root, str(path), schema, overrides, mistakes.copy(), known)


def from_text(text: str, schema: type[T], overrides: Sequence[str] = (), source: str = "<text>") -> T:
    """As `load`, from YAML text; `source` stands for the file in messages and as the start of includes."""
    mistakes = Mistakes()
    root = read_text(text, source, schema, mistakes, ())
    return _build(root, source, schema, overrides, mistakes, {})


def _build(
    root: MappingNode,
    source: str,
    schema: type[T],
    overrides: Sequence[str],
    mistakes: Mistakes,
    known: dict[str, MappingNode],
) -> T:
    """known: the trees of overrides that have been read without a mistake."""
    kind = Kind(schema)
    # Overrides are joined first: in any order, a new `name` drops what files say but no other override.
    changes = mapping()
    for text in overrides:
        before = len(mistakes.found)
        tree = known.get(text) or override(text, mistakes)
        if len(mistakes.found) == before:
            known[text] = tree
        changes = merge(changes, tree, Kind(Any))
    mistakes.stop_if(mistakes.fatal)
    result = Reader(mistakes, source).read(merge(root, changes, kind), kind, None, "")
    mistakes.stop_if(bool(mistakes.found))
    return result
