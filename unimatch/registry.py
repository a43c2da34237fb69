"""Named choices: a method, a head, a task. The registry knows the class and the settings of each name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

from unimatch.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One choice: its name, the class that is built, and the dataclass that holds the class's settings."""

    name: str
    cls: type[Any]
    config: type[Any]


class Registry:
    """The choices of one kind, in the order in which they were registered.

    Entries exist once their module has been imported: the package that owns the registry imports all of them.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def register(self, name: str, config: type[Any]) -> Callable[[type[T]], type[T]]:
        """A class decorator that makes the class available as `name`, with settings of type `config`."""
        assert is_dataclass(config), f"{self.kind} {name!r}: the settings must be a dataclass"
        # In YAML the settings stand beside the key `name`, which says the choice.
        assert "name" not in {f.name for f in fields(config)}, (
            f"{self.kind} {name!r}: no setting is called 'name'"
        )
        assert name not in self._entries, f"{self.kind} {name!r} is registered twice"

        def decorate(cls: type[T]) -> type[T]:
            self._entries[name] = Entry(name, cls, config)
            return cls

        return decorate

    def names(self) -> list[str]:
        """All names, in the order of registration."""
        return list(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> Entry:
        """The entry of that name; ConfigError with the nearest names if there is none."""
        if name not in self._entries:
            raise ConfigError(f"unknown {self.kind} {name!r}; {nearest(name, self._entries)}")
        return self._entries[name]


def nearest(word: str, choices: Iterable[str]) -> str:
    """Advice about a word that is not among `choices`: the ones most like it, else all of them."""
    choices = list(choices)
    close = difflib.get_close_matches(word, choices, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(repr(choice) for choice in close)}?"
    return f"choose from: {', '.join(choices)}" if choices else "there are none"
