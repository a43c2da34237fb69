"""Whole runs of real processes over gloo: the same curve on any number of them, and after any kill."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.conftest import tiny_run_text
from tests.support import tiny_encoder
from tests.support.processes import MEASURED, Ended, Processes, forking, run, succeed
from unimatch.engine import checkpoint
from unimatch.engine.log import read_metrics

# Every process ends as by kill -9, its data workers with it, where it would begin one step more.
FALLS = """
import os, signal, sys
from unimatch import train
from unimatch.engine.entry import run_entry
from unimatch.engine.trainer import Trainer
step = Trainer.step
def step_or_fall(trainer, number, *given):
    if number == {step}:
        trainer._saver.finish()  # which writes beside the training
        os.killpg(0, signal.SIGKILL)
    return step(trainer, number, *given)
Trainer.step = step_or_fall
sys.exit(run_entry(train.main))
"""


# A kill at a step that is logged finds the checkpoints before it complete.
AT_ONCE = "checkpoint.background=false"


class Run:
    """A configuration and its run folder."""

    def __init__(self, config: Path, name: str, *settings: str) -> None:
        self.out = config.parent / name
        overrides = [part for setting in (f"out={self.out}", *settings) for part in ("--set", setting)]
        self.args = ("-m", "unimatch.train", "--config", str(config), *overrides)

    def train(self, count: int, *extra: str, **env: str) -> Run:
        """Runs to the end as `count` processes."""
        succeed(count, *self.args, *extra, **env)
        return self

    def stop(self, count: int, step: int, number: int, *extra: str, **env: str) -> list[Ended]:
        """Starts; once `step` is logged, signals rank 0 (SIGKILL: all); returns how each ended."""
        with Processes(count, [*self.args, *extra], **env) as processes:
            self.wait_for_step(processes, step)
            if number == signal.SIGKILL:
                processes.kill()
            else:
                processes.processes[0].send_signal(number)
            return processes.wait()

    def fall(self, count: int, step: int, *extra: str, **env: str) -> None:
        """Starts; all processes are dead once `step` is done, and saved if it is one to be saved."""
        ended = run(count, "-c", FALLS.format(step=step), *self.args[2:], *extra, **env)
        assert ended[0].code == -signal.SIGKILL, ended[0].err
        assert self.saved_step == step

    def wait_for_step(self, processes: Processes, step: int) -> None:
        """Returns once `step` is logged."""
        log = self.out / "metrics.jsonl"
        deadline = time.monotonic() + 240
        while not log.exists() or log.read_text().count('"kind": "train"') < step:
            if time.monotonic() > deadline or processes.processes[0].poll() is not None:
                processes.kill()
                raise AssertionError(f"step {step} was not reached: {processes.wait()[0].err}")
            time.sleep(0.02)

    def lines(self, kind: str = "train") -> list[dict]:
        """Logged lines without what a clock or a memory meter said."""
        return [{k: v for k, v in line.items() if k not in MEASURED} for line in read_metrics(self.out, kind)]

    @property
    def losses(self) -> list[float]:
        return [line["loss"] for line in read_metrics(self.out, "train")]

    @property
    def saved_step(self) -> int:
        folder = checkpoint.last_checkpoint(self.out)
        assert folder is not None
        return checkpoint.load_state(folder).step


@pytest.fixture(scope="module")
def config(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps of UniMatch in which every pixel's pseudo-label counts, from the first step on.

    The rate is small: a larger one would amplify rounding, whoever rounds (0.001: to 3e-4 on some CPUs). A
    clip_norm that clips nothing has the gradients' norms in the log.
    """
    folder = tmp_path_factory.mktemp("runs")
    text = tiny_run_text(folder / "run", tiny_shards).replace("test_efficientnet", tiny_encoder.NAME)
    (folder / "tiny.yaml").write_text(text)
    path = folder / "run.yaml"
    path.write_text(
        "include: tiny.yaml\noptimizer: {lr: 0.0003, clip_norm: 1000}\nmethod: {threshold: 0}\n"
        "schedule: {steps: 8}\nevaluation: {every_steps: 4}\ncheckpoint: {every_steps: 4}\n"
    )
    return path


@pytest.fixture(scope="module")
def single(config: Path) -> Run:
    """The undisturbed run of one process."""
    return Run(config, "single").train(1)


@pytest.fixture(scope="module")
def double(config: Path) -> Run:
    """The undisturbed run of two processes, which have trained another run before: it must not show."""
    run, first = Run(config, "double"), config.parent / "before.yaml"
    first.write_text(f"include: run.yaml\nout: {config.parent}/before\nschedule: {{steps: 3}}\nseed: 5\n")
    second = config.parent / "double.yaml"
    second.write_text(f"include: run.yaml\nout: {run.out}\n")
    succeed(2, "-m", "unimatch.train", "--config", str(first), str(second))
    assert len(read_metrics(config.parent / "before", "train")) == 3
    return run


def assert_same_gradients(ours: Run, theirs: Run) -> None:
    """By their norms: losses tell of wrong ones late, since the rate is small."""
    norms = [[line["grad_norm"] for line in run.lines()] for run in (ours, theirs)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def assert_same_curve(ours: Run, theirs: Run) -> None:
    assert len(ours.losses) == 8
    assert all(line["kept"] > 0.99 and line["loss_s1"] > 0 for line in ours.lines())
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-4)
    assert_same_gradients(ours, theirs)
    for mine, other in zip(ours.lines("eval"), theirs.lines("eval"), strict=True):
        assert mine["images"] == other["images"] == 10
        assert mine["miou"] == pytest.approx(other["miou"], abs=2e-3)


def test_two_processes_draw_the_curve_of_one(single: Run, double: Run):
    assert_same_curve(double, single)


def test_four_processes_draw_the_curve_of_one(config: Path, single: Run):
    assert_same_curve(Run(config, "four").train(4), single)


def test_accumulated_micro_batches_are_the_gradient_of_two_processes(config: Path):
    """Without synchronised statistics both see the same micro-batches; only who computes them differs."""
    settings = ("sync_batchnorm=off", "method.mix_partner=batch", "schedule.steps=3", "data.val=null")
    two = Run(config, "micro2", *settings).train(2)
    one = Run(config, "micro1", *settings, "batch.max_per_device=4").train(1)
    assert one.losses == pytest.approx(two.losses, rel=1e-4)
    assert_same_gradients(one, two)


def test_strong_views_made_by_the_device(config: Path):
    """Two processes draw the curve of one, and a killed run continues to the last bit."""
    settings = (
        "task.views.device=accelerator",
        "model.head={name: linear}",
        "schedule.steps=6",
        "checkpoint.every_steps=3",
        "data.val=null",
    )
    one = Run(config, "by_device", *settings)
    assert "made by cpu, in batches" in succeed(1, *one.args)[0].out
    two = Run(config, "by_device2", *settings).train(2)
    assert len(two.losses) == 6 and two.losses == pytest.approx(one.losses, rel=1e-4)
    killed = Run(config, "by_device_killed", *settings)
    killed.stop(1, 4, signal.SIGKILL)
    killed.train(1, "--resume")
    assert killed.lines() == one.lines()


def test_killed_and_resumed_equals_never_stopped_to_the_last_bit(config: Path, double: Run):
    """kill -9 of both processes and their workers after step 6; checkpoints are at 4 and 8."""
    killed = Run(config, "killed", AT_ONCE)
    killed.stop(2, 6, signal.SIGKILL)
    assert killed.saved_step == 4
    killed.train(2, "--resume")
    assert killed.lines() == double.lines()
    assert killed.lines("eval") == double.lines("eval")
    name = "model.safetensors"
    assert (killed.out / "last" / name).read_bytes() == (double.out / "last" / name).read_bytes()


def test_a_run_continues_on_another_number_of_processes(config: Path, single: Run):
    moved = Run(config, "moved", "checkpoint.every_steps=3")
    moved.stop(1, 4, signal.SIGKILL)
    moved.train(2, "--resume")
    assert_same_curve(moved, single)


def test_a_killed_process_ends_the_others_with_a_message(config: Path):
    """No launcher here that would end the survivor: it must notice by itself, in seconds."""
    lost = Run(config, "lost", "data.val=null", "schedule.steps=20")
    with Processes(2, lost.args) as processes:
        lost.wait_for_step(processes, 3)
        processes.processes[1].kill()
        began = time.monotonic()
        survivor = processes.wait()[0]
    assert time.monotonic() - began < 30
    assert survivor.code == 1 and "error: rank 0: another process of the run has ended" in survivor.err
    assert "Traceback" not in survivor.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_process_saves_and_ends_all(config: Path, number: signal.Signals):
    settings = ("sync_batchnorm=off", "data.val=null", "schedule.steps=20")
    stopped = Run(config, f"stopped{number}", *settings)
    ended = stopped.stop(2, 5, number)
    assert [one.code for one in ended] == [128 + number] * 2
    assert f"stopped by {number.name} after step {stopped.saved_step}" in ended[0].err
    assert stopped.saved_step == stopped.lines()[-1]["step"] >= 5


# A fork's parent is not the launcher, whose file tests/unit/engine/test_launched.py finds by real ones.
LAUNCHED = """
import sys
from pathlib import Path
from unimatch import train
from unimatch.engine import runtime
from unimatch.engine.entry import run_entry
runtime.launch_file = lambda: Path("launch/accelerate/gpu8.yaml")
sys.exit(run_entry(train.main))
"""


def test_a_launch_file_starts_processes_and_one_tells_once_that_it_is_for_gpus(config: Path):
    """By the documented launcher."""
    launch = Path(__file__).parents[2] / "launch" / "accelerate" / "gpu8.yaml"
    program = config.parent / "launched.py"
    program.write_text(LAUNCHED)
    arguments = Run(config, "launched", "schedule.steps=2", "data.val=null").args[2:]
    command = ("accelerate", "launch", "--config_file", str(launch), "--num_processes", "2", str(program))
    # The launcher itself is one process and must not see the variables of a group.
    none = dict.fromkeys(("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"), "")
    execute = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
    ended = run(1, "-c", execute, *command, *arguments, **forking(), **none)
    assert ended[0].code == 0, ended[0].err
    assert "2 on cpu" in ended[0].out
    assert ended[0].err.count("warning: gpu8.yaml is for GPUs, and PyTorch finds none here") == 1
