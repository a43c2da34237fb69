"""What clusters do to a run: who says what, how fast, what is left. The table is in docs/distributed.md."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import ROOT, tiny_run_text
from tests.dist.test_training import Run
from tests.support import tiny_encoder
from tests.support.processes import Ended, Processes, data_worker, forking, run
from tests.support.warm_python import FORKED_PYTHON
from unimatch.engine import checkpoint
from unimatch.engine.log import read_metrics
from unimatch.engine.runtime import WATCHDOG_GRACE_S
from unimatch.scaling.spawn import places

SLACK_S = 25  # of a slow, busy machine
TIMEOUT_S = 6  # of what waits for a process that stalls; more than what two busy starts differ by
LOST = "another process of the run has ended or cannot be reached"
# Some change before the training starts, in the process that it is meant for.
CHANGED = """
import os, sys, time
from unimatch.engine.entry import run_entry
from unimatch import train
if os.environ["RANK"] == "1":
    {change}
sys.exit(run_entry(train.main))
"""

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def config(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 steps of UniMatch, a checkpoint after every second, on shards of its own."""
    folder = tmp_path_factory.mktemp("faults")
    shutil.copytree(tiny_shards, folder / "shards")
    path = folder / "run.yaml"
    text = tiny_run_text(folder / "run", folder / "shards", tiny_shards.parent / "split")
    for old, new in (
        ("lr: 0.01", "lr: 0.001"),
        ("{name: deeplabv3plus, channels: 32}", "{name: linear}"),
        ("test_efficientnet", tiny_encoder.NAME),
        ("evaluation: {every_steps: 10", "evaluation: {every_steps: 8"),
        ("checkpoint: {every_steps: 10}", "checkpoint: {every_steps: 2}"),
    ):
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)
    return path


def changed(change: str, of: Run) -> tuple[str, ...]:
    """Arguments of Python that train `of`, where rank 1 first runs `change`."""
    return ("-c", CHANGED.format(change=change), *of.args[2:])


def wait_and_record(processes: Processes, began: float, record: Record) -> list[Ended]:
    """How all ended; the seconds since `began` go into the test report, from which the table was made."""
    ended = processes.wait()
    record("seconds", round(time.monotonic() - began, 1))
    record("told", [one.err for one in ended])
    return ended


def test_the_first_process_killed(config: Path, record_property: Record):
    """It also keeps the addresses of the group. What a checkpoint held is there."""
    lost = Run(config, "first", "data.val=null")
    with Processes(2, lost.args) as processes:
        lost.wait_for_step(processes, 5)
        processes.processes[0].kill()
        began = time.monotonic()
        ended = wait_and_record(processes, began, record_property)
    assert time.monotonic() - began < SLACK_S
    assert ended[1].code == 1 and LOST in ended[1].err and "Traceback" not in ended[1].err
    assert lost.saved_step >= 4


def test_a_data_worker_killed(config: Path, record_property: Record):
    lost = Run(config, "worker", "data.val=null")
    with Processes(2, lost.args) as processes:
        lost.wait_for_step(processes, 5)
        began = time.monotonic()
        os.kill(data_worker(processes.processes[1].pid), signal.SIGKILL)
        ended = wait_and_record(processes, began, record_property)
    assert time.monotonic() - began < SLACK_S
    assert [one.code for one in ended] == [1, 1]
    assert "error: rank 1: data worker 0" in ended[0].err and "killed (signal 9" in ended[0].err
    assert "Traceback" not in ended[0].err


def test_a_stopped_process_ends_all_within_the_timeout(config: Path, record_property: Record):
    stalled = Run(config, "stalled", "data.val=null")
    with Processes(2, [*stalled.args, "--timeout", f"{TIMEOUT_S}"]) as processes:
        stalled.wait_for_step(processes, 5)
        began = time.monotonic()
        processes.processes[1].send_signal(signal.SIGSTOP)
        ended = wait_and_record(processes, began, record_property)
    assert time.monotonic() - began < TIMEOUT_S + WATCHDOG_GRACE_S + SLACK_S
    assert ended[0].code == 1 and LOST in ended[0].err
    assert f"no answer from rank 1 on {platform.node()};" in ended[0].err
    assert ended[1].code == -signal.SIGKILL
    assert "rank 1 on" in ended[1].err and "made no progress for" in ended[1].err


def test_a_slow_process_is_named(config: Path, record_property: Record):
    """Its forward passes sleep: nothing else tells it apart, since all wait for it in every step."""
    slow = Run(config, "slow", "data.val=null", "schedule.steps=5", "log.every_steps=1")
    change = (
        "from unimatch.methods.unimatch import UniMatch as M; step = M.step; "
        "M.step = lambda *given: (time.sleep(0.5), step(*given))[1]"
    )
    with Processes(2, changed(change, slow)) as processes:
        ended = wait_and_record(processes, time.monotonic(), record_property)
    assert [one.code for one in ended] == [0, 0], ended[0].err
    assert ended[0].out.count("is slow, and all wait for it") == 1
    assert (
        f"rank 1 on {platform.node()} is slow, and all wait for it: its forward passes take" in ended[0].out
    )
    for line in read_metrics(slow.out, "train"):
        told = line["own_forward_s"]
        assert told["slowest_rank"] == 1 and told["max"] - told["min"] > 0.4


def test_a_bug_on_one_rank_is_told_before_what_follows_from_it(config: Path, record_property: Record):
    broken = Run(config, "bug", "data.val=null")
    change = "from unimatch.methods.unimatch import UniMatch as M; M.after_update = lambda *_: 1 / 0"
    with Processes(2, changed(change, broken)) as processes:
        ended = wait_and_record(processes, time.monotonic(), record_property)
    assert [one.code for one in ended] == [1, 1]
    assert "ZeroDivisionError" in ended[1].err and "ZeroDivisionError" not in ended[0].err
    assert LOST in ended[0].err


def test_a_full_disk_keeps_the_checkpoints_before_it(config: Path, record_property: Record):
    """A file system of its own for the run folder, with room for one checkpoint and a half."""
    probe = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    if probe.returncode:
        pytest.skip("mounting in a namespace of one's own is not allowed here")
    settings = ("model.encoder.name=test_efficientnet", "model.head={name: deeplabv3plus, channels: 32}")
    full = Run(config, "full", "data.val=null", "log.pictures_every_steps=0", *settings)
    full.out.mkdir()
    both = 'RANK=1 LOCAL_RANK=1 "$@" & "$@"; first=$?; wait $!; second=$?'  # in one namespace
    script = (
        f'mount -t tmpfs -o size=2400k none "$0" && {{ {both}; ls "$0/checkpoints"; exit $first$second; }}'
    )
    program = "import os, sys; os.execvp('unshare', ['unshare', '-rm', 'sh', '-c', *sys.argv[1:]])"
    arguments = ["-c", program, script, str(full.out), str(FORKED_PYTHON), *full.args]
    with Processes(1, arguments, **forking(), **places(2)[0]) as processes:
        ended = wait_and_record(processes, time.monotonic(), record_property)
    assert ended[0].code == 11, ended[0].err
    told = ended[0].err
    assert told.count("error: ") == 1 and "could not write the checkpoint" in told
    assert "no space left on the device. Earlier checkpoints are intact" in told
    assert ended[0].out.split()[-1] == "step_00000002"


def test_a_shard_deleted_while_training(config: Path, record_property: Record):
    """Open shards stay readable; one that is opened later ends the run, named, after the last checkpoint."""
    deleted = Run(config, "deleted")
    shards = list((config.parent / "shards").glob("val-*.tar"))
    assert shards
    with Processes(2, deleted.args) as processes:
        deleted.wait_for_step(processes, 3)
        for shard in shards:
            shard.rename(shard.with_suffix(".away"))
        try:
            ended = wait_and_record(processes, time.monotonic(), record_property)
        finally:
            for shard in shards:
                shard.with_suffix(".away").rename(shard)
    assert [one.code for one in ended] == [1, 1]
    assert f"{shards[0].name}:val/" in ended[0].err and "cannot read the shard" in ended[0].err
    assert deleted.saved_step == 6


def test_a_loss_that_is_no_number_is_never_saved(config: Path, record_property: Record):
    bad = Run(config, "nan", "data.val=null", "optimizer.lr=1e30")
    with Processes(2, bad.args) as processes:
        ended = wait_and_record(processes, time.monotonic(), record_property)
    assert [one.code for one in ended] == [1, 1]
    assert "the loss became NaN or infinite at or before step" in ended[0].err
    last = checkpoint.last_checkpoint(bad.out)
    assert last is None or checkpoint.load_state(last).step < 3


def test_processes_that_differ_are_told_apart_before_the_start(config: Path):
    differ = Run(config, "differ")
    ended = run(2, *changed("sys.argv += ['--set', 'seed=7', '--set', 'optimizer.lr=0.5']", differ))
    assert [one.code for one in ended] == [1, 1]
    assert "seed: 0 on rank 0; 7 on rank 1" in ended[0].err
    assert "optimizer.lr: 0.001 on rank 0; 0.5 on rank 1" in ended[0].err
    assert not differ.out.exists()


def test_a_process_that_sees_no_data_or_is_not_ready_is_named(config: Path, record_property: Record):
    blind = Run(config, "blind")
    ended = run(2, *changed("sys.argv += ['--set', 'data.shards=/nowhere']", blind))
    assert [one.code for one in ended] == [1, 1]
    assert "error: rank 1: /nowhere: no such folder" in ended[0].err

    late = Run(config, "late")
    change = "import unimatch.engine.preflight as p; p.open_data = lambda *_: time.sleep(600)"
    with Processes(2, [*changed(change, late), "--timeout", f"{TIMEOUT_S}"]) as processes:
        ended = wait_and_record(processes, time.monotonic(), record_property)
    assert ended[0].code == 1 and f"not all processes were ready within {TIMEOUT_S} s" in ended[0].err
    assert "Ranks 1 failed" in ended[0].err
    assert ended[1].code == -signal.SIGKILL and "in _report" in ended[1].err


def test_processes_that_never_come_end_the_wait(config: Path):
    alone = Run(config, "alone")
    ended = run(1, *alone.args, "--timeout", "3", WORLD_SIZE="2")
    assert ended[0].code == 1 and "the processes of the run did not find each other" in ended[0].err
    assert "Traceback" not in ended[0].err


def test_a_launcher_that_may_restart_continues_by_itself(config: Path, record_property: Record):
    """launch/torchrun.sh: a process is killed; all start again from the last checkpoint and finish."""
    again = Run(config, "again", "data.val=null", "schedule.steps=14")
    script = str(ROOT / "launch" / "torchrun.sh")
    program = f"import os, sys; os.execvp('bash', ['bash', {script!r}, '2', *sys.argv[1:]])"
    alone = dict.fromkeys(("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"), "")
    arguments = ["-c", program, *again.args[2:], "--resume"]
    with Processes(1, arguments, ROOT, **{**forking(), **alone, "RESTARTS": "1"}) as processes:
        again.wait_for_step(processes, 5)
        os.kill(rank_of(again, 1), signal.SIGKILL)
        ended = wait_and_record(processes, time.monotonic(), record_property)
    assert ended[0].code == 0, ended[0].err
    assert ended[0].out.count("resumed") == 1 and "finished after step 14" in ended[0].out
    assert [line["step"] for line in again.lines()] == list(range(1, 15))


def rank_of(run: Run, rank: int) -> int:
    """The process of a rank that a launcher has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            trains = str(run.out).encode() in (folder / "cmdline").read_bytes()
            if trains and f"RANK={rank}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                return int(folder.name)
    raise AssertionError(f"no process of rank {rank}")
