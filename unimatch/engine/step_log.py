"""What a logged step says of its losses and rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unimatch.engine.runtime import Runtime

SHOWN = ("loss", "kept", "images_per_s", "data_wait")  # in the progress bar too


def means(logs: Mapping[str, Tensor], runtime: Runtime, classes: Sequence[str]) -> dict[str, Any]:
    """The logs of a step as means over all processes, by class where each has a value. A collective."""
    flat = torch.cat([value.reshape(-1).double() for value in logs.values()])
    flat = (runtime.sum_on_device(flat) / runtime.world).cpu()
    parts = flat.split([value.numel() for value in logs.values()])
    return {
        name: part.item() if part.numel() == 1 else dict(zip(classes, part.tolist(), strict=True))
        for name, part in zip(logs, parts, strict=True)
    }


def rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The learning rate of each parameter group."""
    return {f"lr_{group['name']}": group["lr"] for group in optimizer.param_groups}
