"""The composition root: a configuration becomes the objects of a run, checked to fit together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import unimatch
from unimatch.data.decoded import Decoded, node_memory
from unimatch.data.evaluation import eval_loader
from unimatch.data.plan import Plan
from unimatch.data.stages import Monitor
from unimatch.data.training import train_loader
from unimatch.data.workers import default_workers
from unimatch.engine import checkpoint
from unimatch.engine.batchnorm import synchronize_batchnorm
from unimatch.engine.evaluate import Evaluator
from unimatch.engine.log import banner
from unimatch.engine.optim import build_optimizer
from unimatch.engine.run_config import BatchConfig, CacheConfig, RunConfig
from unimatch.engine.run_folder import read_config, refuse_changes
from unimatch.engine.runtime import Runtime
from unimatch.engine.schedule import total_steps
from unimatch.engine.trainer import Trainer
from unimatch.errors import ConfigError, UserError
from unimatch.methods import METHODS
from unimatch.methods.base import Method
from unimatch.models.recompute import recompute_activations
from unimatch.models.segmentor import Segmentor, build_segmentor
from unimatch.models.weights import load_strictly
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.cache import GIGABYTE, MEGABYTE, Cache, default_folder
from unimatch.shardset.key_list import list_hash
from unimatch.tasks import TASKS
from unimatch.tasks.base import Task
from unimatch.taxonomy import Taxonomy


@dataclass(frozen=True)
class Selection:
    """Rows of a shard set that a configuration names, and the hash of their keys."""

    name: str
    rows: np.ndarray
    hash: str


def open_shards(place: str, cache: CacheConfig) -> ShardSet:
    """The shard set in a folder or behind a URL."""
    return ShardSet.open(place, cache=Cache(cache.folder or default_folder(), int(cache.size_gb * GIGABYTE)))


def select(shards: ShardSet, name: str) -> Selection:
    """The samples of a subset, or of a key-list file."""
    rows = shards.rows(name)
    if not len(rows):
        raise UserError(f"{name!r} names no samples in {shards.root}")
    return Selection(name, rows, list_hash(shards.keys(rows)))


@dataclass(frozen=True)
class RunData:
    """The shards of a run and the samples that its lists name: "labeled", "unlabeled" and "val" if set."""

    shards: ShardSet
    selections: dict[str, Selection]


def open_data(config: RunConfig) -> RunData:
    """What the configuration's `data` names; opened once, for the preflight and for the trainer."""
    shards = open_shards(config.data.shards, config.data.cache)
    names = {"labeled": config.data.labeled, "unlabeled": config.data.unlabeled, "val": config.data.val}
    return RunData(shards, {name: select(shards, spec) for name, spec in names.items() if spec})


def accumulation_steps(batch: BatchConfig, uses_unlabeled: bool, world: int) -> int:
    """Micro-batches per process and step: the fewest that divide the batch evenly within max_per_device."""
    sizes = {"batch.labeled": batch.labeled}
    if uses_unlabeled:
        assert batch.unlabeled is not None
        sizes["batch.unlabeled"] = batch.unlabeled
    for name, size in sizes.items():
        if size % world:
            raise UserError(
                f"{name} is {size}, which {world} processes cannot share evenly: batch sizes are global, "
                f"so choose a multiple of {world} or another number of processes"
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


def task_class(config: RunConfig) -> type[Task]:
    """The class of the run's task; ConfigError if the configured network cannot read its images."""
    cls: type[Task] = TASKS[config.task.name].cls
    channels = config.model.encoder.in_channels
    if channels != cls.channels:
        raise ConfigError(
            f"model.encoder.in_channels is {channels}, but task {config.task.name} reads images of "
            f"{cls.channels} channel(s); set it to {cls.channels}"
        )
    return cls


def build_network(config: RunConfig, taxonomy: Taxonomy, runtime: Runtime) -> Segmentor:
    """The network on this process's device, with the same first weights on every process."""
    task = task_class(config)
    torch.manual_seed(config.seed)
    net = build_segmentor(config.model, taxonomy.num_classes, task.dates)
    # The order of the axes in memory that images have already: faster on CPUs and on tensor cores.
    return net.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_task(config: RunConfig, taxonomy: Taxonomy, net: Segmentor) -> Task:
    """The task, normalising images as the encoder's weights expect."""
    entry = TASKS[config.task.name]
    return entry.cls(config.task.config, taxonomy, net.encoder.mean, net.encoder.std)


def build_method(config: RunConfig, task: Task, net: Segmentor) -> Method:
    """The method, begun on the network."""
    entry = METHODS[config.method.name]
    method: Method = entry.cls(config.method.config, task.supervised_loss, task.consistency_loss)
    method.begin(net)
    return method


def build_evaluator(
    shards: ShardSet,
    selection: Selection,
    task: Task,
    runtime: Runtime,
    batch: int,
    workers: int,
    timeout_s: float,
) -> Evaluator:
    """An evaluator over selected samples."""
    _require_dates(shards, selection, task)
    _require_labels(shards, selection)
    loader = partial(
        eval_loader,
        shards,
        selection.rows,
        rank=runtime.rank,
        world=runtime.world,
        batch=batch,
        workers=workers,
        timeout_s=timeout_s,
        decode=task.decode,
        unit=task.unit,
    )
    return Evaluator(runtime, task, loader, len(selection.rows))


def build_trainer(config: RunConfig, data: RunData, runtime: Runtime, resume: bool) -> tuple[Trainer, str]:
    """The trainer, at step 0 or where the run's last checkpoint left it, and the start banner."""
    # The one collective in here, before anything can fail.
    memory = node_memory(config.data.decoded_mb * MEGABYTE, runtime.gather)
    shards, selections = data.shards, data.selections
    net = build_network(config, shards.taxonomy, runtime)
    task = build_task(config, shards.taxonomy, net)
    method = build_method(config, task, net)
    uses_unlabeled = method.views.unlabeled
    _check_fields(config, uses_unlabeled)

    labeled, unlabeled = selections["labeled"], selections.get("unlabeled")
    for selection in (labeled, unlabeled):
        if selection is not None:
            _require_dates(shards, selection, task)
    _require_labels(shards, labeled)
    if "val" in selections:
        _refuse_overlap(shards, selections)

    accumulation = accumulation_steps(config.batch, uses_unlabeled, runtime.world)
    if uses_unlabeled and method.views.partner == "batch":
        assert config.batch.unlabeled is not None
        micro = config.batch.unlabeled // runtime.world // accumulation
        if micro % 2:
            raise UserError(
                f"method.mix_partner: batch pairs neighbours, but the micro-batch has {micro} unlabelled "
                f"samples; choose an even number per process (batch.unlabeled, batch.max_per_device), or "
                f"mix_partner: same"
            )
    plan = Plan(
        labeled=shards.shard_sizes(labeled.rows),
        unlabeled=shards.shard_sizes(unlabeled.rows) if unlabeled is not None and uses_unlabeled else None,
        batch_labeled=config.batch.labeled,
        batch_unlabeled=config.batch.unlabeled if uses_unlabeled else None,
        seed=config.seed,
        partner=method.views.partner,
        epoch_samples=len(unlabeled.rows) if unlabeled is not None else len(labeled.rows),
    )
    steps = total_steps(config.schedule, plan.steps_per_epoch)

    state = checkpoint.TrainerState(
        step=0,
        headline=task.headline,
        best=None,
        best_step=None,
        taxonomy=shards.taxonomy.to_json(),
        splits={name: selection.hash for name, selection in selections.items()},
        world=runtime.world,
    )
    optimizer = build_optimizer(net, config.optimizer)
    last = checkpoint.last_checkpoint(config.out) if resume else None
    engine: dict[str, Any] = {}
    if last is not None:
        refuse_changes(config)
        saved = checkpoint.load_state(last)
        _check_same(saved, state, last)
        state = saved
        for name, saved_net in {checkpoint.NETWORK: net, **method.eval_nets(net)}.items():
            load_strictly(saved_net, checkpoint.load_network(last, name), str(last))
        engine = checkpoint.load_engine(last)
        method.load_state_dict(engine["method"])
    if state.step >= steps:
        raise UserError(
            f"{config.out} is already at its last step, {state.step} of {steps}: nothing to resume; to "
            f"train longer, start a new run with another `out`"
        )

    if config.sync_batchnorm == "global" and runtime.world > 1:
        synchronize_batchnorm(net, runtime.device)
    if config.activation_checkpointing:
        recompute_activations(net.encoder)
    if config.compile != "off":
        if runtime.zero_stage == 3:
            raise UserError(
                "compile: ZeRO-3 fetches parameters around every layer, which cuts the network into many "
                "graphs; set compile: off, or launch with ZeRO-2"
            )
        # Not the whole network: the perturbation between the two is another function in every step.
        for part in (net.encoder, net.head):
            part.compile(backend=config.compile)
    on_device = task.views_on_device(runtime.device.type != "cpu")
    decoded = None
    if memory is not None:
        decoded = Decoded(memory, shards.index, labeled.rows, task.blank(1, 1))
    monitor = Monitor()
    loader = train_loader(
        shards,
        labeled.rows,
        unlabeled.rows if unlabeled is not None and uses_unlabeled else None,
        plan,
        task.transform(method.views, on_device),
        rank=runtime.rank,
        world=runtime.world,
        accumulation=accumulation,
        start_step=state.step,
        stop_step=steps,
        workers=default_workers() if config.data.workers is None else config.data.workers,
        threads=config.data.worker_kind == "threads",
        monitor=monitor,
        prefetch=config.data.prefetch,
        timeout_s=config.data.timeout_s,
        pin_memory=runtime.device.type == "cuda",
        num_classes=shards.taxonomy.num_classes,
        skip_ceiling=config.data.skip_ceiling,
        decode=task.decode,
        decoded=decoded,
    )
    evaluator = None
    if "val" in selections:
        evaluator = build_evaluator(
            shards,
            selections["val"],
            task,
            runtime,
            config.evaluation.batch,
            config.evaluation.workers,
            config.data.timeout_s,
        )
    state.world = runtime.world
    trainer = Trainer(
        config,
        runtime,
        net,
        method,
        task,
        optimizer,
        loader,
        evaluator,
        state,
        steps,
        plan.steps_per_epoch,
        engine or None,
        monitor,
    )
    return trainer, _banner(trainer, selections, accumulation, last, on_device, decoded)


def _check_fields(config: RunConfig, uses_unlabeled: bool) -> None:
    missing = []
    if uses_unlabeled and not config.data.unlabeled:
        missing.append("data.unlabeled")
    if uses_unlabeled and not config.batch.unlabeled:
        missing.append("batch.unlabeled")
    if missing:
        raise UserError(f"method {config.method.name} uses unlabelled samples: set {' and '.join(missing)}")


def _require_dates(shards: ShardSet, selection: Selection, task: Task) -> None:
    rows = selection.rows
    dates = 1 + (shards.index["second_size"][rows] > 0)
    wrong = rows[dates != task.dates]
    if not len(wrong):
        return
    found, advice = "pairs of images", "this task reads single ones; pairs are for task change"
    if task.dates == 2:
        found, advice = "single images", "this task reads pairs; pack them with a recipe that has `second`"
    keys = ", ".join(shards.keys(wrong[:5]))
    raise UserError(
        f"{len(wrong)} of the {len(rows)} samples of {selection.name!r} are {found} (first: {keys}); {advice}"
    )


def _require_labels(shards: ShardSet, selection: Selection) -> None:
    rows = selection.rows
    without = rows[shards.index["label_size"][rows] == 0]
    if len(without):
        keys = ", ".join(shards.keys(without[:5]))
        raise UserError(
            f"{len(without)} of the {len(rows)} samples of {selection.name!r} have no label mask "
            f"(first: {keys}); only data.unlabeled may name such samples"
        )


def _refuse_overlap(shards: ShardSet, selections: dict[str, Selection]) -> None:
    val = selections["val"]
    for name in (name for name in selections if name != "val"):
        both = np.intersect1d(val.rows, selections[name].rows)
        if len(both):
            keys = ", ".join(shards.keys(both[:5]))
            raise UserError(
                f"{len(both)} samples are in data.{name} and in data.val (first: {keys}): evaluating on "
                f"training images says nothing; remove them from one of the two lists"
            )


def _check_same(saved: checkpoint.TrainerState, now: checkpoint.TrainerState, folder: Path) -> None:
    check_taxonomy(saved, now.taxonomy, folder)
    for name, value in now.splits.items():
        if name != "val" and saved.splits.get(name) != value:
            raise UserError(
                f"{folder} was trained with another {name} list (hash {saved.splits.get(name)}, now "
                f"{value}); restore data.{name}, or start a new run with another `out`"
            )


def check_taxonomy(saved: checkpoint.TrainerState, taxonomy: dict[str, Any], folder: Path) -> None:
    """UserError if a checkpoint's classes are not those of the shards."""
    if saved.taxonomy["hash"] != taxonomy["hash"]:
        raise UserError(
            f"{folder} knows other classes than the shards: it was trained on "
            f"{', '.join(saved.taxonomy['names'])}; the shards have {', '.join(taxonomy['names'])}. "
            f"Use shards with the same classes in the same order, or train a new run"
        )


@dataclass(frozen=True)
class Restored:
    """A trained network and what it was trained for."""

    config: RunConfig
    net: Segmentor
    task: Task
    folder: Path  # the checkpoint
    state: checkpoint.TrainerState


def restore(run: Path, which: str, network: str | None, runtime: Runtime) -> Restored:
    """The network of a run's checkpoint on this process's device, in eval mode.

    which: "last", "best", or the number of a step; network: None for the one that gives the headline figure.
    """
    config = read_config(run)
    folder = checkpoint.find(run, which)
    state = checkpoint.load_state(folder)
    taxonomy = Taxonomy.from_json(state.taxonomy)
    config.model.encoder.weights = "none"  # every weight comes from the checkpoint
    net = build_network(config, taxonomy, runtime)
    task = build_task(config, taxonomy, net)
    name = network or next(iter(build_method(config, task, net).eval_nets(net)))
    load_strictly(net, checkpoint.load_network(folder, name), str(folder))
    return Restored(config, net.eval(), task, folder, state)


def _banner(
    trainer: Trainer,
    selections: dict[str, Selection],
    accumulation: int,
    last: Path | None,
    views_on_device: bool,
    decoded: Decoded | None,
) -> str:
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
    rows = {
        "method": config.method.name,
        "processes": f"{world} on {trainer.runtime.device.type}, {config.precision}, "
        f"batch norm {config.sync_batchnorm}",
        "global batch": " + ".join(f"{size} {name}" for name, size in sizes.items()),
        "micro-batch": f"{joined(size // world // accumulation for size in sizes.values())} per process, "
        f"accumulated {accumulation}x",
        "samples": "\n".join(
            f"{len(s.rows)} {name}: {s.name} (hash {s.hash})" for name, s in selections.items()
        ),
        "classes": f"{trainer.task.taxonomy.num_classes} (hash {trainer.task.taxonomy.hash})",
        "steps": f"{trainer.total_steps}, {trainer.steps_per_epoch} an epoch",
        "network": f"{encoder.name} stride {encoder.output_stride} + {config.model.head.name}, "
        f"{trainer.num_parameters / 1e6:.2f} M parameters",
        "weights": net.encoder.loaded if last is None else str(last),
        "run folder": str(config.out),
    }
    if decoded is not None:
        rows["kept decoded"] = decoded.describe()
    if trainer.method.views.num_strong:
        maker = f"{trainer.runtime.device.type}, in batches" if views_on_device else "the data workers"
        rows["strong views"] = f"made by {maker}"
    if last is not None:
        rows["resumed"] = f"after step {trainer.state.step}"
    return banner(f"unimatch {unimatch.__version__}", rows)
