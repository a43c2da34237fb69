"""YAML text as nodes, each with its file and line. Scalars stay raw text: nothing guesses their type."""

import re
from collections.abc import Sequence
from io import StringIO
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from unimatch.config.mistakes import Mistakes

TAG = "tag:yaml.org,2002:"
FAST = getattr(yaml, "CSafeLoader", None)
LIGHTLY = re.compile("[\t?\ufeff]")  # characters of whose places libyaml allows more
DEEPEST = 100  # levels of a document; either reader manages more
Loader = Any  # yaml.SafeLoader or yaml.CSafeLoader, which have no base that resolves tags


def compose(text: str, source: str, mistakes: Mistakes) -> Node | None:
    """The document as nodes, None if there is nothing in it. Nodes only: no tag ever runs a constructor."""
    try:
        loader, node = _parsed(text, source)
        if node is not None:
            _note_flaws(loader, node, mistakes, "", (), set())
        return node
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"character {error.character!r} is not allowed"
        mistakes.add(source, line, "", f"not valid YAML: {problem}", fatal=True)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        mistakes.add(source, mark.line + 1 if mark else None, "", f"not valid YAML: {problem}", fatal=True)
    except RecursionError:
        mistakes.add(source, None, "", "not valid YAML: nested too deeply", fatal=True)
    return mapping(source)


class _Named(StringIO):
    """A text of which libyaml knows the source, as that of a file."""

    name: str


def _parsed(text: str, source: str) -> tuple[Loader, Node | None]:
    """By libyaml, ten times as fast, where PyYAML has it. PyYAML itself has the last word on what is not
    valid, and on what libyaml takes more lightly.
    """
    if FAST is not None and not LIGHTLY.search(text):
        stream = _Named(text)
        stream.name = source
        try:
            fast = FAST(stream)
            return fast, fast.get_single_node()
        except (yaml.YAMLError, UnicodeError):
            pass
    loader = yaml.SafeLoader(text)
    loader.name = source
    return loader, loader.get_single_node()


def _note_flaws(
    loader: Loader,
    node: Node,
    mistakes: Mistakes,
    path: str,
    above: tuple[Node, ...],
    done: set[int],
) -> None:
    """Notes what is wrong whatever the types: repeated keys, tags, merge keys, an anchor inside itself."""
    if node in above:
        problem = f"the anchor of {path} contains itself"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    if len(above) > DEEPEST:
        raise RecursionError
    if id(node) in done:
        return
    done.add(id(node))
    if node.tag != loader.resolve(type(node), node.value, (not is_quoted(node), True)):
        mistakes.at(node, path, f"tags such as {node.tag.replace(TAG, '!!')} are not supported")
    if isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            _note_flaws(loader, item, mistakes, f"{path}[{index}]", (*above, node), done)
    elif isinstance(node, MappingNode):
        lines: dict[str, int] = {}
        for key in [key for key, _ in node.value if not isinstance(key, ScalarNode)]:
            mistakes.at(key, path, f"a key must be a word, found {describe(key)}")
        node.value = [pair for pair in node.value if isinstance(pair[0], ScalarNode)]
        for key, value in node.value:
            here = joined(path, key.value)
            if key.tag == TAG + "merge":
                mistakes.at(key, path, "merge keys (<<) are not supported; use include", fatal=True)
            if key.value in lines:
                mistakes.at(key, here, f"this key is given twice; first in line {lines[key.value]}")
            lines.setdefault(key.value, key.start_mark.line + 1)
            _note_flaws(loader, value, mistakes, here, (*above, node), done)


def name_in(node: MappingNode) -> str | None:
    """The text of the key `name`, if it has one."""
    return next((v.value for k, v in node.value if k.value == "name" and isinstance(v, ScalarNode)), None)


def mark_of(source: str) -> yaml.Mark:
    """The place of a node that stands in no file: `source` without a line."""
    return yaml.Mark(source, 0, 0, 0, None, 0)


def mapping(source: str = "", pairs: Sequence[tuple[Node, Node]] = ()) -> MappingNode:
    """A mapping that stands in no file."""
    return MappingNode(TAG + "map", list(pairs), mark_of(source))


def joined(path: str, key: str) -> str:
    """The dotted path of a key below `path`."""
    return f"{path}.{key}" if path else key


def is_null(node: Node) -> bool:
    """Whether it is nothing, `null` or `~`, unquoted."""
    return isinstance(node, ScalarNode) and not node.style and node.tag == TAG + "null"


def is_quoted(node: Node) -> bool:
    return isinstance(node, ScalarNode) and bool(node.style)


def describe(node: Node) -> str:
    """What stands there, for a message."""
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    if is_null(node):
        return node.value or "nothing"
    text = node.value if len(node.value) <= 60 else node.value[:57] + "..."
    return f"the quoted text {text!r}" if is_quoted(node) else repr(text)
