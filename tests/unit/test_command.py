"""The command `unimatch`: its help, its names, and that each starts its program."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys

import pytest

import unimatch
from unimatch import __main__ as command

LIGHT = """
import sys
sys.argv = ["unimatch", {arguments}]
import unimatch
from unimatch.__main__ import main
try:
    main()
except SystemExit as stop:
    assert not stop.code
heavy = {{"torch", "numpy", "yaml", "cv2"}} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else 0)
"""


def started(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["unimatch", *arguments])
    for name in ("where", "check"):  # other tests have imported them, which runpy would warn of
        monkeypatch.delitem(sys.modules, f"unimatch.{name}", raising=False)
    try:
        return command.main()
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.mark.parametrize("arguments", ['"--help"', '"where"', '"where", "launch/cpu2"'])
def test_help_and_where_import_nothing_heavy(arguments: str):
    """So that they start at once; also `import unimatch`, which is all that notebooks do first."""
    subprocess.run([sys.executable, "-c", LIGHT.format(arguments=arguments)], check=True, capture_output=True)


def test_help_is_one_screen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    texts = []
    for arguments in ((), ("-h",), ("--help",), ("help",)):
        assert started(monkeypatch, *arguments) == 0
        texts.append(capsys.readouterr().out)
    assert len(set(texts)) == 1
    lines = texts[0].splitlines()
    assert len(lines) <= 28 and max(map(len, lines)) <= 80
    assert started(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"unimatch {unimatch.__version__}\n"


@pytest.mark.parametrize("name", command.NAMES)
def test_every_name_is_a_program_that_calls_itself_by_it(name: str, capsys: pytest.CaptureFixture[str]):
    program = importlib.import_module(f"unimatch.{command.MODULES.get(name, name)}")
    with pytest.raises(SystemExit) as ended:
        program.main(["--help"])
    assert not ended.value.code
    assert capsys.readouterr().out.startswith(f"usage: unimatch {name} ")


def test_a_program_gets_the_arguments_and_its_status_is_the_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert started(monkeypatch, "where", "launch/cpu1") == 0
    assert capsys.readouterr().out.endswith("launch/accelerate/cpu1.yaml\n")
    assert started(monkeypatch, "where", "launch/none") == 1
    assert started(monkeypatch, "check") == 2


@pytest.mark.parametrize(("name", "told"), [("trin", "did you mean 'train'?"), ("x", "choose from: init, ")])
def test_a_wrong_name_gets_the_nearest(name, told, monkeypatch, capsys):
    assert started(monkeypatch, name, "--config", "x") == 2
    assert capsys.readouterr().err.startswith(f"error: no command {name!r}; {told}")


@pytest.mark.parametrize("python", [("-u",), ()], ids=["at once", "at the end"])
def test_a_reader_that_leaves_ends_the_command_without_a_traceback(python: tuple[str, ...]):
    """As `unimatch where | head -1` does; what is written fails at once, or when it is flushed."""
    process = subprocess.Popen(
        [sys.executable, *python, "-m", "unimatch", "where"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 128 + signal.SIGPIPE
