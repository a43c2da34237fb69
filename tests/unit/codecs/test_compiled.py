"""Compiled loops run whatever becomes of the files in which numba keeps them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

numba = pytest.importorskip("numba", reason="compiled code is the extra `fast`: pip install unimatch[fast]")

from unimatch.codecs import compiled, numba_cache  # noqa: E402

SOURCE = """
from unimatch.codecs.compiled import compiled


@compiled
def double(number):
    return 2 * number
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module with one compiled function; numba keeps its code in the folder `kept` beside it."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setattr(numba_cache, "_told", False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    path = tmp_path / "looped.py"
    path.write_text(SOURCE)
    return path


def load(source: Path) -> Any:
    """The function as a new process would have it: nothing compiled in memory."""
    spec = importlib.util.spec_from_file_location(source.stem, source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.double


def hits(function: Any) -> int:
    return sum(function.stats.cache_hits.values())


def kept(source: Path, kind: str) -> Path:
    (path,) = source.parent.glob(f"kept/*/*.{kind}")
    return path


def test_what_was_compiled_is_found_by_the_next_process(source: Path, caplog: pytest.LogCaptureFixture):
    first, second = load(source), load(source)
    assert first(21) == 42 and hits(first) == 0
    assert second(21) == 42 and hits(second) == 1
    assert not caplog.records


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut short": lambda data: data[: len(data) // 2],
    "a page of zeros at its end": lambda data: data[:-512] + bytes(512) if len(data) > 1024 else bytes(9),
    "one bit": lambda data: data[: (at := len(data) // 2)] + bytes([data[at] ^ 1]) + data[at + 1 :],
    "something else": lambda data: b"(1, 2)",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_a_damaged_file_is_compiled_and_kept_anew(
    source: Path, kind: str, damage: str, caplog: pytest.LogCaptureFixture
):
    load(source)(21)
    path = kept(source, kind)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    second, third = load(source), load(source)
    assert second(21) == 42 and hits(second) == 0
    assert third(21) == 42 and hits(third) == 1
    assert not caplog.records


def test_a_file_of_a_process_that_is_still_writing_is_not_missed(source: Path):
    load(source)(21)
    kept(source, "nbc").unlink()
    assert load(source)(21) == 42


def test_without_any_folder_it_is_told_once_why_nothing_is_kept(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Files in place of folders: a read-only one would not stop root."""
    for name in ("kept", "__pycache__", "home"):
        (source.parent / name).write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(source.parent / "home"))
    function = load(source)
    assert not caplog.records  # nothing was to be kept yet
    assert function(21) == 42 and function(1.5) == 3.0
    (told,) = caplog.messages
    assert "cannot be kept on disk" in told and str(source) in told and "NUMBA_CACHE_DIR" in told


def test_a_folder_that_is_gone_later_is_named_once(source: Path, caplog: pytest.LogCaptureFixture):
    function = load(source)
    (folder,) = source.parent.glob("kept/*")
    folder.rmdir()
    folder.write_text("")
    assert function(21) == 42 and function(1.5) == 3.0
    (told,) = caplog.messages
    assert f"({folder}: " in told


def test_a_damaged_file_that_cannot_be_replaced(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    load(source)(21)
    kept(source, "nbi").write_bytes(b"")

    def refuse(*args: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("os.replace", refuse)
    assert load(source)(21) == 42
    (told,) = caplog.messages
    assert "Read-only file system" in told


def test_only_the_first_process_of_a_host_tells(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("LOCAL_RANK", "1")
    function = load(source)
    (folder,) = source.parent.glob("kept/*")
    folder.rmdir()
    folder.write_text("")
    assert function(21) == 42 and not caplog.records


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))  # stands for a full disk
sys.path.append(sys.argv[1])
import looped
print(looped.double(21))
"""


def test_a_full_disk_ends_nothing(source: Path):
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(source.parent)],
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(source.parent / "kept")},
    )
    assert ended.returncode == 0 and ended.stdout == "42\n", ended.stderr
    assert ended.stderr.count("\n") == 1 and "kept" in ended.stderr and "File too large" in ended.stderr
    assert not list(source.parent.glob("kept/*/*.tmp.*"))


def test_without_numba_it_is_the_function_itself(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled, "AVAILABLE", False)
    assert compiled.compiled(len) is len
