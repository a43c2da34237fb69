"""How long the runs of an experiment are: steps from the lists alone, hours from the operations of a step."""

from __future__ import annotations

from math import gcd
from pathlib import Path

from unimatch import config as config_io
from unimatch import shipped
from unimatch.engine.build import build_method, build_task, task_class
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import open_shards, split_file, training_samples
from unimatch.engine.steps import run_steps
from unimatch.errors import UserError
from unimatch.methods import METHODS
from unimatch.packing.classes import read_classes
from unimatch.packing.recipe import Recipe
from unimatch.scaling.footprint import shape_only, step_flops
from unimatch.shardset.key_list import read_list
from unimatch.taxonomy import Taxonomy


def classes_of(config: RunConfig, recipe: str) -> Taxonomy:
    """The classes of the run's shards; where there are none, those that the recipe of the data names."""
    try:
        return open_shards(config.data.shards, config.data.cache).taxonomy
    except (UserError, OSError) as error:
        settings = config_io.load(shipped.found(recipe, "recipes"), Recipe)
        if settings.classes_file is not None:
            raise UserError(
                f"recipe {recipe} reads the classes from {settings.classes_file}, a file of the data, and "
                f"there are no shards yet ({error}): pack the data first"
            ) from None
    return read_classes(settings, Path())[0]


def samples(config: RunConfig) -> tuple[int, int | None] | None:
    """How many samples are labelled and unlabelled: as the shards say, else a published split's first line.

    None: neither is at hand.
    """
    try:
        found = training_samples(config, open_shards(config.data.shards, config.data.cache))
        return len(found.labeled.rows), None if found.unlabeled is None else len(found.unlabeled)
    except (UserError, OSError):
        if config.data.split is None:
            return None
    keys, published = read_list(split_file(config.data.split))
    if published is None:
        return None
    return len(keys), published.total - len(keys) if config.batch.unlabeled else None


def steps_of(config: RunConfig) -> int | None:
    """Optimiser steps of a run; None: its samples cannot be counted."""
    if config.schedule.steps is not None:
        return config.schedule.steps
    found = samples(config)
    entry = METHODS[config.method.name]
    return (
        None
        if found is None
        else run_steps(config, entry.cls(config.method.config, None, None).views, *found)
    )


class Operations:
    """Floating-point operations of a step, counted once for runs that differ in lists and length alone."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        self._taxonomy = taxonomy
        self._known: dict[str, float] = {}

    def of(self, config: RunConfig) -> float:
        """Of one step of the run."""
        parts = [config_io.dump(part) for part in (config.model, config.batch)]
        parts += [config_io.dump(config_io.plain(part)) for part in (config.method, config.task)]
        key = "\n".join(parts)
        if key not in self._known:
            self._known[key] = self._counted(config)
        return self._known[key]

    def _counted(self, config: RunConfig) -> float:
        net = shape_only(config.model, self._taxonomy.num_classes, dates=task_class(config).dates)
        task = build_task(config, self._taxonomy, net)
        method = build_method(config, task, net)
        sizes = (config.batch.labeled, (config.batch.unlabeled or 0) if method.views.unlabeled else 0)
        unit = [size // gcd(*sizes) for size in sizes]
        if any(size % 2 for size in unit):  # neighbours are paired, and norms need two images
            unit = [2 * size for size in unit]
        flops = step_flops(net, method, task, config.task.config.views.crop, *unit)
        return flops * sizes[0] / unit[0]
