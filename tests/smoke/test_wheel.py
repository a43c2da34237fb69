"""The wheel holds all that a user needs, and works where there is no repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.conftest import ROOT
from unimatch import shipped

RUN = """
include: synthetic/unimatch.yaml    # found by its name: there is no such file here
out: run
data: {workers: 0}
batch: {labeled: 2, unlabeled: 2}
model:
  encoder: {name: test_efficientnet, weights: none, output_stride: 16}
task: {views: {crop: 32}}
schedule: {steps: 2}
evaluation: {workers: 0}
"""
# As a shell does, in one process: the imports of each would take longer than its work.
IN_TURN = """
import runpy, sys
for arguments in {commands}:
    sys.argv = [{command!r}, *arguments]
    try:
        runpy.run_path({command!r}, run_name="__main__")
    except SystemExit as end:
        assert not end.code, arguments
"""
PREDICT = """
import unimatch
run = unimatch.load("run")
sample = unimatch.open_shards("runs/synthetic/shards", "val")[0]
print(unimatch.__file__, run.step, run.predict(sample.image).shape)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without a network, from a copy: setuptools leaves a `build` folder and would reuse it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("unimatch", "configs", "launch", "shards", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip(folder, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, source)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def site(wheel: Path) -> Path:
    """The folder that the wheel is installed in; what it depends on is in the environment of the tests."""
    pip(wheel.parent, "install", "--no-deps", "--no-index", "--target", wheel.parent / "site", wheel)
    return wheel.parent / "site"


def pip(folder: Path, *arguments: object) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "--no-cache-dir",
        "--disable-pip-version-check",
        *map(str, arguments),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_holds_the_package_and_the_files_and_nothing_else(wheel: Path):
    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    kinds = (".py", ".html", ".css", ".js")
    inside = (path for path in (ROOT / "unimatch").rglob("*") if path.suffix in kinds)
    package = {path.relative_to(ROOT).as_posix() for path in inside}
    files = {f"unimatch/files/{path.relative_to(ROOT).as_posix()}" for path in shipped.names().values()}
    assert names == package | files | {"unimatch/py.typed"}


def test_the_commands_and_python_work_from_another_folder(site: Path, tmp_path: Path):
    """Without the extra `fast`, which the wheel does not ask for and whose compilation takes seconds."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "numba.py").write_text("raise ImportError")
    paths = os.pathsep.join([str(tmp_path / "without"), str(site)])

    def run(*command: object) -> str:
        env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    command = site / "bin" / "unimatch"
    files = site / "unimatch" / "files"
    assert run(command, "where", "launch/cpu2") == f"{files}/launch/accelerate/cpu2.yaml\n"
    shards = "runs/synthetic/shards"
    size = ("--train", "12", "--val", "2", "--size", "32x48")
    commands = [
        ("pack", "--recipe", "synthetic", "--out", shards, *size),
        ("split", "--shards", shards, "--count", "4", "--out", "runs/synthetic/split"),
        ("train", "--config", "run.yaml"),
        ("report", "run", "--samples", "0"),
    ]
    (tmp_path / "run.yaml").write_text(RUN)
    told = run("-c", IN_TURN.format(command=str(command), commands=commands) + PREDICT)
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert "14 images" in told and "finished after step 2" in told
    assert told.endswith(f"{site}/unimatch/__init__.py 2 (32, 48)\n")
