"""What keeps a room a room: no file and no function of the package holds more than one idea.

A file above 300 lines and a function above 60 need a comment that begins with `# Long because` and goes on
with the reason: for a file above its first statement, for a function inside it.
"""

import ast
import subprocess
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "unimatch"
FILE_LINES, FUNCTION_LINES = 300, 60
LARGEST_ROOM = 0.2  # of the package's lines
EXCUSE = "# Long because "


def excused(lines: list[str]) -> bool:
    return any(line.strip().startswith(EXCUSE) and len(line.split()) >= 6 for line in lines)


def too_long(name: str, text: str) -> list[str]:
    """Each file and function that is too long and does not say why."""
    lines, tree = text.splitlines(), ast.parse(text)
    found = []
    code = tree.body[1:] if ast.get_docstring(tree) else tree.body
    if len(lines) > FILE_LINES and not excused(lines[: code[0].lineno - 1]):
        found.append(f"{name}: {len(lines)} lines")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            own = lines[node.lineno - 1 : node.end_lineno]
            if len(own) > FUNCTION_LINES and not excused(own):
                found.append(f"{name}: {node.name} has {len(own)} lines")
    return found


def test_no_file_and_no_function_holds_more_than_one_idea():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        found += too_long(path.relative_to(PACKAGE).as_posix(), path.read_text())
    assert found == []


def test_no_room_is_a_hall():
    """The largest one holds about a sixth of the house; entry points and leaves lie outside the rooms."""
    rooms: Counter[str] = Counter()
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0]
        rooms[room if (PACKAGE / room).is_dir() else ""] += len(path.read_text().splitlines())
    shares = {room: lines / rooms.total() for room, lines in rooms.items()}
    assert {room: share for room, share in shares.items() if share > LARGEST_ROOM} == {}


LINE = "value = 1\n"
FUNCTION = "def work():\n{}" + 60 * "    value = 1\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (300 * LINE, []),
        (301 * LINE, ["a.py: 301 lines"]),
        ('"""What it is."""\n\n# Long because a table is one thing.\n' + 300 * LINE, []),
        ('"""What it is."""\n' + 300 * LINE + "# Long because a table is one thing.\n", ["a.py: 302 lines"]),
        ("# Long because.\n" + 300 * LINE, ["a.py: 301 lines"]),
        (FUNCTION.format("").removesuffix("    value = 1\n"), []),
        (FUNCTION.format(""), ["a.py: work has 61 lines"]),
        (FUNCTION.format("    # Long because a table is one thing.\n"), []),
        (
            "class Room:\n    async " + FUNCTION.format("").replace("    ", 8 * " "),
            ["a.py: work has 61 lines"],
        ),
    ],
)
def test_what_is_too_long_is_named(text, found):
    assert too_long("a.py", text) == found


def test_no_link_is_part_of_the_project():
    """A link into somebody's folders, such as `runs`, would make every clone write there."""
    listed = subprocess.run(
        ["git", "ls-files", "-s"], cwd=PACKAGE.parent, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("the tree is no git checkout")
    assert [line for line in listed.stdout.splitlines() if line.startswith("120000")] == []
