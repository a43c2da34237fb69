"""The composition root: a configuration becomes the objects of a run, checked to fit together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from unimatch.codecs.bands import Bands
from unimatch.codecs.prepared import Preparation
from unimatch.data.decoded import Decoded, node_memory
from unimatch.data.stages import Monitor
from unimatch.data.training import RawMicro, train_loader
from unimatch.data.workers import default_workers
from unimatch.engine import checkpoint
from unimatch.engine.batchnorm import synchronize_batchnorm
from unimatch.engine.evaluate import Evaluator, eval_batches
from unimatch.engine.group import Processes
from unimatch.engine.label_passes import label_passes
from unimatch.engine.optim import build_optimizer
from unimatch.engine.pseudo_labels import build_pseudo_labels
from unimatch.engine.resume import resume_from
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import RunData, check_samples, require_dates, require_labels
from unimatch.engine.runtime import Runtime
from unimatch.engine.selection import Selection, samples_hash
from unimatch.engine.start_banner import start_banner
from unimatch.engine.steps import Steps, cut_into_steps
from unimatch.engine.trainer import Trainer
from unimatch.errors import ConfigError, UserError
from unimatch.methods import METHODS
from unimatch.methods.base import Group, Method
from unimatch.models.recompute import has_statistics, recompute_activations
from unimatch.models.segmentor import Segmentor, build_segmentor
from unimatch.shardset.cache import MEGABYTE
from unimatch.tasks import TASKS
from unimatch.tasks.base import Task
from unimatch.taxonomy import Taxonomy


def build_trainer(config: RunConfig, data: RunData, runtime: Runtime, resume: bool) -> tuple[Trainer, str]:
    """The trainer, at step 0 or where the run's last checkpoint left it, and the start banner."""
    # The one collective in here, before anything can fail.
    memory = node_memory(config.data.decoded_mb * MEGABYTE, runtime.gather)

    taxonomy, bands = data.shards.taxonomy, data.bands
    net = build_network(config, taxonomy, runtime, bands)
    task = build_task(config, taxonomy, net, bands)
    method = build_method(config, task, net, Processes(runtime))

    check_samples(config, data, task, method)
    steps = cut_into_steps(config, data, method.views, runtime.world)

    optimizer = build_optimizer(net, config.optimizer, method.parts)
    state, engine = _first_state(data, task, runtime, steps.total), None
    last = checkpoint.last_checkpoint(config.out) if resume else None
    if last is not None:
        state, engine = resume_from(last, config, net, method, state, steps.total)
    adapt(net, method, config, runtime)

    decoded = None
    if memory is not None:
        rows = [one.rows for one in (data.labeled, data.pseudo) if one is not None]
        decoded = Decoded(memory, data.shards.index, np.concatenate(rows), task.blank(1, 1))
    monitor = Monitor()
    trainer = Trainer(
        config,
        runtime,
        net,
        method,
        task,
        optimizer,
        _train_loader(config, data, runtime, task, method, steps, state.step, decoded, monitor),
        _val_evaluator(config, data, task, runtime),
        state,
        steps.total,
        steps.plan.steps_per_epoch,
        engine,
        monitor,
        build_pseudo_labels(config, data, task, runtime),
        label_passes(data.labeled, config.batch.labeled, 1, task),
    )
    return trainer, start_banner(trainer, data, steps.accumulation, last, decoded)


def task_class(config: RunConfig, bands: Bands | None = None) -> type[Task]:
    """The class of the run's task; ConfigError if the configured network cannot read its images."""
    cls: type[Task] = TASKS[config.task.name].cls
    channels = config.model.encoder.in_channels
    if bands is not None:
        if cls.channels == 1:
            raise ConfigError(
                f"task {config.task.name} reads grey slices, the samples are {bands.describe()}: they are "
                "for the tasks natural and change"
            )
        if channels != len(bands.order):
            raise ConfigError(
                f"model.encoder.in_channels is {channels}, but the samples are {bands.describe()}; set it to "
                f"{len(bands.order)}"
            )
        if not bands.mean:
            raise ConfigError("the labelled samples have no pixel that was measured; pack the data again")
    elif channels != cls.channels:
        raise ConfigError(
            f"model.encoder.in_channels is {channels}, but task {config.task.name} reads images of "
            f"{cls.channels} channel(s); set it to {cls.channels}"
        )
    return cls


def build_network(
    config: RunConfig, taxonomy: Taxonomy, runtime: Runtime, bands: Bands | None = None
) -> Segmentor:
    """The network on this process's device, with the same first weights on every process."""
    task = task_class(config, bands)
    torch.manual_seed(config.seed)
    net = build_segmentor(config.model, taxonomy.num_classes, task.dates)
    # The order of the axes in memory that images have already: faster on CPUs and on tensor cores.
    return net.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_task(config: RunConfig, taxonomy: Taxonomy, net: Segmentor, bands: Bands | None = None) -> Task:
    """The task, normalising images as the encoder's weights expect, or by the statistics of their bands;
    ConfigError if its views do not divide into the encoder's patches.
    """
    entry = TASKS[config.task.name]
    _check_patches(config, net.encoder.patch)
    more = {} if bands is None else {"bands": bands}
    return entry.cls(config.task.config, taxonomy, net.encoder.mean, net.encoder.std, **more)


def _check_patches(config: RunConfig, patch: int) -> None:
    task = config.task.config
    evaluate = task.evaluate
    mode = getattr(evaluate, "mode", "crop")  # medical slices are resized to the crop
    sides = {"task.views.crop": task.views.crop}
    if mode == "whole":
        sides["task.evaluate.multiple_of"] = evaluate.multiple_of
    elif mode != "crop" and evaluate.window is not None:
        sides["task.evaluate.window"] = evaluate.window
    if mode == "sliding" and patch > 1 and evaluate.border != "inside":
        raise ConfigError(
            f"task.evaluate.border is {evaluate.border}, but {config.model.encoder.name} reads patches of "
            f"{patch} pixels, which windows of any size do not divide into: set it to inside"
        )
    for name, side in sides.items():
        if side % patch:
            near = sorted({max(1, side // patch) * patch, (side // patch + 1) * patch})
            raise ConfigError(
                f"{name} is {side}, but {config.model.encoder.name} reads patches of {patch} pixels: set it "
                f"to a multiple of {patch}, such as {' or '.join(map(str, near))}"
            )


def build_method(config: RunConfig, task: Task, net: Segmentor, group: Group | None = None) -> Method:
    """The method, begun on the network."""
    entry = METHODS[config.method.name]
    method: Method = entry.cls(
        config.method.config,
        task.supervised_loss,
        task.consistency_loss,
        task.taxonomy.num_classes,
        group,
    )
    method.begin(net)
    return method


def _first_state(data: RunData, task: Task, runtime: Runtime, total: int) -> checkpoint.TrainerState:
    """At step 0."""
    return checkpoint.TrainerState(
        step=0,
        headline=task.headline,
        best=None,
        best_step=None,
        taxonomy=data.shards.taxonomy.to_json(),
        splits=data.hashes,
        world=runtime.world,
        total=total,
        bands=None if data.bands is None else data.bands.to_json(),
        prepared=None if data.shards.recipe is None else Preparation.of(data.shards.recipe).to_json(),
    )


def adapt(net: Segmentor, method: Method, config: RunConfig, runtime: Runtime) -> None:
    """Gives networks with their weights what processes, memory and compiler ask of them."""
    trained = [net, *(part for part in method.parts.values() if isinstance(part, Segmentor))]
    if config.sync_batchnorm == "global" and runtime.world > 1:
        for module in (net, *method.eval_nets(net).values(), *method.companions().values()):
            synchronize_batchnorm(module, runtime.device)
    if config.activation_checkpointing:
        for each in trained:
            recompute_activations(each.encoder.recomputed_parts())
    if config.compile != "off":
        if len(trained) > 1 and config.activation_checkpointing:
            raise UserError(
                f"compile: {config.method.name} trains two networks, whose compiled blocks cannot be "
                "computed again in backward; set compile: off, or activation_checkpointing: false"
            )
        if config.activation_checkpointing and has_statistics(net.encoder):
            raise UserError(
                "compile: the batch norms of this encoder would count a batch twice where compiled blocks "
                "are computed again; set compile: off, or activation_checkpointing: false"
            )
        if runtime.zero_stage == 3:
            raise UserError(
                "compile: ZeRO-3 fetches parameters around every layer, which cuts the network into many "
                "graphs; set compile: off, or launch with ZeRO-2"
            )
        # Not the whole network: the perturbation between the two is another function in every step.
        for part in (part for each in trained for part in (*each.encoder.compiled_parts(), each.head)):
            part.compile(backend=config.compile)


def _train_loader(
    config: RunConfig,
    data: RunData,
    runtime: Runtime,
    task: Task,
    method: Method,
    steps: Steps,
    start: int,
    decoded: Decoded | None,
    monitor: Monitor,
) -> Iterator[tuple[int, list[RawMicro]]]:
    """This process's micro-batches of every step from `start` on."""
    return train_loader(
        data.learned.samples,
        data.unlabeled.pool if data.unlabeled is not None and method.views.unlabeled else None,
        steps.plan,
        task.transform(method.views, task.views_on_device(runtime.device.type != "cpu")),
        rank=runtime.rank,
        world=runtime.world,
        accumulation=steps.accumulation,
        start_step=start,
        stop_step=steps.total,
        workers=default_workers() if config.data.workers is None else config.data.workers,
        threads=config.data.worker_kind == "threads",
        monitor=monitor,
        prefetch=config.data.prefetch,
        timeout_s=config.data.timeout_s,
        pin_memory=runtime.device.type == "cuda",
        num_classes=data.shards.taxonomy.num_classes,
        skip_ceiling=config.data.skip_ceiling,
        decode=task.decode,
        decoded=decoded,
        count=task.pixel_counts,
    )


def _val_evaluator(config: RunConfig, data: RunData, task: Task, runtime: Runtime) -> Evaluator | None:
    """What training evaluates on, if the configuration names it."""
    if data.val is None:
        return None
    settings = config.evaluation
    return build_evaluator(
        data.val,
        task,
        runtime,
        settings.batch,
        settings.workers,
        config.data.timeout_s,
    )


def build_evaluator(
    selection: Selection,
    task: Task,
    runtime: Runtime,
    batch: int,
    workers: int,
    timeout_s: float,
) -> Evaluator:
    """An evaluator over selected samples."""
    require_dates(selection, task)
    require_labels(selection)
    loader = eval_batches(selection, task, runtime, batch, workers, timeout_s)
    return Evaluator(
        runtime, task, loader, len(selection.rows), samples_hash(selection.shards, selection.rows)
    )
