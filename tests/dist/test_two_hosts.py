"""Two hosts, one launcher each, train together over TCP: the documented commands, a slow link that is cut."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from typing import IO

import pytest

from tests.conftest import ROOT, tiny_run_text
from tests.dist.hosts import ADDRESSES, INTERFACE, Hosts, why_not
from tests.dist.test_training import AT_ONCE, Run
from tests.support.processes import forking
from tests.support.warm_python import FIXED
from unimatch.engine.entry import LAUNCHER_S
from unimatch.engine.log import read_metrics

TIMEOUT_S = 10
SLACK_S = 20
DELAY_S = 0.05


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
    for old, new in (
        ("lr: 0.01", "lr: 0.001"),
        ("steps: 20", "steps: 5"),
        ("val: val", "val: null"),
        ("checkpoint: {every_steps: 10}", "checkpoint: {every_steps: 3}"),
    ):
        assert old in text, old
        text = text.replace(old, new)
    # No synchronised batch norm: its many small sums would each wait for the link.
    path.write_text(text + "sync_batchnorm: off\n")
    return path


class Pair:
    """One launcher on each host; leaves none of their processes behind."""

    def __init__(self, hosts: Hosts, commands: list[list[str]], environments: list[dict[str, str]]) -> None:
        self._open = ExitStack()
        self.logs: list[IO[str]] = []
        self.launchers = []
        for host, (command, own) in enumerate(zip(commands, environments, strict=True)):
            log = self._open.enter_context(TemporaryFile("w+"))  # noqa: SIM115 (closed by __exit__)
            self.logs.append(log)
            common = {**FIXED, **forking(), "GLOO_SOCKET_IFNAME": INTERFACE}
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


def launched(run: Run, *extra: str) -> tuple[list[list[str]], list[dict[str, str]]]:
    """launch/torchrun.sh on each host, with its variables."""
    # Without the launcher's `-m unimatch.train`, which the script has.
    command = ["bash", "launch/torchrun.sh", "1", *run.args[2:], *extra]
    both = {"NODES": "2", "MASTER": ADDRESSES[0], "INTERFACE": INTERFACE}
    return [command] * 2, [{**both, "NODE_RANK": f"{host}", "ADDRESS": ADDRESSES[host]} for host in range(2)]


def test_a_cut_link_ends_both_hosts_and_the_run_continues_to_the_same_result(config: Path, record_property):
    """Over a slow link, where the machine can have one: it changes the time alone. Cut in a run that
    accelerate started; continued by torchrun.
    """
    local = Run(config, "local").train(2)
    cut = Run(config, "cut", AT_ONCE)
    delay_s = DELAY_S if os.access("/dev/net/tun", os.R_OK | os.W_OK) else None
    with Hosts(delay_s) as hosts:
        with accelerated(hosts, cut, "--timeout", f"{TIMEOUT_S}") as pair:
            pair.wait_for_step(cut, 4)
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
        with Pair(hosts, *launched(cut, "--resume")) as pair:
            assert pair.wait() == [0, 0], pair.told()
            told = pair.told()
    assert sum(len(re.findall(r"host \S+ \(node \d\): rank \d on cpu", text)) for text in told) == 2
    reduced = re.search(r"all-reduce of 1 MiB over 2 processes: (\S+) ms", "".join(told))
    record_property("all_reduce_ms", reduced and reduced[1])
    assert reduced and float(reduced[1]) >= 2 * 1000 * (delay_s or 0)
    # What it takes is tests.dist.slow_link's to say; that messages travel in advance, test_trainer's.
    quick, late = (
        median(line["step_s"] for line in read_metrics(run.out, "train")[-3:]) for run in (local, cut)
    )
    record_property("step_s", (quick, late))
    assert cut.lines() == local.lines()
    weights = "model.safetensors"
    assert (cut.out / "last" / weights).read_bytes() == (local.out / "last" / weights).read_bytes()
