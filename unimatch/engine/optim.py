"""The optimiser and its parameter groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from unimatch.errors import UserError
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
    # Weight decay on all parameters, as in the released code, or not on those of one axis: biases, norms,
    # scales.
    decay: Literal["all", "matrices"] = "all"
    # Of a vision transformer: each block's rate over that of the block behind it; the last block has lr.
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.layer_decay <= 1.0:
            raise ValueError("layer_decay must lie in (0, 1]")
        if self.lr <= 0 or self.head_lr_multiplier <= 0:
            raise ValueError("lr and head_lr_multiplier must be above 0")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError("clip_norm must be above 0; leave it out for no clipping")


def build_optimizer(
    net: Segmentor, config: OptimizerConfig, beside: nn.ModuleDict | None = None
) -> torch.optim.Optimizer:
    """Groups "encoder", with layer_decay "encoder_00", ... from the image on, and "head"; each is cut in two
    if not all parameters decay, and none is empty. `base_lr` is what the schedule multiplies.

    beside: a method's own parts; one that is a network has its encoder's and head's groups under its name,
    any other one a group at the head's rate.
    """
    beside = nn.ModuleDict() if beside is None else beside
    parts = _parts(net, config)
    head_lr = parts[-1][2]
    for name, module in beside.items():
        if isinstance(module, Segmentor):
            parts += [(f"{name}_{own}", params, lr) for own, params, lr in _parts(module, config)]
        else:
            parts.append((name, list(module.parameters()), head_lr))
    known = [id(p) for _, params, _ in parts for p in params]
    every = [*net.parameters(), *beside.parameters()]
    assert sorted(known) == sorted(map(id, every)), "each parameter belongs to one part"
    groups: list[dict[str, Any]] = []
    for name, params, lr in parts:
        trained = [p for p in params if p.requires_grad]
        decayed = [p for p in trained if p.ndim > 1 or config.decay == "all"]
        spared = [p for p in trained if p.ndim <= 1 and config.decay != "all"]
        for chosen, decay in ((decayed, config.weight_decay), (spared, 0.0)):
            if chosen:
                groups.append(
                    {"params": chosen, "lr": lr, "base_lr": lr, "name": name, "weight_decay": decay}
                )
    # One call for all parameters: a loop over those of a ResNet-101 takes 3 to 10 ms of Python a step.
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def continued(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The saved state of an optimiser in torch's layout, to be computed with as `optimizer` does it.

    How an update is computed (fused or in a loop) belongs to the program that runs, not to the checkpoint.
    """
    how = {name: optimizer.defaults[name] for name in ("foreach", "fused")}
    return {**saved, "param_groups": [{**group, **how} for group in saved["param_groups"]]}


def load_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Goes on from a saved state, whichever way its tensors lie in memory: ZeRO's are contiguous, those of
    channels_last weights are not, and a fused update takes all of a parameter's in one order unasked.
    """
    optimizer.load_state_dict(continued(saved, optimizer))
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def load_groups(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """The settings of the saved groups; their parameters' state stays."""
    for group, values in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        group.update({name: value for name, value in values.items() if name != "params"})


def _parts(net: Segmentor, config: OptimizerConfig) -> list[tuple[str, list[nn.Parameter], float]]:
    """Name, parameters and rate of a network's parts."""
    parts = [("encoder", list(net.encoder.parameters()), config.lr)]
    if config.layer_decay < 1.0:
        layers = net.encoder.layers()
        if net.encoder.frozen:
            raise UserError("optimizer.layer_decay has no meaning with model.encoder.freeze: leave one out")
        parts = [
            (f"encoder_{depth:02}", params, config.lr * config.layer_decay ** (len(layers) - 1 - depth))
            for depth, params in enumerate(layers)
        ]
    return [*parts, ("head", list(net.head.parameters()), config.lr * config.head_lr_multiplier)]


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Writes `base_lr * factor` into every group."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
