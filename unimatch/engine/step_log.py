"""What a logged step says of its losses and rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unimatch.engine.runtime import Runtime

SHOWN = ("loss", "kept", "images_per_s", "data_wait")  # in the progress bar too


def means(
    told: Sequence[Mapping[str, Tensor]],
    losses: Tensor,
    own: Tensor,
    runtime: Runtime,
    classes: Sequence[str],
) -> tuple[dict[str, Any], float, Tensor]:
    """The logs of a step's micro-batches as means over them and over all processes, by class where each has a
    value; the sum of all processes' `losses`; and each process's numbers `own` [n] as [processes, n]. One
    collective.
    """
    rows = [torch.cat([value.reshape(-1).double() for value in logs.values()]) for logs in told]
    is_own = torch.arange(runtime.world) == runtime.rank  # the other rows are the others' in the sum
    table = torch.where(is_own[:, None], own, 0.0).flatten().to(losses.device)
    flat = torch.cat([torch.stack(rows).mean(0) / runtime.world, table, losses.reshape(1).double()])
    sizes = [value.numel() for value in told[0].values()]
    *parts, table, total = runtime.sum_on_device(flat).cpu().split([*sizes, len(table), 1])
    values = {
        name: part.item() if part.numel() == 1 else dict(zip(classes, part.tolist(), strict=True))
        for name, part in zip(told[0], parts, strict=True)
    }
    return values, total.item(), table.view(runtime.world, -1)


def rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The learning rate of each parameter group."""
    return {f"lr_{group['name']}": group["lr"] for group in optimizer.param_groups}


def over_steps(lines: Sequence[Mapping[str, Any]], of: Callable[[Mapping[str, Any]], float]) -> float:
    """The sum over all steps of what each logged line says of the steps since the line before it."""
    total, before = 0.0, 0
    for line in lines:
        total += of(line) * (line["step"] - before)
        before = line["step"]
    return total
