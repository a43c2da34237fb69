"""YAML files to nested dataclasses and back, with every mistake reported at once.

A file is read by the types that the dataclasses declare, never by what YAML guesses: scalars stay raw text
until a type asks for them, so `split: 1_16` is the text "1_16", `lr: 5e-6` is a number, and `norm: off` is
the text "off". Every value keeps the file and line that it came from.

    include: ../base/camvid.yaml   # or a list, relative to this file; later files win, and this one most
    method:                        # a `Section`:
      name: unimatch               # the name chooses from a registry which other keys there are
      threshold: 0.95
"""

import functools
import math
import os
import re
import types
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from unimatch.errors import ConfigError, masked
from unimatch.registry import Registry, nearest

T = TypeVar("T")

OVERRIDE = "--set "
TAG = "tag:yaml.org,2002:"
# 18 digits fit int64; no underscores, signs or leading zeros that people and YAML versions read differently.
INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
BOOLEAN = {"true": True, "false": False}
INFINITE = {".inf": float("inf"), "-.inf": float("-inf")}
INVALID: Any = object()  # stands for a value whose mistake has been noted


@dataclass(frozen=True)
class Section:
    """A choice from a registry: the entry's name, and its settings as an object of the entry's own dataclass.

    Declared as `method: Section = field(metadata={"registry": METHODS})`. In YAML it is one mapping: `name:`
    and, beside it, the settings. A file that changes the name drops what it inherited for the other name.
    """

    name: str
    config: Any


def load(path: str | Path, schema: type[T], overrides: Sequence[str] = ()) -> T:
    """The `schema` object that a YAML file and `a.b=value` overrides describe.

    ConfigError lists every mistake, a line each. The value of an override is YAML, also of a list or mapping.
    """
    errors = _Errors()
    root = _read_file(Path(path), schema, errors, ())
    return _build(root, str(path), schema, overrides, errors)


def from_text(text: str, schema: type[T], overrides: Sequence[str] = (), source: str = "<text>") -> T:
    """As `load`, from YAML text; `source` stands for the file in messages and as the start of includes."""
    errors = _Errors()
    root = _read_text(text, source, schema, errors, ())
    return _build(root, source, schema, overrides, errors)


def dump(config: Any) -> str:
    """ASCII YAML text with every field, defaults too, that `from_text` reads back to an equal object."""
    return yaml.dump(plain(config), Dumper=_Dumper, sort_keys=False, width=110)


def _build(root: MappingNode, source: str, schema: type[T], overrides: Sequence[str], errors: "_Errors") -> T:
    kind = _Kind(schema)
    # Overrides are joined first: in any order, a new `name` drops what files say but no other override.
    changes = _mapping()
    for text in overrides:
        changes = _merge(changes, _override(text, errors), _Kind(Any))
    errors.stop_if(errors.fatal)
    result = _Reader(errors, source).read(_merge(root, changes, kind), kind, None, "")
    errors.stop_if(bool(errors.found))
    return result


class _Errors:
    """Mistakes found so far; `fatal` once a text could not be read and missing keys mean nothing."""

    def __init__(self) -> None:
        self.found: list[tuple[str, int, str]] = []
        self.fatal = False

    def add(self, source: str, line: int | None, path: str, message: str, fatal: bool = False) -> None:
        where = source if line is None or source.startswith(OVERRIDE) else f"{source}:{line}"
        self.fatal |= fatal
        for part in message.splitlines() or ["not valid"]:
            self.found.append((source, line or 0, ": ".join(piece for piece in (where, path, part) if piece)))

    def at(self, node: Node, path: str, message: str, fatal: bool = False) -> None:
        self.add(node.start_mark.name, node.start_mark.line + 1, path, message, fatal)

    def stop_if(self, condition: bool) -> None:
        if condition:
            in_order = sorted(self.found, key=lambda mistake: mistake[:2])
            raise ConfigError("\n".join(dict.fromkeys(masked(text) for _, _, text in in_order)))


# Types.


class _Kind:
    """A declared type without its `| None`, and the registry of the field that it belongs to."""

    def __init__(self, hint: Any, registry: Registry | None = None) -> None:
        self.registry = registry
        self.optional = False
        if get_origin(hint) in (Union, types.UnionType):
            others = [arg for arg in get_args(hint) if arg is not types.NoneType]
            self.optional = len(others) < len(get_args(hint))
            assert len(others) == 1, f"a setting has one type, or one and None, not {hint}"
            hint = others[0]
        self.hint = hint
        self.origin = get_origin(hint) or hint

    def inner(self, hint: Any) -> "_Kind":
        return _Kind(hint, self.registry)

    def child(self, node: MappingNode, key: str) -> "_Kind | None":
        """The type of one key of a mapping of this type; None if there is no such key."""
        if self.hint is Any:
            return self
        if self.origin is dict:
            return self.inner(get_args(self.hint)[1])
        cls = self.hint
        if cls is Section:
            assert self.registry is not None, "a field of type Section needs metadata={'registry': ...}"
            name = _name(node)
            cls = self.registry[name].config if name is not None and name in self.registry else None
        known = _members(cls) if isinstance(cls, type) and is_dataclass(cls) else {}
        return known[key][1] if key in known else None


@functools.cache
def _members(cls: type) -> dict[str, tuple[Field, _Kind]]:
    hints = get_type_hints(cls)
    return {f.name: (f, _Kind(hints[f.name], f.metadata.get("registry"))) for f in fields(cls) if f.init}


def _default(field: Field) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


# Files, includes, overrides: all end as one tree of YAML nodes.


def _read_file(
    path: Path, schema: type, errors: _Errors, parents: tuple[Path, ...], by: Node | None = None
) -> MappingNode:
    """The file's mapping, includes merged; `by` is the include that asks for it, `parents` its files."""
    source = os.path.normpath(path)

    def refuse(message: str) -> MappingNode:
        if by is None:
            errors.add(source, None, "", message, fatal=True)
        else:
            errors.at(by, "include", f"{source}: {message}", fatal=True)
        return _mapping()

    try:
        if path.resolve() in parents:
            chain = [os.path.relpath(p) for p in (*parents[parents.index(path.resolve()) :], path.resolve())]
            return refuse(f"files include each other: {' -> '.join(chain)}")
        return _read_text(path.read_bytes().decode("utf-8-sig"), source, schema, errors, parents)
    except FileNotFoundError:
        siblings = [p.name for p in path.parent.glob("*.yaml")]
        return refuse(f"no such file{'; ' + nearest(path.name, siblings) if siblings else ''}")
    except IsADirectoryError:
        return refuse("this is a folder; give a YAML file")
    except UnicodeDecodeError as error:
        return refuse(f"not UTF-8 text (byte {error.start} is 0x{error.object[error.start]:02x})")
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a null character in the name
        return refuse(f"cannot be read: {getattr(error, 'strerror', None) or error}")


def _read_text(
    text: str, source: str, schema: type, errors: _Errors, parents: tuple[Path, ...]
) -> MappingNode:
    node = _compose(text, source, errors)
    if not isinstance(node, MappingNode):
        found = "nothing; the file is empty" if node is None else _describe(node)
        errors.add(source, None, "", f"expected 'key: value' lines, found {found}", fatal=True)
        return _mapping(source)
    kind = _Kind(schema)
    merged = _mapping(source)
    own = MappingNode(node.tag, [pair for pair in node.value if pair[0].value != "include"], node.start_mark)
    for value in (value for key, value in node.value if key.value == "include"):
        for item in value.value if isinstance(value, SequenceNode) else [value]:
            if not isinstance(item, ScalarNode) or _is_null(item) or not item.value:
                message = f"expected a file name or a list of them, found {_describe(item)}"
                errors.at(item, "include", message, fatal=True)
                continue
            here = Path(source)
            other = _read_file(here.parent / item.value, schema, errors, (*parents, here.resolve()), by=item)
            merged = _merge(merged, other, kind)
    return _merge(merged, own, kind)


def _override(text: str, errors: _Errors) -> MappingNode:
    source = OVERRIDE + text
    path, equals, value_text = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        errors.add(source, None, "", "write it as a.b=value", fatal=True)
        return _mapping(source)
    value = _compose(value_text, source, errors)
    node: Node = ScalarNode(TAG + "null", "", _mark(source)) if value is None else value
    for key in reversed(keys):
        node = _mapping(source, [(ScalarNode(TAG + "str", key, _mark(source)), node)])
    assert isinstance(node, MappingNode)
    return node


def _compose(text: str, source: str, errors: _Errors) -> Node | None:
    """The document as nodes, None if there is nothing in it. Nodes only: no tag ever runs a constructor."""
    try:
        loader = yaml.SafeLoader(text)
        loader.name = source
        node = loader.get_single_node()
        if node is not None:
            _check(loader, node, errors, "", (), set())
        return node
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"character {error.character!r} is not allowed"
        errors.add(source, line, "", f"not valid YAML: {problem}", fatal=True)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        errors.add(source, mark.line + 1 if mark else None, "", f"not valid YAML: {problem}", fatal=True)
    except RecursionError:
        errors.add(source, None, "", "not valid YAML: nested too deeply", fatal=True)
    return _mapping(source)


def _check(
    loader: yaml.SafeLoader, node: Node, errors: _Errors, path: str, above: tuple[Node, ...], done: set[int]
) -> None:
    """Note what is wrong with any types: repeated keys, tags, merge keys, an alias inside its own anchor."""
    if node in above:
        problem = f"the anchor of {path} contains itself"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    if id(node) in done:
        return
    done.add(id(node))
    if node.tag != loader.resolve(type(node), node.value, (not _is_quoted(node), True)):
        errors.at(node, path, f"tags such as {node.tag.replace(TAG, '!!')} are not supported")
    if isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            _check(loader, item, errors, f"{path}[{index}]", (*above, node), done)
    elif isinstance(node, MappingNode):
        lines: dict[str, int] = {}
        for key in [key for key, _ in node.value if not isinstance(key, ScalarNode)]:
            errors.at(key, path, f"a key must be a word, found {_describe(key)}")
        node.value = [pair for pair in node.value if isinstance(pair[0], ScalarNode)]
        for key, value in node.value:
            here = _join(path, key.value)
            if key.tag == TAG + "merge":
                errors.at(key, path, "merge keys (<<) are not supported; use include", fatal=True)
            if key.value in lines:
                errors.at(key, here, f"this key is given twice; first in line {lines[key.value]}")
            lines.setdefault(key.value, key.start_mark.line + 1)
            _check(loader, value, errors, here, (*above, node), done)


def _merge(base: MappingNode, top: MappingNode, kind: _Kind) -> MappingNode:
    """`base` with the values of `top` in it: what both have as mappings is merged, anything else replaced."""
    if kind.hint is Section and _name(top) is not None and _name(base) not in (None, _name(top)):
        return top
    pairs: dict[str, tuple[Node, Node]] = {key.value: (key, value) for key, value in base.value}
    for key, value in top.value:
        old_key, old = pairs.get(key.value, (key, None))
        child = kind.child(top if _name(top) is not None else base, key.value)
        if isinstance(old, MappingNode) and isinstance(value, MappingNode) and child is not None:
            # An override of one value does not own the whole section: what that lacks is its file's mistake.
            key = old_key if key.start_mark.name.startswith(OVERRIDE) else key
            value = _merge(old, value, child)
        pairs[key.value] = (key, value)
    return MappingNode(base.tag, list(pairs.values()), top.start_mark)


def _name(node: MappingNode) -> str | None:
    """The text of the key `name`, if it has one."""
    return next((v.value for k, v in node.value if k.value == "name" and isinstance(v, ScalarNode)), None)


def _mark(source: str) -> yaml.Mark:
    return yaml.Mark(source, 0, 0, 0, None, 0)


def _mapping(source: str = "", pairs: Sequence[tuple[Node, Node]] = ()) -> MappingNode:
    return MappingNode(TAG + "map", list(pairs), _mark(source))


# Nodes to values.


class _Reader:
    """Reads nodes by declared type; a mistake is noted and reading goes on."""

    def __init__(self, errors: _Errors, source: str) -> None:
        self.errors = errors
        self.source = source

    def read(self, node: Node, kind: _Kind, key: Node | None, path: str, default: Any = MISSING) -> Any:
        """The value of a node that stands under `key`; `default` is what its field would have without it."""
        origin = kind.origin
        if _is_null(node) and kind.optional:
            return None
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
        self.errors.at(node, path, f"expected {expected}, found {_describe(node)}")
        return INVALID

    def _note(self, key: Node | None, path: str, message: str) -> None:
        """A mistake of a whole section: it stands at the section's key, and for the top level at the file."""
        if key is None:
            self.errors.add(self.source, None, path, message)
        else:
            self.errors.at(key, path, message)

    def _scalar(self, node: Node, hint: Any, path: str) -> Any:
        # Raw text; a quoted number or boolean is text on purpose, and null is a value of no scalar type.
        text: str | None = node.value if isinstance(node, ScalarNode) and not _is_null(node) else None
        plain = text if text is not None and not _is_quoted(node) else ""
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
            readable = isinstance(node, ScalarNode) and not _is_null(node)
            if readable and node.value == text and (isinstance(choice, str) or not _is_quoted(node)):
                return choice
        return self._refuse(node, path, f"one of {', '.join(texts)}")

    def _sequence(self, node: Node, kind: _Kind, path: str) -> Any:
        hints = get_args(kind.hint)
        fixed = kind.origin is tuple and hints[-1] is not Ellipsis
        if not isinstance(node, SequenceNode):
            return self._refuse(node, path, f"a list of {len(hints)} values" if fixed else "a list")
        if fixed and len(node.value) != len(hints):
            self.errors.at(node, path, f"expected {len(hints)} values, found {len(node.value)}")
            return INVALID
        items = [
            self.read(item, kind.inner(hints[index] if fixed else hints[0]), item, f"{path}[{index}]")
            for index, item in enumerate(node.value)
        ]
        return INVALID if any(item is INVALID for item in items) else kind.origin(items)

    def _dict(self, node: MappingNode, kind: _Kind, path: str) -> Any:
        key_hint, value_hint = get_args(kind.hint)
        result = {}
        for key, value in node.value:
            here = _join(path, key.value)
            result[self._scalar(key, key_hint, here)] = self.read(value, kind.inner(value_hint), key, here)
        return INVALID if INVALID in result or any(value is INVALID for value in result.values()) else result

    def _section(self, node: MappingNode, kind: _Kind, key: Node | None, path: str, default: Any) -> Any:
        assert kind.registry is not None, f"{path}: a Section's field needs metadata={{'registry': ...}}"
        given = {k.value: v for k, v in node.value}
        here = _join(path, "name")
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
            self.errors.at(given["name"], here, str(error))
            return INVALID
        settings = _mapping(pairs=[pair for pair in node.value if pair[0].value != "name"])
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
        members = _members(cls)
        given = {k.value: (k, value) for k, value in node.value}
        bad = False
        for name in given.keys() - members.keys():
            self.errors.at(given[name][0], _join(path, name), f"unknown key{owner}; {nearest(name, members)}")
            bad = True
        values: dict[str, Any] = {}
        for name, (field, kind) in members.items():
            here = _join(path, name)
            # A section that is given in part keeps the rest of its field's default, not of its class's.
            inherited = getattr(default, name) if is_dataclass(default) else _default(field)
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


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and not node.style and node.tag == TAG + "null"


def _is_quoted(node: Node) -> bool:
    return isinstance(node, ScalarNode) and bool(node.style)


def _describe(node: Node) -> str:
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    if _is_null(node):
        return node.value or "nothing"
    text = node.value if len(node.value) <= 60 else node.value[:57] + "..."
    return f"the quoted text {text!r}" if _is_quoted(node) else repr(text)


# Values to text.


class _Dumper(yaml.SafeDumper):
    """Block mappings, and lists of scalars in one line."""


def _represent_list(dumper: yaml.SafeDumper, items: list[Any]) -> Node:
    flow = not any(isinstance(item, (list, dict)) for item in items)
    return dumper.represent_sequence(TAG + "seq", items, flow_style=flow)


_Dumper.add_representer(list, _represent_list)


def plain(value: Any) -> Any:
    """The value in mappings, lists and scalars that YAML knows."""
    if isinstance(value, Section):
        return {"name": value.name, **plain(value.config)}
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.init}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value
