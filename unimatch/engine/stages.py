"""The runs that a method's stages stand for: ordinary runs, each with its configuration and label set.

OUT/stages/1-first/         the first stage's run: a run folder
OUT/stages/1-first/labels/  what its network labels, see shardset.label_set; stable.txt which of the samples
OUT/                        the last run, which learns from all label sets: what is evaluated and compared
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import divided
from unimatch.engine.selection import listed, select
from unimatch.errors import UserError
from unimatch.methods import METHODS
from unimatch.shardset.archive import ShardSet

FOLDER = "stages"


@dataclass(frozen=True)
class StageRun:
    """One run before the last one. `stable`: it labels the most stable samples alone."""

    config: RunConfig
    stable: bool

    @property
    def labels(self) -> Path:
        return self.config.out / "labels"


def stages_of(config: RunConfig) -> list[StageRun]:
    """The runs before the one that a configuration names, in order; none if it has its label sets."""
    stages = METHODS[config.method.name].cls.stages
    if config.data.pseudo is not None:
        return []
    found: list[StageRun] = []
    for number, stage in enumerate(stages, start=1):
        run = _with_labels(config, found)
        run.out = config.out / FOLDER / f"{number}-{stage.name}"
        run.checkpoint.snapshots = config.method.config.snapshots if stage.stable else 0
        found.append(StageRun(run, stage.stable))
    return found


def last_run(config: RunConfig) -> RunConfig:
    """What is trained in the configuration's own folder: itself, or, after stages, with their label sets."""
    before = stages_of(config)
    return _with_labels(config, before) if before else config


def _with_labels(config: RunConfig, before: list[StageRun]) -> RunConfig:
    """A copy that learns from labels alone, those of earlier stages too."""
    run = copy.deepcopy(config)
    run.data.unlabeled = run.batch.unlabeled = None
    run.data.pseudo = [str(stage.labels) for stage in before]
    return run


def unlabeled_rows(config: RunConfig, shards: ShardSet) -> np.ndarray:
    """What stages label. UserError: the configuration names nothing, or images of other shards."""
    data, name = config.data, config.method.name
    if data.split is not None:
        return divided(shards, data.split)[1].rows
    if data.unlabeled is None:
        raise UserError(f"method {name} labels the unlabelled samples: set data.unlabeled")
    if isinstance(data.unlabeled, str):
        return select(shards, data.unlabeled).rows
    if any(one.shards is not None for one in data.unlabeled):
        raise UserError(
            f"method {name} labels images of data.shards: leave `shards` out of data.unlabeled, or pack them "
            "into one set"
        )
    return np.unique(np.concatenate([select(shards, one.samples).rows for one in data.unlabeled]))


def labeled_by(stage: StageRun, config: RunConfig, samples: int) -> int:
    """How many of some samples a stage labels."""
    return max(1, round(samples * config.method.config.stable)) if stage.stable else samples


def sizes(config: RunConfig, labeled: int, unlabeled: int) -> list[int]:
    """How many samples the labelled side of each run lists, the last one's too; with one for each stage."""
    found, known = [], 0
    for stage in stages_of(config):
        found.append(listed(labeled, known))
        known += labeled_by(stage, config, unlabeled - known)
    return [*found, listed(labeled, known)]
