"""The optimiser and its parameter groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from unimatch.models.segmentor import Segmentor


@dataclass
class OptimizerConfig:
    """SGD (published V1 runs) or AdamW (V2). `lr` is the encoder's; the head's is lr * head_lr_multiplier."""

    lr: float
    name: Literal["sgd", "adamw"] = "sgd"
    head_lr_multiplier: float = 1.0
    weight_decay: float = 1e-4
    momentum: float = 0.9  # sgd
    betas: tuple[float, float] = (0.9, 0.999)  # adamw
    clip_norm: float | None = None  # largest gradient norm over all parameters; none: no clipping

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.head_lr_multiplier <= 0:
            raise ValueError("lr and head_lr_multiplier must be above 0")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError("clip_norm must be above 0; leave it out for no clipping")


def build_optimizer(net: Segmentor, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Two groups, "encoder" and "head"; `base_lr` is what the schedule multiplies."""
    groups = []
    for name, part, lr in (
        ("encoder", net.encoder, config.lr),
        ("head", net.head, config.lr * config.head_lr_multiplier),
    ):
        params = [p for p in part.parameters() if p.requires_grad]
        groups.append({"params": params, "lr": lr, "base_lr": lr, "name": name})
    known = {id(p) for part in (net.encoder, net.head) for p in part.parameters()}
    assert all(id(p) in known for p in net.parameters()), "a parameter is in neither encoder nor head"
    if config.name == "sgd":
        return torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Writes `base_lr * factor` into every group."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
