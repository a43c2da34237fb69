"""How long training stands still for a checkpoint, when that is complete, and what memory it takes.

The state is that of a real network with AdamW, after an update with gradients that are made up. Three ways,
in turns: rank 0 writes all while all wait, as it was; the same files in the foreground as now; and in the
background, where a step's forward pass, here products of matrices, lies before the update that must wait for
the copy.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unimatch.benchmarks.memory import Peak
from unimatch.config import Section
from unimatch.engine import checkpoint, parts
from unimatch.engine.checkpoint_folder import write_folder
from unimatch.engine.runtime import Runtime
from unimatch.engine.saver import Held, Saver
from unimatch.models.encoders import EncoderConfig
from unimatch.models.segmentor import HEADS, ModelConfig, build_segmentor
from unimatch.scaling.spawn import Job, run_all

WAYS = ("rank 0 writes, all wait", "parts, all wait", "parts, in the background")
SIDE = 512  # of the matrices


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--encoder", default="vit_large_patch14_dinov2", help="its name (%(default)s)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="(%(default)s)")
    parser.add_argument("--forward-s", type=float, default=5.0, help="of a step (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="times each way is taken (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where to write; none: the temporary folder")


@dataclasses.dataclass(frozen=True)
class Taken:
    """One checkpoint: seconds, and bytes of rank 0."""

    stands_s: float  # training does nothing
    copy_s: float  # of the part to the host's memory, as far as it is one
    whole_s: float  # until it is complete
    memory: float  # the most above what was held before


def run(options: argparse.Namespace) -> str:
    """Markdown: a row for each number of processes and way."""
    lines = [
        "| processes | way | state | training stands still, s | share of the first way, in turns | "
        "copy to host memory, s | complete after, s | rank 0's memory for it |",
        "| ---: | --- |" + " ---: |" * 6,
    ]
    with tempfile.TemporaryDirectory(prefix="unimatch-bench-", dir=options.folder) as scratch:
        for count in options.processes:
            asked = {**vars(options), "folder": str(Path(scratch) / str(count))}
            job = Job(count, ["-m", "unimatch.benchmarks.checkpoint", json.dumps(asked)], {})
            (told,) = run_all([job], timeout_s=3600)
            size, found = json.loads(told.splitlines()[-1])
            lines += rows(count, size, {way: [Taken(**one) for one in each] for way, each in found.items()})
    return "\n".join(lines)


def rows(count: int, size: float, found: dict[str, list[Taken]]) -> list[str]:
    """Of one number of processes: medians over rounds, and of the pauses also the range."""
    lines = []
    first = found[WAYS[0]]
    for way, taken in found.items():
        shares = [one.stands_s / before.stands_s for one, before in zip(taken, first, strict=True)]
        pauses = [one.stands_s for one in taken]
        cells = [
            f"{count}",
            way,
            f"{size / 1e9:.2f} GB",
            f"{statistics.median(pauses):.3g} ({min(pauses):.3g} to {max(pauses):.3g})",
            f"{statistics.median(shares):.1%} ({min(shares):.1%} to {max(shares):.1%})",
            f"{statistics.median(one.copy_s for one in taken):.3g}",
            f"{statistics.median(one.whole_s for one in taken):.3g}",
            f"{max(one.memory for one in taken) / 1e9:.2f} GB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def trained(encoder: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The network and its AdamW after one update."""
    head = Section("dpt", HEADS["dpt"].config())
    with torch.device("meta"):
        net = build_segmentor(ModelConfig(EncoderConfig(encoder, weights="none"), head), 21)
    net = net.to_empty(device="cpu")
    for tensor in net.state_dict().values():
        tensor.fill_(1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-6, fused=True)
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer.step()
    optimizer.zero_grad()
    return net, optimizer


class Case:
    """The state of one process, and the ways to save it in `folder`."""

    def __init__(self, runtime: Runtime, encoder: str, folder: Path, forward_s: float) -> None:
        self._runtime = runtime
        self._net, self._optimizer = trained(encoder)
        self._folder = folder
        self._forward_s = forward_s
        self._peak = Peak()
        self.size = parts.size_bytes(self._held().networks["model"].pieces) * 3.0

    def _held(self) -> Held:
        small, large = parts.without_tensors(self._optimizer.state_dict())
        networks = {checkpoint.NETWORK: parts.Part(parts.whole(parts.settled(self._net)), shared=True)}
        engine = {"optimizer": small, "scaler": {}, "method": {}}
        return Held(networks, parts.Part(parts.whole(large), shared=True), engine)

    def save(self, way: str, step: int) -> Taken:
        """Writes one checkpoint, and removes it."""
        state = checkpoint.TrainerState(step, "miou", None, None, {}, {}, self._runtime.world)
        self._runtime.barrier()
        self._peak.restart()
        before, began = self._peak.now, time.perf_counter()
        took = self._as_it_was if way == WAYS[0] else self._background if way == WAYS[2] else self._foreground
        stands_s, copy_s = took(state)
        whole_s = time.perf_counter() - began
        memory = self._peak.most - before
        if self._runtime.is_main:
            shutil.rmtree(self._folder)
        self._runtime.barrier()
        return Taken(stands_s, copy_s, whole_s, memory)

    def _as_it_was(self, state: checkpoint.TrainerState) -> tuple[float, float]:
        def fill(partial: Path) -> None:
            checkpoint.save_networks(partial, {checkpoint.NETWORK: self._net.state_dict()})
            checkpoint.save_engine(partial, {"optimizer": self._optimizer.state_dict()}, ())
            checkpoint.save_state(partial, state)

        began = time.perf_counter()
        with self._runtime.together():
            if self._runtime.is_main:
                write_folder(checkpoint.step_folder(self._folder, state.step), fill)
        return time.perf_counter() - began, 0.0

    def _foreground(self, state: checkpoint.TrainerState) -> tuple[float, float]:
        saver = Saver(self._runtime, self._folder, 1, (), background=False)
        return _seconds(lambda: saver.save(state, self._held(), whole=True, best=False)), 0.0

    def _background(self, state: checkpoint.TrainerState) -> tuple[float, float]:
        saver = Saver(self._runtime, self._folder, 1, (), background=True)
        stands_s = _seconds(lambda: saver.save(state, self._held(), whole=True, best=False))
        copied: list[float] = []
        watch = threading.Thread(target=lambda: copied.append(_seconds(saver.copied)))
        watch.start()
        matrix = torch.ones(SIDE, SIDE)
        until = time.perf_counter() + self._forward_s
        while time.perf_counter() < until:
            matrix @ matrix
        stands_s += _seconds(saver.copied)
        watch.join()
        saver.finish()
        return stands_s, copied[0]


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _measure(asked: dict[str, Any]) -> None:
    runtime = Runtime(timeout_s=1800)
    case = Case(runtime, asked["encoder"], Path(asked["folder"]), asked["forward_s"])
    found: dict[str, list[Taken]] = {way: [] for way in WAYS}
    for turn in range(asked["rounds"]):
        for way in WAYS:
            found[way].append(case.save(way, turn + 1))
    print(json.dumps([case.size, {way: [vars(one) for one in each] for way, each in found.items()}]))
    sys.stdout.flush()
    runtime.close()


if __name__ == "__main__":
    _measure(json.loads(sys.argv[1]))
