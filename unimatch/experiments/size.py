"""How long the runs of an experiment are: steps from the lists alone, hours as `plan` predicts."""

from __future__ import annotations

import json
from pathlib import Path

from unimatch import config as config_io
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import open_shards, split_file, training_samples
from unimatch.engine.stages import last_run, sizes, stages_of, unlabeled_rows
from unimatch.engine.steps import run_steps
from unimatch.errors import UserError
from unimatch.methods import METHODS, ViewNeeds
from unimatch.packing.classes import read_classes
from unimatch.packing.recipe import Recipe
from unimatch.scaling.light import LightNetworks
from unimatch.scaling.pace import Pace, pace_of
from unimatch.shardset.key_list import read_list
from unimatch.taxonomy import Taxonomy

NOT_OF_A_STEP = ("out", "seed", "data", "schedule", "optimizer", "evaluation", "checkpoint", "log")


def classes_of(config: RunConfig, recipe: Path | None) -> Taxonomy:
    """The classes of the run's shards; where there are none, those that the recipe's file names."""
    try:
        return open_shards(config.data.shards, config.data.cache).taxonomy
    except (UserError, OSError) as error:
        if recipe is None:
            raise
        settings = config_io.load(recipe, Recipe)
        if settings.classes_file is not None:
            raise UserError(
                f"recipe {recipe.stem} reads the classes from {settings.classes_file}, a file of the data, "
                f"and there are no shards yet ({error}): pack the data first"
            ) from None
    return read_classes(settings, recipe.parent)[0]


def samples(config: RunConfig) -> tuple[int, int | None] | None:
    """How many samples are labelled and unlabelled: as the shards say, else a published split's first line.

    None: neither is at hand.
    """
    try:
        found = training_samples(config, open_shards(config.data.shards, config.data.cache))
        return len(found.learned), None if found.unlabeled is None else len(found.unlabeled)
    except (UserError, OSError):
        if config.data.split is None:
            return None
    keys, published = read_list(split_file(config.data.split))
    if published is None:
        return None
    return len(keys), published.total - len(keys) if config.batch.unlabeled else None


def _of_stages(config: RunConfig) -> tuple[int, int] | None:
    """As `samples`, of a run with stages: how many unlabelled samples these label."""
    try:
        shards = open_shards(config.data.shards, config.data.cache)
        labeled = training_samples(config, shards).labeled
        return len(labeled.rows), len(unlabeled_rows(config, shards))
    except (UserError, OSError):
        if config.data.split is None:
            return None
    keys, published = read_list(split_file(config.data.split))
    return None if published is None else (len(keys), published.total - len(keys))


def steps_of(config: RunConfig) -> int | None:
    """Optimiser steps of a run, with those of its stages; None: its samples cannot be counted."""
    before = [stage.config for stage in stages_of(config)]
    if config.schedule.steps is not None:
        return config.schedule.steps * (len(before) + 1)
    if before:
        counts = _of_stages(config)
        runs = zip([*before, last_run(config)], sizes(config, *counts) if counts else [], strict=False)
        return sum(run_steps(run, ViewNeeds(0, None, False), size, None) for run, size in runs) or None
    found = samples(config)
    entry = METHODS[config.method.name]
    return (
        None
        if found is None
        else run_steps(config, entry.cls(config.method.config, None, None).views, *found)
    )


class Paces:
    """The pace of runs, found once for those that differ in lists and length alone."""

    def __init__(self, taxonomy: Taxonomy, operations_s: float) -> None:
        self._taxonomy = taxonomy
        self._operations_s = operations_s
        self._networks = LightNetworks()
        self._known: dict[str, Pace] = {}

    def of(self, config: RunConfig) -> Pace:
        """Of the steps of the run, as `unimatch plan` predicts it."""
        settings = config_io.plain(config)
        key = json.dumps({name: value for name, value in settings.items() if name not in NOT_OF_A_STEP})
        if key not in self._known:
            self._known[key] = pace_of(
                config, self._taxonomy, operations_s=self._operations_s, networks=self._networks
            )
        return self._known[key]
