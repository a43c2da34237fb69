import subprocess
import sys
from pathlib import Path

import pytest

from unimatch.engine.launched import FOR_GPUS, misfit

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted((ROOT / "launch" / "accelerate").glob("*.yaml"))
# As a launcher does: starts a process, and has the launch file among its own arguments.
LAUNCHER = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
ASKED = "from unimatch.engine.launched import launch_file; print(launch_file())"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--config_file", "some where/gpu8.yaml", "-m"), "some where/gpu8.yaml"),
        (("--num_processes", "2", "--config_file=x/cpu2.yaml"), "x/cpu2.yaml"),
        (("--config", "run.yaml"), "None"),
        (("--config_file",), "None"),
    ],
)
def test_the_file_that_the_parent_was_given(arguments, expected):
    command = [sys.executable, "-c", LAUNCHER, ASKED, *arguments]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{expected}\n"


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_every_launch_file_is_for_cpus_or_for_gpus(file):
    told = misfit(file, has_gpu=False, world=2)
    assert misfit(file, has_gpu=True, world=2) is None
    if file.name.startswith("cpu"):
        assert told is None
    else:
        assert file.name.startswith(FOR_GPUS)
        assert told is not None and told.startswith(f"warning: {file.name} is for GPUs")


@pytest.mark.parametrize(
    ("world", "fits"), [(1, 'launch/cpu1)"'), (2, 'launch/cpu2)"'), (8, 'launch/cpu2)" --num_processes 8')]
)
def test_what_fits_instead(world, fits):
    told = misfit(Path("launch/accelerate/gpu8.yaml"), False, world)
    assert told is not None and told.endswith(fits) and "\n" not in told and f"in {world} process" in told


def test_nothing_is_told_where_no_file_is_known():
    assert misfit(None, False, 8) is None and misfit(Path("mine.yaml"), False, 8) is None
