"""Values to YAML text."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import Node
from yaml.representer import SafeRepresenter

from unimatch.config.kinds import Section
from unimatch.config.nodes import TAG


def dump(config: Any) -> str:
    """ASCII YAML text with every field, defaults too, that `from_text` reads back to an equal object."""
    return yaml.dump(plain(config), Dumper=_Dumper, sort_keys=False, width=110)


# libyaml's, six times as fast, where PyYAML has it. It only breaks long quoted lines elsewhere.
_Base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_Base):
    """Block mappings, and lists of scalars in one line."""


def _represent_list(dumper: SafeRepresenter, items: list[Any]) -> Node:
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
