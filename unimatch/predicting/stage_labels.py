"""The label set of a trained stage: what no earlier one has labelled, or the most stable samples of that."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unimatch.engine import checkpoint
from unimatch.engine.restore import restore
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import open_shards
from unimatch.engine.runtime import Runtime
from unimatch.engine.stages import StageRun, labeled_by, unlabeled_rows
from unimatch.predicting.label_sets import stability, write_label_set
from unimatch.predicting.predictor import Predictor, Reading
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.index import INDEX_JSON
from unimatch.shardset.key_list import write_keys
from unimatch.shardset.label_set import LabelSet

STABLE = "stable.txt"  # keys of the most stable samples, in the stage's folder


def label_stage(stage: StageRun, before: Sequence[StageRun], config: RunConfig, runtime: Runtime) -> None:
    """Writes the label set of a trained stage unless it is there; call on all processes. One that was killed
    over it goes on.

    config: of the whole run. UserError: it names nothing to label, or the set's folder holds something else.
    """
    if runtime.gather((stage.labels / INDEX_JSON).exists())[0]:
        return
    with runtime.together():
        shards = open_shards(config.data.shards, config.data.cache)
        rows = unlabeled_rows(config, shards)
        for one in before:
            rows = np.setdiff1d(rows, LabelSet.open(one.labels).rows_in(shards))
    settings, evaluation = config.method.config, config.evaluation
    reading = Reading(evaluation.batch, evaluation.workers, config.data.timeout_s)
    if stage.stable:
        rows = _most_stable(stage, config, shards, rows, runtime, reading)
    with runtime.together():
        restored = restore(stage.config.out, "last", None, runtime)
    reading = Reading(reading.batch, reading.workers, reading.timeout_s, settings.scales, settings.flip)
    write_label_set(Predictor([restored], reading), shards, rows, stage.labels, runtime)


def _most_stable(
    stage: StageRun,
    config: RunConfig,
    shards: ShardSet,
    rows: np.ndarray,
    runtime: Runtime,
    reading: Reading,
) -> np.ndarray:
    """The rows that the snapshots of a stage agree about most, increasing; of equal ones the first."""
    path = stage.config.out / STABLE
    if not runtime.gather(path.exists())[0]:
        with runtime.together():
            total = checkpoint.load_state(checkpoint.find(stage.config.out, "last")).total
            assert total is not None
            steps = checkpoint.snapshots(stage.config.checkpoint.snapshots, total)
            nets = [restore(stage.config.out, str(step), None, runtime) for step in steps]
        scores = stability(nets, shards, rows, runtime, reading)
        best = np.argsort(-scores, kind="stable")[: labeled_by(stage, config, len(rows))]
        with runtime.together():
            if runtime.is_main:
                write_keys(path, shards.keys(rows[np.sort(best)]))
    with runtime.together():
        return shards.rows(path)
