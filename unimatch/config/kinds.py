"""What the dataclasses declare: the type of every setting, and the registry of a named choice."""

import functools
import types
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from yaml.nodes import MappingNode

from unimatch.config.nodes import name_in
from unimatch.registry import Registry


@dataclass(frozen=True)
class Section:
    """A choice from a registry: the entry's name, and its settings as an object of the entry's own dataclass.

    Declared as `method: Section = field(metadata={"registry": METHODS})`. In YAML it is one mapping: `name:`
    and, beside it, the settings. A file that changes the name drops what it inherited for the other name.
    """

    name: str
    config: Any


class Kind:
    """A declared type without its `| None`, and the registry of the field that it belongs to.

    Beside one type there may be a list, as in `str | list[Item]`: what stands in the file says which it is.
    """

    def __init__(self, hint: Any, registry: Registry | None = None) -> None:
        self.registry = registry
        self.optional = False
        self.listed: Kind | None = None
        if get_origin(hint) in (Union, types.UnionType):
            others = [arg for arg in get_args(hint) if arg is not types.NoneType]
            self.optional = len(others) < len(get_args(hint))
            if len(others) == 2 and get_origin(others[1]) is list:
                self.listed = self.inner(others.pop())
            assert len(others) == 1, f"a setting has one type, perhaps a list or None beside it, not {hint}"
            hint = others[0]
        self.hint = hint
        self.origin = get_origin(hint) or hint

    def inner(self, hint: Any) -> "Kind":
        return Kind(hint, self.registry)

    def child(self, node: MappingNode, key: str) -> "Kind | None":
        """The type of one key of a mapping of this type; None if there is no such key."""
        if self.hint is Any:
            return self
        if self.origin is dict:
            return self.inner(get_args(self.hint)[1])
        cls = self.hint
        if cls is Section:
            assert self.registry is not None, "a field of type Section needs metadata={'registry': ...}"
            name = name_in(node)
            cls = self.registry[name].config if name is not None and name in self.registry else None
        known = settings_of(cls) if isinstance(cls, type) and is_dataclass(cls) else {}
        return known[key][1] if key in known else None


@functools.cache
def settings_of(cls: type) -> dict[str, tuple[Field, Kind]]:
    """The settings of a dataclass by name: the field, and its type."""
    hints = get_type_hints(cls)
    return {f.name: (f, Kind(hints[f.name], f.metadata.get("registry"))) for f in fields(cls) if f.init}


def default_of(field: Field) -> Any:
    """The value of a setting that is not given; MISSING if it must be."""
    return field.default_factory() if field.default_factory is not MISSING else field.default
