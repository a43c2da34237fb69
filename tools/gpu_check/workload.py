"""A case as it is trained here: the trainer's own step, over one batch of noise in pinned memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from unimatch import config as config_io
from unimatch.data.training import RawMicro
from unimatch.engine.build import adapt, build_method, build_network, build_task
from unimatch.engine.checkpoint import TrainerState
from unimatch.engine.optim import build_optimizer
from unimatch.engine.run_config import RunConfig
from unimatch.engine.runtime import Runtime
from unimatch.engine.trainer import Trainer
from unimatch.methods.base import Method
from unimatch.scaling.footprint import blank_micro
from unimatch.tasks.base import Task
from unimatch.taxonomy import Taxonomy

from .cases import Case


@dataclass(frozen=True)
class Mode:
    """One way to compute a case."""

    name: str
    precision: str = "fp32"
    tf32: bool = False
    compile: bool = False
    channels_last: bool = True
    views: str = "cpu"  # or accelerator: who makes the strong views
    recompute: bool = False
    benchmark: bool = False  # cuDNN times its kernels at the first step and takes the quickest


@dataclass
class Workload:
    """A trainer and the batch that it is given again and again."""

    mode: Mode
    trainer: Trainer
    raw: RawMicro
    shares: torch.Tensor
    done: int = 0

    def step(self) -> None:
        """One step of training, launched."""
        allow_tf32(self.mode.tf32)
        torch.backends.cudnn.benchmark = self.mode.benchmark
        self.trainer.step(self.done, [self.raw], [self.shares])
        self.done += 1


def allow_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    """Until the device has done all that was launched."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Spent:
    """Seconds of some steps: until the host had launched them, what it computed until then, until the device
    had finished.
    """

    launched: float
    own: float
    wall: float


def timed(step: Callable[[], None], steps: int) -> Spent:
    began, own = time.perf_counter(), time.thread_time()
    for _ in range(steps):
        step()
    launched, own = time.perf_counter() - began, time.thread_time() - own
    wait()
    return Spent(launched, own, time.perf_counter() - began)


def taxonomy(case: Case) -> Taxonomy:
    return Taxonomy.of([f"class {number}" for number in range(case.classes)])


def read_config(case: Case, mode: Mode) -> RunConfig:
    # CPUs emulate half precision, at a crawl.
    precision = mode.precision if torch.cuda.is_available() else "fp32"
    text = case.yaml(precision=precision, views=mode.views, recompute=mode.recompute)
    return config_io.from_text(text, RunConfig, [f"compile={'inductor' if mode.compile else 'off'}"])


def build(case: Case, mode: Mode) -> Workload:
    """A trainer with random weights; in turns with others of one process."""
    config = read_config(case, mode)
    runtime = Runtime(config.precision)
    net = build_network(config, taxonomy(case), runtime)
    if not mode.channels_last:
        net.to(memory_format=torch.contiguous_format)
        # Images come as channels_last, which a convolution would take for its own.
        net.encoder.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))
    task = build_task(config, taxonomy(case), net)
    method = build_method(config, task, net)
    optimizer = build_optimizer(net, config.optimizer, method.parts)
    adapt(net, method, config, runtime)
    state = TrainerState(0, task.headline, None, None, taxonomy(case).to_json(), {}, 1)
    trainer = Trainer(config, runtime, net, method, task, optimizer, [], None, state, 1_000_000, 1_000)
    raw = noise(case, task, method)
    counts = task.pixel_counts(raw)
    return Workload(mode, trainer, _pinned(raw), torch.ones(len(counts), dtype=torch.float64))


def noise(case: Case, task: Task, method: Method) -> RawMicro:
    """A micro-batch as the loader makes it, of random pixels and labels."""
    raw = blank_micro(
        task, method, case.crop, case.crop, case.labeled, case.unlabeled, torch.cuda.is_available()
    )
    rng = np.random.default_rng(0)
    halves: list[dict[str, torch.Tensor]] = [raw["labeled"], raw["unlabeled"] or {}]
    for half in halves:
        for name, value in half.items():
            if name == "label":
                half[name] = torch.from_numpy(rng.integers(0, case.classes, value.shape, np.uint8))
            elif value.dtype in (torch.uint8, torch.uint16):
                kind = np.dtype(str(value.dtype).removeprefix("torch."))
                half[name] = torch.from_numpy(rng.integers(0, np.iinfo(kind).max, value.shape, kind))
    return raw


def _pinned(raw: Any) -> Any:
    if not torch.cuda.is_available():
        return raw
    return {
        name: {key: value.pin_memory() for key, value in part.items()} if isinstance(part, dict) else part
        for name, part in raw.items()
    }
