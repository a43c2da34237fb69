"""The mistakes of a configuration, gathered so that all of them are reported at once."""

from __future__ import annotations

from yaml.nodes import Node

from unimatch.errors import ConfigError, masked

OVERRIDE = "--set "  # begins the source of an override, which has no lines


class Mistakes:
    """Mistakes found so far; `fatal` once a text could not be read and missing keys mean nothing."""

    def __init__(self) -> None:
        self.found: list[tuple[str, int, str]] = []
        self.fatal = False

    def copy(self) -> Mistakes:
        """The same so far; what is found later is its own."""
        other = Mistakes()
        other.found, other.fatal = [*self.found], self.fatal
        return other

    def add(self, source: str, line: int | None, path: str, message: str, fatal: bool = False) -> None:
        """Notes one at a line of a file; `path` is that of the setting, such as a.b."""
        where = source if line is None or source.startswith(OVERRIDE) else f"{source}:{line}"
        self.fatal |= fatal
        for part in message.splitlines() or ["not valid"]:
            self.found.append((source, line or 0, ": ".join(piece for piece in (where, path, part) if piece)))

    def at(self, node: Node, path: str, message: str, fatal: bool = False) -> None:
        """Notes one at the place of a node."""
        self.add(node.start_mark.name, node.start_mark.line + 1, path, message, fatal)

    def stop_if(self, condition: bool) -> None:
        """Raises a ConfigError with all of them, in the order of files and lines."""
        if condition:
            in_order = sorted(self.found, key=lambda mistake: mistake[:2])
            raise ConfigError("\n".join(dict.fromkeys(masked(text) for _, _, text in in_order)))
