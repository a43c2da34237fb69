"""Every test file is found by the test command and by the linter: none lies in a folder that either skips."""

from __future__ import annotations

import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "tests").rglob("*.py"))


def test_no_test_file_is_left_out(pytestconfig: pytest.Config) -> None:
    """By pytest's rules: a folder whose name fits `norecursedirs` is not entered, files have a pattern."""
    assert pytestconfig.getini("testpaths") == ["tests"]
    skipped, patterns = pytestconfig.getini("norecursedirs"), pytestconfig.getini("python_files")
    tests = [path for path in FILES if "test_" in path.name or path.read_text().count("\ndef test_")]
    assert len(tests) > 150
    for path in tests:
        assert any(fnmatch(path.name, pattern) for pattern in patterns), path
        for folder in path.relative_to(ROOT).parts[:-1]:
            assert not any(fnmatch(folder, pattern) for pattern in skipped), path


def test_no_file_is_left_out_by_the_linter() -> None:
    ruff = [sys.executable, "-m", "ruff", "check", "--show-files"]
    shown = subprocess.run(ruff, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {str(path) for path in FILES} <= set(shown)
