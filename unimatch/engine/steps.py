"""How the samples of a run are cut into steps, processes and micro-batches: arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from unimatch.data.plan import Plan
from unimatch.engine.run_config import BatchConfig, RunConfig
from unimatch.engine.run_data import RunData
from unimatch.engine.schedule import total_steps
from unimatch.engine.selection import Learned, Unlabeled
from unimatch.errors import UserError
from unimatch.methods.base import ViewNeeds


@dataclass(frozen=True)
class Steps:
    """The steps of a run, and the samples in them."""

    plan: Plan
    accumulation: int  # micro-batches per process and step
    total: int  # optimiser steps of the whole run


def cut_into_steps(config: RunConfig, data: RunData, views: ViewNeeds, world: int) -> Steps:
    """The steps of a run on `world` processes; UserError if its batches cannot be cut so."""
    accumulation = accumulation_steps(config.batch, views.unlabeled, world)
    _require_neighbours(config.batch, views, world, accumulation)
    unlabeled = data.unlabeled
    plan = plan_of(config, views, data.learned, unlabeled)
    total = run_steps(config, views, len(data.learned), None if unlabeled is None else len(unlabeled))
    return Steps(plan, accumulation, total)


def plan_of(config: RunConfig, views: ViewNeeds, learned: Learned, unlabeled: Unlabeled | None) -> Plan:
    """Who reads what when. An epoch is one pass over the unlabelled samples, if there are any."""
    return Plan(
        labeled=learned.sizes,
        unlabeled=unlabeled.mix if unlabeled is not None and views.unlabeled else None,
        batch_labeled=config.batch.labeled,
        batch_unlabeled=config.batch.unlabeled if views.unlabeled else None,
        seed=config.seed,
        partner=views.partner,
        epoch_samples=len(learned if unlabeled is None else unlabeled),
    )


def run_steps(config: RunConfig, views: ViewNeeds, labeled: int, unlabeled: int | None) -> int:
    """Optimiser steps of the whole run with so many samples; an epoch is a pass over the unlabelled ones, if
    there are any.
    """
    samples = labeled if unlabeled is None else unlabeled
    batch = (config.batch.unlabeled if views.unlabeled else None) or config.batch.labeled
    devices = config.schedule.epoch_devices
    if batch % devices:
        raise UserError(f"schedule.epoch_devices is {devices}, by which a batch of {batch} cannot be divided")
    return total_steps(config.schedule, max(1, -(-samples // devices) // (batch // devices)))


def accumulation_steps(batch: BatchConfig, uses_unlabeled: bool, world: int) -> int:
    """Micro-batches per process and step: the fewest that divide the batch evenly within max_per_device."""
    sizes = {"batch.labeled": batch.labeled}
    if uses_unlabeled:
        assert batch.unlabeled is not None
        sizes["batch.unlabeled"] = batch.unlabeled
    for name, size in sizes.items():
        if size % world:
            raise UserError(
                f"{name} is {size}, which {world} processes cannot share evenly: batch sizes are global. "
                + _even_batch(sizes, world)
            )
    per_process = [size // world for size in sizes.values()]
    limit = batch.max_per_device or sum(per_process)
    for steps in range(1, min(per_process) + 1):
        if all(size % steps == 0 for size in per_process) and sum(per_process) // steps <= limit:
            return steps
    found = " and ".join(f"{name} {size}" for name, size in sizes.items())
    raise UserError(
        f"batch.max_per_device is {limit}, but {found} on {world} processes "
        f"cannot be cut into equal micro-batches that small; raise it or change the batch sizes"
    )


def _even_batch(sizes: dict[str, int], world: int) -> str:
    """Advice: the next larger batch that `world` processes can share, and how many can share this one."""
    # Of unlabelled samples an even number a process, which `mix_partner: batch` needs.
    units = {name: 2 if name == "batch.unlabeled" else 1 for name in sizes}
    larger = {name: -(-size // (units[name] * world)) * units[name] * world for name, size in sizes.items()}
    text = "Take " + " ".join(f"--set {name}={size}" for name, size in larger.items())
    fewer = [n for n in range(1, world) if not any(size % (units[name] * n) for name, size in sizes.items())]
    return text + (f", or start {fewer[-1]} process{'es' if fewer[-1] > 1 else ''}" if fewer else "")


def _require_neighbours(batch: BatchConfig, views: ViewNeeds, world: int, accumulation: int) -> None:
    if not views.unlabeled or views.partner != "batch":
        return
    assert batch.unlabeled is not None
    micro = batch.unlabeled // world // accumulation
    if micro % 2:
        raise UserError(
            f"method.mix_partner: batch pairs neighbours, but the micro-batch has {micro} unlabelled "
            f"samples; choose an even number per process (batch.unlabeled, batch.max_per_device), or "
            f"mix_partner: same"
        )
