"""What a step takes over a link that carries packets 50 ms late, beside the exchange of its gradients alone.

python -m tests.dist.slow_link [FOLDER]

Two hosts of this machine (tests.dist.hosts) train 25 steps of a tiny network over an ordinary link and over
the slow one. The yardstick: DistributedDataParallel over as many parameters, which computes nothing, on the
same links. FOLDER: another checkout, whose package is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from tests.conftest import ROOT, tiny_run_text
from tests.dist.hosts import ADDRESSES, INTERFACE, Hosts, why_not
from unimatch.benchmarks.step import write_set

DELAY_S = 0.05
STEPS = 25
WARM_UP = 5  # first steps, which do not count: connections open, and take up speed
PRELUDE = """
import json, sys, time
marks = []
"""
TRAIN = """
from unimatch.engine.log import RunLog
from unimatch.engine.trainer import Trainer
RunLog.progress = lambda log, step: marks.append(time.perf_counter())
begin = Trainer.train
def train(trainer, *rest):
    global size
    size = trainer.num_parameters
    return begin(trainer, *rest)
Trainer.train = train
from unimatch.train import main
main(sys.argv[1:])
print(json.dumps([size, marks]))
"""
EXCHANGE = """
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
class Nothing(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(size))
    def forward(self):
        return self.weight.sum()
net = torch.nn.parallel.DistributedDataParallel(Nothing(int(sys.argv[1])))
for _ in range(int(sys.argv[2])):
    net().backward()
    net.zero_grad()
    marks.append(time.perf_counter())
print(json.dumps([0, marks]))
"""


def run(hosts: Hosts, tree: Path, program: str, *arguments: str) -> tuple[int, float]:
    """A process on each host; (parameters of the network, median seconds of a step) of rank 0."""
    processes = []
    for rank in range(2):
        place = {"RANK": f"{rank}", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        place |= {"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": "29555", "GLOO_SOCKET_IFNAME": INTERFACE}
        environment = {**os.environ, **place, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
        command = hosts.inside(rank, [sys.executable, "-c", PRELUDE + program, *arguments])
        processes.append(
            subprocess.Popen(command, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True)
        )
    told = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a process failed; what it said is above")
    size, marks = json.loads(told[0].splitlines()[-1])
    times = [after - before for before, after in zip(marks, marks[1:], strict=False)]
    return size, median(times[WARM_UP:-1])  # the last step also saves


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tree", nargs="?", type=Path, default=ROOT, help="another checkout to measure")
    tree = parser.parse_args(arguments).tree.resolve()
    if reason := why_not():
        raise SystemExit(reason)
    found: dict[str, list[float]] = {"training": [], "gradients alone": []}
    with tempfile.TemporaryDirectory(prefix="unimatch-link-") as scratch:
        root = Path(scratch)
        write_set(root)
        text = tiny_run_text(root / "run", root / "set", root / "split") + "sync_batchnorm: off\n"
        (root / "run.yaml").write_text(text)
        settings = ["data.val=null", f"schedule.steps={STEPS}", f"checkpoint.every_steps={STEPS}"]
        settings += [f"log={{every_steps: {STEPS}, pictures_every_steps: 0}}"]
        for delay_s in (None, DELAY_S):
            with Hosts(delay_s) as hosts:
                every = [*settings, f"out={root / f'run{delay_s}'}"]
                sets = [part for one in every for part in ("--set", one)]
                size, step_s = run(hosts, tree, TRAIN, "--config", str(root / "run.yaml"), *sets)
                found["training"].append(step_s)
                found["gradients alone"].append(run(hosts, tree, EXCHANGE, f"{size}", f"{STEPS}")[1])
    print(f"{size} parameters, ms a step\n")
    print("| | ordinary link | 50 ms late | difference |\n| --- | ---: | ---: | ---: |")
    for name, (near, far) in found.items():
        print(f"| {name} | {1e3 * near:.0f} | {1e3 * far:.0f} | {1e3 * (far - near):.0f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
