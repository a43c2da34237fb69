"""One process of test_fsdp: a network of odd blocks with a teacher and a part is trained by the same steps in
every case and layout; rank 0 saves what came of each in the folder that is its argument.
"""

from __future__ import annotations

import copy
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.support.launches import fsdp
from unimatch.engine.batchnorm import synchronize_batchnorm
from unimatch.engine.modes import Precision
from unimatch.engine.parts import Part, with_tensors
from unimatch.engine.runtime import Layout, Runtime
from unimatch.engine.trainer import StepModule
from unimatch.methods.base import Method, Progress
from unimatch.methods.teacher import Teacher
from unimatch.models.base import Encoder
from unimatch.models.recompute import recompute_activations

LAYOUTS: dict[str, dict[str, str]] = {
    "ddp": {},
    "fsdp": fsdp(),
    "kept": fsdp(reshard=False),
    "replicas": fsdp(replicas=2, parts=1),
}
STEPS, IMAGES = 2, 4  # of a process and micro-batch


@dataclass
class Case:
    """layouts: those beside DDP that train it. like: the case that DDP trains in place of it, with the same
    result. clip: the largest norm of gradients. micro: micro-batches a step. idle: no step uses the part.
    """

    layouts: tuple[str, ...] = ("fsdp",)
    like: str | None = None
    adam: bool = True
    clip: float | None = 0.1
    micro: int = 1
    norm: type[nn.Module] = nn.BatchNorm2d
    synced: bool = True
    recompute: bool = False
    frozen: bool = False
    compiled: bool = False
    precision: Precision = "fp32"
    elementwise: bool = True
    idle: bool = False


CASES = {
    "plain": Case(),
    "recomputed": Case(("kept",), like="plain", recompute=True),
    "compiled": Case(like="plain", compiled=True),
    "accumulated, rank 0's buffers": Case(("fsdp", "replicas"), adam=False, micro=2, synced=False),
    "frozen, bf16": Case(norm=nn.InstanceNorm2d, frozen=True, precision="bf16"),
    "whole copies, idle part, not clipped": Case(adam=False, elementwise=False, idle=True, clip=None),
}


class Block(nn.Module):
    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(5, 5, 3, padding=1), norm(5, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(x)).relu()


class Blocks(Encoder):
    """Five channels, which two processes cannot share evenly."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 5, 1)
        self.blocks = nn.Sequential(*(Block(norm) for _ in range(2)))

    def forward(self, image: Tensor) -> Tensor:
        return self.blocks(self.first(image))


class Net(nn.Module):
    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.encoder, self.head = Blocks(norm), nn.Conv2d(5, 3, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.encoder(image))}


class Following(Method):
    """A teacher's labels, two passes of the student, and a part that reads the features."""

    def begin(self, net: nn.Module) -> None:
        self.teacher = Teacher(net)
        self.add_part("second", Net(self.config.norm), net)
        self.elementwise = self.config.elementwise
        self.kept: dict[str, Tensor] = {}

    def step(self, net: Any, batch: Tensor, progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        soft = self.teacher.logits(batch).softmax(1)
        net.train()
        loss = (net(batch)["logits"] - soft).square().mean() + net(batch.flip(3))["logits"].square().mean()
        second = self.parts["second"].train()
        loss = loss + (self.idle() if self.config.idle else second(batch)["logits"].square().mean())
        return loss, {}

    def after_update(self, net: nn.Module, progress: Progress) -> None:
        if not self.elementwise:
            self.kept = {name: value.clone() for name, value in net.state_dict().items()}
        elif progress.step:
            self.teacher.update(net, 0.7)
        else:
            self.teacher.copy(net)

    def eval_nets(self, net: nn.Module) -> dict[str, nn.Module]:
        return {"model": net, "ema": self.teacher.net}


def joined(part: Part, runtime: Runtime) -> dict[str, Tensor]:
    """Whole tensors out of what all processes have of them; NaN where none has values."""
    found: dict[str, Tensor] = {}
    for each in runtime.gather(part.pieces):
        for name, piece in each.items():
            if name not in found:
                found[name] = torch.zeros(piece.shape, dtype=piece.values.dtype)
                if found[name].is_floating_point():
                    found[name].fill_(torch.nan)
            values = piece.values.detach().reshape(-1)
            found[name].view(-1)[piece.start : piece.start + len(values)] = values
    return found


def optimizer_state(layout: Layout, runtime: Runtime) -> dict[str, Any]:
    state, part = layout.optimizer_part()
    with_tensors(state["optimizer"], joined(part, runtime))
    whole: dict[str, Any] = state["optimizer"]
    return whole


def trained(case: Case, runtime: Runtime) -> dict[str, Any]:
    """What a case came to under a runtime: figures of each step, and all states in the end."""
    torch.manual_seed(0)
    net = Net(case.norm).to(memory_format=torch.channels_last)
    if case.frozen:
        net.encoder.freeze()
    method = Following(case, lambda *_: None, lambda *_: None)
    method.begin(net)
    module = StepModule(net, method)
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups: list[Any] = [{"params": parameters[4:], "name": "a"}, {"params": parameters[:4], "lr": 2e-2}]
    if case.adam:
        # Where no gradient belongs (a bias before a norm) Adam would make steps of its rounding.
        optimizer: Any = torch.optim.AdamW(groups, lr=1e-2, eps=1e-3, fused=True)
    else:
        optimizer = torch.optim.SGD(groups, lr=1e-2, momentum=0.9, weight_decay=1e-3, fused=True)
    for each in (net, method.parts["second"], method.teacher.net):
        if case.synced:
            synchronize_batchnorm(each, runtime.device)
        if case.recompute and each is not method.teacher.net:
            recompute_activations(each.encoder.recomputed_parts())
        if case.compiled and each is net:
            for block in net.encoder.blocks:
                block.compile(backend="eager")
    layout = runtime.prepare(module, optimizer, case.clip, same_buffers=not case.synced)
    figures: list[float] = []
    for step in range(STEPS):
        for index in range(case.micro):
            key = (step * case.micro + index) * runtime.world + runtime.rank
            batch = torch.randn(IMAGES, 3, 6, 6, generator=torch.Generator().manual_seed(key))
            with layout.micro_batch(last=index == case.micro - 1):
                loss, _ = layout(batch, Progress(step, STEPS, 0))
                layout.backward(loss / case.micro)
            figures.append(loss.item())
        norm = layout.update()
        figures += [] if norm is None else [norm.item()]
        with layout.readable(module, parts=method.elementwise):
            method.after_update(net, Progress(step, STEPS, 0))
    nets = {"model": net, "ema": method.teacher.net, "parts": method.parts}
    found = {name: joined(layout.network_part(each), runtime) for name, each in nets.items()}
    with layout.whole(method.teacher.net) as whole, torch.inference_mode():
        shown = whole.eval()(torch.ones(1, 3, 5, 5))["logits"].clone()
    state = optimizer_state(layout, runtime)
    layout.load_optimizer_state({"optimizer": copy.deepcopy(state), "scaler": {}})
    again = optimizer_state(layout, runtime)
    runtime.release()
    return {
        "figures": figures,
        "nets": found,
        "shown": shown,
        "optimizer": state,
        "loaded again": again,
        "kept": method.kept,
    }


if __name__ == "__main__":
    names = {name for told in LAYOUTS.values() for name in told}
    results: dict[tuple[str, str], Any] = {}
    for layout, told in LAYOUTS.items():
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(told)
        runtime = Runtime()
        for name, case in CASES.items():
            if layout in case.layouts or (layout == "ddp" and case.like is None):
                if case.precision != runtime.precision:
                    runtime = Runtime(case.precision)
                results[name, layout] = trained(case, runtime)
    if runtime.is_main:
        torch.save(results, Path(sys.argv[1]) / "results.pt")
    runtime.close()
