"""Files, includes and overrides: all end as one tree of YAML nodes, in which later values win."""

import os
from pathlib import Path

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from unimatch import shipped
from unimatch.config.kinds import Kind, Section
from unimatch.config.mistakes import OVERRIDE, Mistakes
from unimatch.config.nodes import TAG, compose, describe, is_null, mapping, mark_of, name_in
from unimatch.registry import nearest

SHIPPED = "configs"  # the kind of shipped file that an include may name without its folder


def read_file(
    path: Path, schema: type, mistakes: Mistakes, parents: tuple[Path, ...], by: Node | None = None
) -> MappingNode:
    """The file's mapping, includes merged; `by` is the include that asks for it, `parents` its files."""
    source = os.path.normpath(path)

    def refuse(message: str) -> MappingNode:
        if by is None:
            mistakes.add(source, None, "", message, fatal=True)
        else:
            mistakes.at(by, "include", f"{source}: {message}", fatal=True)
        return mapping()

    try:
        if path.resolve() in parents:
            chain = [os.path.relpath(p) for p in (*parents[parents.index(path.resolve()) :], path.resolve())]
            return refuse(f"files include each other: {' -> '.join(chain)}")
        return read_text(path.read_bytes().decode("utf-8-sig"), source, schema, mistakes, parents)
    except FileNotFoundError:
        return refuse(f"no such file{_meant(path, by)}")
    except IsADirectoryError:
        return refuse("this is a folder; give a YAML file")
    except UnicodeDecodeError as error:
        return refuse(f"not UTF-8 text (byte {error.start} is 0x{error.object[error.start]:02x})")
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a null character in the name
        return refuse(f"cannot be read: {getattr(error, 'strerror', None) or error}")


def _meant(path: Path, by: Node | None) -> str:
    """What a missing file's name may have meant: a file beside it, or a shipped one."""
    siblings = [p.name for p in path.parent.glob("*.yaml")]
    told = "; " + nearest(path.name, siblings) if siblings else ""
    similar = shipped.like(str(path) if by is None else by.value, SHIPPED)
    if similar and "did you mean" not in told:
        told = f"; did you mean {' or '.join(map(repr, similar))}, which came with unimatch?"
    return told


def read_text(
    text: str, source: str, schema: type, mistakes: Mistakes, parents: tuple[Path, ...]
) -> MappingNode:
    """The text's mapping, includes merged; `source` is its file, and `parents` the files that include it."""
    node = compose(text, source, mistakes)
    if not isinstance(node, MappingNode):
        found = "nothing; the file is empty" if node is None else describe(node)
        mistakes.add(source, None, "", f"expected 'key: value' lines, found {found}", fatal=True)
        return mapping(source)
    kind = Kind(schema)
    merged = mapping(source)
    own = MappingNode(node.tag, [pair for pair in node.value if pair[0].value != "include"], node.start_mark)
    for value in (value for key, value in node.value if key.value == "include"):
        for item in value.value if isinstance(value, SequenceNode) else [value]:
            if not isinstance(item, ScalarNode) or is_null(item) or not item.value:
                message = f"expected a file name or a list of them, found {describe(item)}"
                mistakes.at(item, "include", message, fatal=True)
                continue
            here = Path(source)
            path = shipped.found(item.value, SHIPPED, here.parent)
            other = read_file(path, schema, mistakes, (*parents, here.resolve()), by=item)
            merged = merge(merged, other, kind)
    return merge(merged, own, kind)


def override(text: str, mistakes: Mistakes) -> MappingNode:
    """The tree that `a.b=value` stands for."""
    source = OVERRIDE + text
    path, equals, value_text = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        mistakes.add(source, None, "", "write it as a.b=value", fatal=True)
        return mapping(source)
    value = compose(value_text, source, mistakes)
    node: Node = ScalarNode(TAG + "null", "", mark_of(source)) if value is None else value
    for key in reversed(keys):
        node = mapping(source, [(ScalarNode(TAG + "str", key, mark_of(source)), node)])
    assert isinstance(node, MappingNode)
    return node


def merge(base: MappingNode, top: MappingNode, kind: Kind) -> MappingNode:
    """`base` with the values of `top` in it: what both have as mappings is merged, anything else replaced."""
    if kind.hint is Section and name_in(top) is not None and name_in(base) not in (None, name_in(top)):
        return top
    pairs: dict[str, tuple[Node, Node]] = {key.value: (key, value) for key, value in base.value}
    for key, value in top.value:
        old_key, old = pairs.get(key.value, (key, None))
        child = kind.child(top if name_in(top) is not None else base, key.value)
        if isinstance(old, MappingNode) and isinstance(value, MappingNode) and child is not None:
            # An override of one value does not own the whole section: what that lacks is its file's mistake.
            key = old_key if key.start_mark.name.startswith(OVERRIDE) else key
            value = merge(old, value, child)
        pairs[key.value] = (key, value)
    return MappingNode(base.tag, list(pairs.values()), top.start_mark)
