"""Nodes to values, by declared type."""

import math
import re
from dataclasses import MISSING, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from unimatch.config.kinds import Kind, Section, default_of, settings_of
from unimatch.config.mistakes import Mistakes
from unimatch.config.nodes import describe, is_null, is_quoted, joined, mapping
from unimatch.errors import ConfigError
from unimatch.registry import nearest

# 18 digits fit int64; no underscores, signs or leading zeros that people and YAML versions read differently.
INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
BOOLEAN = {"true": True, "false": False}
INFINITE = {".inf": float("inf"), "-.inf": float("-inf")}
INVALID: Any = object()  # stands for a value whose mistake has been noted


class Reader:
    """Reads nodes by declared type; a mistake is noted and reading goes on."""

    def __init__(self, mistakes: Mistakes, source: str) -> None:
        self.mistakes = mistakes
        self.source = source

    def read(self, node: Node, kind: Kind, key: Node | None, path: str, default: Any = MISSING) -> Any:
        """The value of a node that stands under `key`; `default` is what its field would have without it."""
        origin = kind.origin
        if is_null(node) and kind.optional:
            return None
        if kind.listed is not None and isinstance(node, SequenceNode):
            return self.read(node, kind.listed, key, path)
        if origin is Literal:
            return self._literal(node, get_args(kind.hint), path)
        if origin in (list, tuple):
            return self._sequence(node, kind, path)
        if origin is dict or origin is Section or is_dataclass(origin):
            if not isinstance(node, MappingNode):
                return self._refuse(node, path, "a mapping ('key: value' lines)")
            if origin is dict:
                return self._dict(node, kind, path)
            if origin is Section:
                return self._section(node, kind, key, path, default)
            return self._object(node, origin, key, path, default)
        return self._scalar(node, kind.hint, path)

    def _refuse(self, node: Node, path: str, expected: str) -> Any:
        self.mistakes.at(node, path, f"expected {expected}, found {describe(node)}")
        return INVALID

    def _note(self, key: Node | None, path: str, message: str) -> None:
        """A mistake of a whole section: it stands at the section's key, and for the top level at the file."""
        if key is None:
            self.mistakes.add(self.source, None, path, message)
        else:
            self.mistakes.at(key, path, message)

    def _scalar(self, node: Node, hint: Any, path: str) -> Any:
        # Raw text; a quoted number or boolean is text on purpose, and null is a value of no scalar type.
        text: str | None = node.value if isinstance(node, ScalarNode) and not is_null(node) else None
        plain = text if text is not None and not is_quoted(node) else ""
        if hint is str:
            return text if text is not None else self._refuse(node, path, "text")
        if hint is Path:
            if text and text.startswith("~"):
                return self._refuse(node, path, "a path with the home folder written in full")
            return Path(text) if text else self._refuse(node, path, "a path")
        if hint is bool:
            return BOOLEAN[plain] if plain in BOOLEAN else self._refuse(node, path, "true or false")
        if hint is int:
            return int(plain) if INTEGER.fullmatch(plain) else self._refuse(node, path, "an integer")
        assert hint is float, f"{path}: {hint} is not a type that a setting can have"
        if plain in INFINITE:
            return INFINITE[plain]
        if not NUMBER.fullmatch(plain) or math.isinf(float(plain)):  # 1e999 is a mistake, not infinity
            return self._refuse(node, path, "a number")
        return float(plain)

    def _literal(self, node: Node, choices: tuple[Any, ...], path: str) -> Any:
        texts = [str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in choices]
        for choice, text in zip(choices, texts, strict=True):
            readable = isinstance(node, ScalarNode) and not is_null(node)
            if readable and node.value == text and (isinstance(choice, str) or not is_quoted(node)):
                return choice
        return self._refuse(node, path, f"one of {', '.join(texts)}")

    def _sequence(self, node: Node, kind: Kind, path: str) -> Any:
        hints = get_args(kind.hint)
        fixed = kind.origin is tuple and hints[-1] is not Ellipsis
        if not isinstance(node, SequenceNode):
            return self._refuse(node, path, f"a list of {len(hints)} values" if fixed else "a list")
        if fixed and len(node.value) != len(hints):
            self.mistakes.at(node, path, f"expected {len(hints)} values, found {len(node.value)}")
            return INVALID
        items = [
            self.read(item, kind.inner(hints[index] if fixed else hints[0]), item, f"{path}[{index}]")
            for index, item in enumerate(node.value)
        ]
        return INVALID if any(item is INVALID for item in items) else kind.origin(items)

    def _dict(self, node: MappingNode, kind: Kind, path: str) -> Any:
        key_hint, value_hint = get_args(kind.hint)
        result = {}
        for key, value in node.value:
            here = joined(path, key.value)
            result[self._scalar(key, key_hint, here)] = self.read(value, kind.inner(value_hint), key, here)
        return INVALID if INVALID in result or any(value is INVALID for value in result.values()) else result

    def _section(self, node: MappingNode, kind: Kind, key: Node | None, path: str, default: Any) -> Any:
        assert kind.registry is not None, f"{path}: a Section's field needs metadata={{'registry': ...}}"
        given = {k.value: v for k, v in node.value}
        here = joined(path, "name")
        if "name" in given:
            name = self._scalar(given["name"], str, here)
        elif isinstance(default, Section):
            name = default.name
        else:
            names = ", ".join(kind.registry.names())
            self._note(key, here, f"required, but not given; choose from: {names}")
            return INVALID
        if name is INVALID:
            return INVALID
        try:
            entry = kind.registry[name]
        except ConfigError as error:
            self.mistakes.at(given["name"], here, str(error))
            return INVALID
        settings = mapping(pairs=[pair for pair in node.value if pair[0].value != "name"])
        inherited = default.config if isinstance(default, Section) and default.name == name else MISSING
        config = self._object(
            settings, entry.config, key, path, inherited, f" of {kind.registry.kind} {name!r}"
        )
        return INVALID if config is INVALID else Section(name, config)

    def _object(
        self,
        node: MappingNode,
        cls: Any,
        key: Node | None,
        path: str,
        default: Any = MISSING,
        owner: str = "",
    ) -> Any:
        members = settings_of(cls)
        given = {k.value: (k, value) for k, value in node.value}
        unknown = [name for name in given if name not in members]
        if key is None and len(unknown) > max(2, len(given) - len(unknown)):
            needed = [name for name, (field, _) in members.items() if default_of(field) is MISSING]
            told = f"a file of another kind: expected {', '.join(needed)}, found {', '.join(unknown)}"
            self._note(None, path, told)
            return INVALID
        bad = False
        for name in unknown:
            self.mistakes.at(
                given[name][0], joined(path, name), f"unknown key{owner}; {nearest(name, members)}"
            )
            bad = True
        values: dict[str, Any] = {}
        for name, (field, kind) in members.items():
            here = joined(path, name)
            # A section that is given in part keeps the rest of its field's default, not of its class's.
            inherited = getattr(default, name) if is_dataclass(default) else default_of(field)
            if name in given:
                values[name] = self.read(given[name][1], kind, given[name][0], here, inherited)
            elif inherited is not MISSING:
                values[name] = inherited
            else:
                self._note(key, here, "required, but not given")
                bad = True
        if bad or any(value is INVALID for value in values.values()):
            return INVALID
        try:
            return cls(**values)
        except ValueError as error:
            # By custom the message begins with a field's name: if that was given, it is the place.
            first = re.match(r"\w*", str(error)).group()  # type: ignore[union-attr]
            self._note(given[first][1] if first in given else key, path, str(error))
            return INVALID
