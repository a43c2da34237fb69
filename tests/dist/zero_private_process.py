"""One process of test_zero_private: what zero_private.py says of two groups under ZeRO-2 and ZeRO-3; rank
0 saves it in the file that is its argument.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state, safe_get_local_fp32_param
from torch import Tensor, nn

from tests.dist.test_zero import zero
from unimatch.engine import zero_private
from unimatch.engine.runtime import Runtime


class Step(nn.Module):
    """Odd sizes, which do not divide by two."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).square().mean()


def everywhere(values: Tensor) -> Tensor:
    """The sum over processes."""
    dist.all_reduce(values := values.detach().clone())
    return values


def without_padding(flat: Tensor, group: list[nn.Parameter], stage: int) -> Tensor:
    """The values of a group's flat part; under stage 3 what fills the last process's is anything."""
    if stage < 3:
        return flat
    each = flat.split([p.ds_tensor.ds_numel for p in group])  # type: ignore[attr-defined]
    own = [zero_private.own_values(p, piece) for p, piece in zip(group, each, strict=True)]
    return torch.cat([piece.values for piece in own if piece is not None])


def found_under(stage: int) -> dict[str, Any]:
    os.environ.update(zero(stage))
    runtime = Runtime()
    module = Step()
    groups = [{"params": list(part.parameters())} for part in module.net]
    parameters = [p for group in groups for p in group["params"]]
    layout: Any = runtime.prepare(module, torch.optim.AdamW(groups, lr=1e-3), None)
    with layout.micro_batch(last=True):
        layout.backward(layout(torch.ones(2, 3)))
    layout.update()
    whole = [safe_get_full_fp32_param(p) for p in parameters]
    flat = zero_private.flat_parts(layout._engine.optimizer, stage)
    parts = [
        without_padding(part, list(layer.parameters()), stage)
        for part, layer in zip(flat, module.net, strict=True)
    ]
    layout._link()
    found = {
        "parts": [(everywhere(part.sum()), everywhere(part.square().sum())) for part in parts],
        "groups": [
            (sum(w.sum() for w in two), sum(w.square().sum() for w in two)) for two in (whole[:2], whole[2:])
        ],
        "linked": [safe_get_full_optimizer_state(p, "exp_avg") is not None for p in parameters],
        "is parted": [zero_private.is_parted(p) for p in parameters],
        "builder": deepspeed.ops.__compatible_ops__.get("deepspeed_shm_comm"),
    }
    if stage == 3:
        found["own"] = [zero_private.own_part(p, w) for p, w in zip(parameters, whole, strict=True)]
        found["local"] = [safe_get_local_fp32_param(p) for p in parameters]
    runtime.release()
    return found


if __name__ == "__main__":
    results = {stage: found_under(stage) for stage in (2, 3)}
    if dist.get_rank() == 0:
        torch.save({"version": deepspeed.__version__, **results}, sys.argv[1])
    dist.destroy_process_group()
