"""Two hosts, one launcher each, train together over TCP: the documented commands, a cut link, a slow link."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import pytest

from tests.conftest import ROOT, tiny_run_text
from tests.dist.hosts import ADDRESSES, INTERFACE, Hosts, why_not
from tests.dist.test_training import Run
from unimatch.engine.entry import LAUNCHER_S
from unimatch.engine.log import read_metrics

TIMEOUT_S = 15
SLACK_S = 20
DELAY_S = 0.05
SPREAD_S = 0.1  # of a step's time on a machine that others use


@pytest.fixture(scope="module", autouse=True)
def needs_hosts() -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def config(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hosts")
    path = folder / "run.yaml"
    text = tiny_run_text(folder / "run", tiny_shards)
    text = text.replace("lr: 0.01", "lr: 0.001").replace("steps: 20", "steps: 12")
    path.write_text(text.replace("checkpoint: {every_steps: 10}", "checkpoint: {every_steps: 3}"))
    return path


class Pair:
    """One launcher on each host; leaves none of their processes behind."""

    def __init__(self, hosts: Hosts, commands: list[list[str]], environments: list[dict[str, str]]) -> None:
        self._open = ExitStack()
        self.logs: list[IO[str]] = []
        self.launchers = []
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        for host, (command, own) in enumerate(zip(commands, environments, strict=True)):
            log = self._open.enter_context(TemporaryFile("w+"))  # noqa: SIM115 (closed by __exit__)
            self.logs.append(log)
            common = {"PATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": INTERFACE}
            launcher = subprocess.Popen(
                hosts.inside(host, command),
                cwd=ROOT,
                env={**os.environ, **common, **own},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            self.launchers.append(launcher)

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        for launcher in self.launchers:
            # The workers have sessions of their own and end with their launcher's pipes or the timeout.
            for pid in [*descendants(launcher.pid), launcher.pid]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            launcher.wait()
        self._open.close()

    def told(self) -> list[str]:
        texts = []
        for log in self.logs:
            log.seek(0)
            texts.append(log.read())
        return texts

    def wait_for_step(self, run: Run, step: int) -> None:
        deadline = time.monotonic() + 240
        log = run.out / "metrics.jsonl"
        while not log.exists() or log.read_text().count('"kind": "train"') < step:
            ended = any(launcher.poll() is not None for launcher in self.launchers)
            assert not ended and time.monotonic() < deadline, "\n".join(self.told())
            time.sleep(0.02)

    def wait(self, timeout_s: float = 240) -> list[int]:
        try:
            return [launcher.wait(timeout_s) for launcher in self.launchers]
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not ended in {timeout_s} s:\n" + "\n".join(self.told())) from None


def descendants(pid: int) -> list[int]:
    with suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [one for child in map(int, children) for one in (*descendants(child), child)]
    return []


def accelerated(hosts: Hosts, run: Run, *extra: str) -> Pair:
    """launch/accelerate/nodes8.yaml with one CPU process a host."""
    launch = ["accelerate", "launch", "--config_file", "launch/accelerate/nodes8.yaml"]
    launch += ["--num_machines", "2", "--num_processes", "2", "--main_process_ip", ADDRESSES[0]]
    commands = [[*launch, "--machine_rank", f"{host}", *run.args, *extra] for host in range(2)]
    return Pair(hosts, commands, [{}, {}])


def test_a_cut_link_ends_both_hosts_and_the_run_continues_to_the_same_result(config: Path, record_property):
    local = Run(config, "local", "data.val=null").train(2)
    cut = Run(config, "cut", "data.val=null")
    with Hosts() as hosts:
        with accelerated(hosts, cut, "--timeout", f"{TIMEOUT_S}") as pair:
            pair.wait_for_step(cut, 5)
            hosts.link("down")
            began = time.monotonic()
            codes = pair.wait(TIMEOUT_S + LAUNCHER_S + SLACK_S)
            record_property("seconds", round(time.monotonic() - began, 1))
            told = pair.told()
            record_property("told", told)
        assert 0 not in codes
        for rank, text in enumerate(told):
            assert f"error: rank {rank}: another process of the run has ended or cannot be reached" in text
        assert cut.saved_step == 3
        hosts.link("up")
        with accelerated(hosts, cut, "--resume") as pair:
            assert pair.wait() == [0, 0], pair.told()
            assert len(re.findall(r"host \S+ \(node \d\): rank \d on cpu", pair.told()[0])) == 2
    assert cut.lines() == local.lines()
    weights = "model.safetensors"
    assert (cut.out / "last" / weights).read_bytes() == (local.out / "last" / weights).read_bytes()


@pytest.fixture
def slow() -> Iterator[Hosts]:
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("a slow link needs /dev/net/tun")
    with Hosts(DELAY_S) as hosts:
        yield hosts


def test_a_slow_link_costs_a_step_its_gradients_and_changes_nothing_else(
    config: Path, slow: Hosts, record_property
):
    """launch/torchrun.sh. No synchronised batch norm: its many small sums would each wait for the link."""
    settings = ("data.val=null", "sync_batchnorm=off", "schedule.steps=8", "log.every_steps=4")
    local = Run(config, "near", *settings).train(2)
    far = Run(config, "far", *settings)
    # Without the launcher's `-m unimatch.train`, which the script has.
    command = ["bash", "launch/torchrun.sh", "1", *far.args[2:]]
    both = {"NODES": "2", "MASTER": ADDRESSES[0], "INTERFACE": INTERFACE}
    own = [{**both, "NODE_RANK": f"{host}", "ADDRESS": ADDRESSES[host]} for host in range(2)]
    with Pair(slow, [command, command], own) as pair:
        assert pair.wait() == [0, 0], pair.told()
        told = "".join(pair.told())
    reduced = re.search(r"all-reduce of 1 MiB over 2 processes: (\S+) ms", told)
    assert reduced and float(reduced[1]) >= 2 * 1000 * DELAY_S
    record_property("all_reduce_ms", reduced[1])
    assert far.lines() == local.lines()
    # The gradients have 0.7 MB. Each further message that a step waits for takes 0.1 s.
    quick, late = (read_metrics(run.out, "train")[-1]["step_s"] for run in (local, far))
    record_property("step_s", (quick, late))
    assert late - quick <= 1e-3 * float(reduced[1]) + SPREAD_S
