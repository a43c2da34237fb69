"""What a run tells about itself when it starts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

import unimatch
from unimatch.data.decoded import Decoded
from unimatch.engine.batchnorm import cost_on_cpus
from unimatch.engine.class_coverage import class_warnings
from unimatch.engine.label_passes import too_short
from unimatch.engine.log import banner
from unimatch.engine.run_data import RunData
from unimatch.engine.trainer import Trainer
from unimatch.models.segmentor import Segmentor


def start_banner(
    trainer: Trainer,
    data: RunData,
    accumulation: int,
    last: Path | None,
    decoded: Decoded | None,
) -> str:
    """Method, machines, batch, samples, network and weights, a line each; then warnings.

    last: the checkpoint that the run goes on from; decoded: the memory for decoded samples, if there is one.
    """
    config, world = trainer.config, trainer.runtime.world
    uses_unlabeled = trainer.method.views.unlabeled
    sizes = {"labelled": config.batch.labeled}
    if uses_unlabeled:
        assert config.batch.unlabeled is not None
        sizes["unlabelled"] = config.batch.unlabeled

    def joined(parts: Iterable[int]) -> str:
        return " + ".join(str(part) for part in parts)

    encoder, net = config.model.encoder, trainer.net
    assert isinstance(net, Segmentor)
    mode = f"{trainer.runtime.mode}, " if trainer.runtime.mode else ""
    rows = {
        "method": config.method.name,
        "processes": f"{world} on {trainer.runtime.device.type}, {torch.get_num_threads()} CPU thread(s) "
        f"each, {mode}{config.precision}, batch norm {config.sync_batchnorm}",
        "global batch": " + ".join(f"{size} {name}" for name, size in sizes.items()),
        "micro-batch": f"{joined(size // world // accumulation for size in sizes.values())} per process, "
        f"accumulated {accumulation}x",
        "samples": "\n".join(_samples(data)),
        **({} if trainer.task.bands is None else {"images": trainer.task.bands.describe()}),
        "classes": f"{trainer.task.taxonomy.num_classes} (hash {trainer.task.taxonomy.hash})",
        "steps": f"{trainer.total_steps}, {trainer.steps_per_epoch} an epoch",
        "network": f"{encoder.name} stride {net.encoder.strides[-1]} + {config.model.head.name}, "
        f"{trainer.num_parameters / 1e6:.2f} M parameters{', encoder frozen' if encoder.freeze else ''}",
        "weights": net.encoder.loaded if last is None else str(last),
        "run folder": str(config.out),
    }
    warnings = [*_warnings(trainer, data, world * accumulation), *cost_on_cpus(net)]
    if net.encoder.licence:
        rows["licence"] = f"{net.encoder.licence}, of the weights' family"
    if decoded is not None:
        rows["kept decoded"] = decoded.describe()
    if trainer.method.views.num_strong:
        device = trainer.runtime.device.type
        on_device = trainer.task.views_on_device(device != "cpu")
        maker = f"{device}, in batches" if on_device else "the data workers"
        rows["strong views"] = f"made by {maker}"
        if trainer.task.bands is not None and not trainer.task.bands.is_rgb:
            rows["strong views"] += "\nwithout hue, saturation and gray, which are of 8-bit RGB"
    if last is not None:
        rows["resumed"] = f"after step {trainer.state.step}"
    return "\n".join(
        [banner(f"unimatch {unimatch.__version__}", rows), *(f"warning: {text}" for text in warnings)]
    )


def _samples(data: RunData) -> list[str]:
    """A line for each list; of several unlabelled sets with what each has of a batch, and where it lies."""
    told = {
        name: f"{len(one.rows)} {name}: {one.name} (hash {one.hash})" for name, one in data.selections.items()
    }
    if data.unlabeled is not None and len(data.unlabeled.sets) > 1:
        parts = zip(data.unlabeled.sets, data.unlabeled.shares(), strict=True)
        for number, (one, share) in enumerate(parts):
            told[f"unlabeled[{number}]"] += f" of {one.shards.root}, {share:.3g} of a batch"
        told["unlabeled"] = f"{len(data.unlabeled)} unlabeled in all, an epoch (hash {data.unlabeled.hash})"
    return list(told.values())


def _warnings(trainer: Trainer, data: RunData, parts: int) -> list[str]:
    """A sentence each; parts: into how many micro-batches a step's batch is cut."""
    method, found = trainer.method, trainer.task.without_effect()
    if method.divided and parts > 1:
        found.append(
            f"{trainer.config.method.name}: {method.divided}; so its curve depends on the number of "
            "processes and on batch.max_per_device"
        )
    if method.views.unlabeled:
        short = too_short(data.labeled, trainer.config.batch.labeled, trainer.total_steps, trainer.task)
        found += [short] if short else []
    if trainer.runtime.is_main:
        found += class_warnings(data.selections)
    return found
