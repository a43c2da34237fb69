"""All that zero.py needs of DeepSpeed and DeepSpeed does not offer: what a new release of it may break.

Each has its test in tests/dist/test_zero_private.py, which passes with the releases in TRIED; docs/install.md
has what they were tried beside.
"""

from __future__ import annotations

from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils.mixed_precision_linkage import lazy_init_hp_params_optimizer_state
from torch import Tensor, nn

from unimatch.engine.parts import Piece

TRIED = ("0.18.9", "0.19.8")


def without_shared_memory_messages() -> None:
    """Lets messages between CPU processes take gloo's way: DeepSpeed's own is a minute's compilation."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def flat_parts(optimizer: Any, stage: int) -> list[Tensor]:
    """This process's parts of the parameters, a flat fp32 tensor each group, as torch's optimiser inside of
    DeepSpeed's knows them.
    """
    found = (
        optimizer.fp32_partitioned_groups_flat if stage == 3 else optimizer.single_partition_of_fp32_groups
    )
    return list(found)


def link(optimizer: Any, states: dict[Tensor, Any]) -> None:
    """Lets the public functions find the state of each parameter under stages 1 and 2.

    DeepSpeed does so after the first group's first step, when the other groups have no state yet. states:
    those of torch's optimiser, by flat part.
    """
    parts = flat_parts(optimizer, stage=2)
    for group, flat in zip(optimizer.bit16_groups, parts, strict=True):
        lazy_init_hp_params_optimizer_state(group, flat, states)


def fragment(parameter: Any, name: str) -> Piece | None:
    """What this process has of a parameter's state under stages 1 and 2, once they are linked; None: others
    have all of it.
    """
    found = parameter._hp_mapping
    if found is None:
        return None
    values = found.get_optim_state_fragment(name)
    return Piece(values, found.lp_fragment_address.start, tuple(parameter.shape))


def own_values(parameter: Any, flat: Tensor | None = None) -> Piece | None:
    """A stage-3 parameter's values on this process, or those of a flat tensor beside them; None: it has none.

    Parts are of equal size, so the last one may reach beyond the values.
    """
    part = parameter.ds_tensor
    start = dist.get_rank() * part.ds_numel
    count = min(part.ds_numel, parameter.ds_numel - start)
    values = part if flat is None else flat
    return Piece(values.detach().view(-1)[:count], start, tuple(parameter.ds_shape)) if count > 0 else None


def is_parted(parameter: Tensor) -> bool:
    """Whether stage 3 holds it in parts."""
    return hasattr(parameter, "ds_id")


def own_part(parameter: nn.Parameter, whole: Tensor) -> Tensor:
    """What stage 3 keeps on this process of a tensor in the shape of a parameter. Parts are of equal size, so
    that zeros fill the last one.
    """
    size = parameter.ds_tensor.ds_numel  # type: ignore[attr-defined]
    rank, world = dist.get_rank(), dist.get_world_size()
    padded = torch.zeros(size * world, dtype=whole.dtype, device=whole.device)
    padded[: whole.numel()] = whole.flatten()
    return padded[rank * size : (rank + 1) * size]
