"""A trained network out of its run folder, to evaluate, predict or compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimatch.codecs.bands import Bands
from unimatch.codecs.prepared import Preparation
from unimatch.engine import checkpoint
from unimatch.engine.build import build_method, build_network, build_task
from unimatch.engine.hub import on_this_machine
from unimatch.engine.prediction_mode import set_mode
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_folder import read_config
from unimatch.engine.runtime import Runtime
from unimatch.errors import DataError
from unimatch.models.segmentor import Segmentor
from unimatch.models.weights import load_strictly
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.remote import is_url
from unimatch.tasks.base import Task
from unimatch.taxonomy import Taxonomy


@dataclass(frozen=True)
class Restored:
    """A trained network and what it was trained for."""

    config: RunConfig
    net: Segmentor
    network: str  # its name in the checkpoint
    task: Task
    folder: Path  # the checkpoint
    state: checkpoint.TrainerState
    prepared: Preparation | None  # what packing did to the images that it learnt from; None: not known


def restore(
    run: Path,
    which: str,
    network: str | None,
    runtime: Runtime,
    changes: Mapping[str, Any] | None = None,
) -> Restored:
    """The network of a run's checkpoint on this process's device, in eval mode.

    run: its folder, or hf://OWNER/NAME on the hub.
    which: "last", "best", or the number of a step; network: None for the one that gives the headline figure.
    changes: of mode, window, stride or border, see engine.prediction_mode.
    """
    run = on_this_machine(run)
    config = read_config(run)
    set_mode(config, changes or {})
    folder = checkpoint.find(run, which)
    state = checkpoint.load_state(folder)
    taxonomy = Taxonomy.from_json(state.taxonomy)
    config.model = config.model.untrained()  # every weight comes from the checkpoint
    bands = None if state.bands is None else Bands.from_json(state.bands)
    net = build_network(config, taxonomy, runtime, bands)
    task = build_task(config, taxonomy, net, bands)
    name = network or next(iter(build_method(config, task, net).eval_nets(net)))
    load_strictly(net, checkpoint.load_network(folder, name), str(folder))
    return Restored(config, net.eval(), name, task, folder, state, _prepared(state, config))


def _prepared(state: checkpoint.TrainerState, config: RunConfig) -> Preparation | None:
    """As the checkpoint says; an old one does not, but its shards may still be where they were."""
    if state.prepared is not None:
        return Preparation.of(state.prepared)
    if is_url(config.data.shards):
        return None
    try:
        shards = ShardSet.open(config.data.shards)
    except DataError:
        return None
    if shards.recipe is None or shards.taxonomy.to_json() != state.taxonomy:
        return None
    return Preparation.of(shards.recipe)
