"""The planted mistakes still apply to the code of today, and the tool that plants them tells the truth."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tools import plant_mistakes
from tools.plant_mistakes import Mistake, Tried, mistakes, run_all, table

MISTAKE = Mistake("room", "adds", "code.py", "a - b", "a + b", ("test_code.py",))
# What a room's file of mistakes may be named.
ROOMS = {"annotations", "codecs", "config", "data", "engine", "leaves", "methods", "models", "packing"}
ROOMS |= {"scaling", "shardset", "tasks", "views", "experiments", "import_export", "reports"}
ROOMS |= {"exporting", "predicting", "sharing", "curation"}


def test_every_mistake_applies_once_and_names_tests_that_exist():
    problems = []
    for one in mistakes():
        text = (ROOT / one.file).read_text()
        try:
            one.planted(text)
        except ValueError as error:
            problems.append(str(error))
        problems += [f"{one.what}: {test}" for test in one.tests if not (ROOT / test.split("::")[0]).exists()]
    assert problems == []


def test_every_room_has_mistakes_and_few_survive():
    found = mistakes()
    assert {one.room for one in found} == ROOMS and min(Counter(one.room for one in found).values()) >= 10
    assert sum(bool(one.survives) for one in found) < 0.05 * len(found)


@pytest.mark.parametrize(
    ("text", "message"), [("a - b", None), ("", "0 times, not once"), ("a - b, a - b", "2 times, not once")]
)
def test_a_mistake_is_planted_in_one_place_or_not_at_all(text, message):
    if message is None:
        assert MISTAKE.planted(f"return {text}") == "return a + b"
        return
    with pytest.raises(ValueError, match=f"room: adds: code.py holds the old text {message}"):
        MISTAKE.planted(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {what: a, file: b, old: c, new: d, tests: e, nwe: f}", r"one.yaml: a: unknown keys \['nwe'\]"),
        ("- {what: a, file: b, old: c, new: d, tests: e}\n" * 2, "named twice: one: a"),
        ("- {what: a, file: b, old: c, new: c, tests: e}", "one: a: changes nothing"),
    ],
)
def test_mistakes_in_the_mistakes_are_told(tmp_path: Path, text: str, message: str):
    (tmp_path / "one.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        for one in mistakes(tmp_path):
            one.planted("c")


def test_each_is_planted_alone_and_the_table_says_what_was_seen(tmp_path, monkeypatch):
    """In a repository of its own: one mistake is caught, one survives, one breaks the tests' own imports."""
    (tmp_path / "code.py").write_text("def less(a, b):\n    return a - b\n\n\ndef unseen():\n    return 1\n")
    (tmp_path / "test_code.py").write_text("from code_ import less\n".replace("code_", "code2"))
    (tmp_path / "test_less.py").write_text(
        "import importlib.util\n"
        "spec = importlib.util.spec_from_file_location('own_code', 'code.py')\n"
        "own = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(own)\n\n\n"
        "def test_less():\n    assert own.less(3, 1) == 2\n"
    )
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setattr(plant_mistakes, "ROOT", tmp_path)
    monkeypatch.setattr(plant_mistakes, "HEAVY", ())
    chosen = [
        Mistake("room", "adds", "code.py", "a - b", "a + b", ("test_less.py",)),
        Mistake("room", "one more", "code.py", "return 1", "return 2", ("test_less.py",), "nobody calls it"),
        Mistake("other", "breaks", "code.py", "a - b", "a + b", ("test_code.py",)),
    ]
    tried = list(run_all(chosen, jobs=1))
    assert [one.code for one in tried] == [1, 0, 2]
    assert [one.caught for one in tried] == [True, False, False]
    assert "ModuleNotFoundError" in tried[2].said
    assert (tmp_path / "code.py").read_text().count("a - b") == 1, "the working tree is left alone"
    lines = table(tried).splitlines()
    assert lines[2:5] == ["| other | 1 | 0 |", "| room | 2 | 1 |", "| all | 3 | 1 |"]
    assert lines[5:] == [
        "- room: one more (code.py): nobody calls it",
        "- other: breaks (code.py): NO TEST SEES IT",
    ]


def test_tests_that_take_too_long_have_seen_it():
    assert Tried(MISTAKE, None, 300.0).caught
