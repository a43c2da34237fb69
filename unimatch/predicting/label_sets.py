"""Labels of a trained network for samples of a shard set, as a label set; by all processes of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from unimatch.codecs.decode import class_counts
from unimatch.codecs.encode import encode_label
from unimatch.data.evaluation import image_loader, neighbours
from unimatch.engine.restore import Restored
from unimatch.engine.runtime import Runtime
from unimatch.errors import DataError, UserError
from unimatch.metrics import ConfusionMatrix
from unimatch.predicting.predictor import Predictor, Reading
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.index import INDEX_JSON
from unimatch.shardset.label_set import label_writer, written
from unimatch.tasks.base import Task


def write_label_set(
    predictor: Predictor, shards: ShardSet, rows: np.ndarray, out: Path, runtime: Runtime
) -> None:
    """Labels some rows, in their order, into the folder `out`; call on all processes.

    One that was killed over it goes on. No label of the shards is opened. UserError: `out` holds a finished
    set, or labels of other samples or by another network.
    """
    keys, task = shards.keys(rows), predictor.task
    with ExitStack() as stack:
        writer, done = None, 0
        with runtime.together():
            if (out / INDEX_JSON).exists():
                raise UserError(f"{out} holds a finished set already: remove it, or choose another folder")
            if runtime.is_main:
                writer = stack.enter_context(label_writer(out, shards.taxonomy, predictor.made_by()))
                before = written(writer)
                done = len(before)
                if list(before) != keys[:done]:
                    raise UserError(
                        f"{out} holds labels of other samples: remove it, or choose another folder"
                    )
        left = rows[runtime.gather(done)[0] :]

        def label(images: Tensor, keys: list[str]) -> list[tuple[Any, ...]]:
            ids = predictor.classes(images)[0].to("cpu", torch.uint8).numpy()
            found = []
            for key, one in zip(keys, ids, strict=True):
                data, ext = encode_label(one, "zst")
                counts = class_counts(one, shards.taxonomy.num_classes)
                found.append((key, data, ext, one.shape[::-1], counts))
            return found

        for made in _in_turns(shards, left, task, runtime, predictor.reading, label, "labelling"):
            with runtime.together():
                for one in made if writer is not None else ():
                    writer.add_label(*one)  # type: ignore[union-attr]
        with runtime.together():
            stack.close()


def stability(
    snapshots: Sequence[Restored], shards: ShardSet, rows: np.ndarray, runtime: Runtime, reading: Reading
) -> np.ndarray:
    """float64 [len(rows)]: how far the networks agree about each image: the mean IoU over its classes of what
    each predicts with what the last one does, averaged. Call on all processes.
    """
    task = snapshots[-1].task

    def agreement(images: Tensor, keys: list[str]) -> list[float]:
        *earlier, last = (task.predict(one.net, images) for one in snapshots)
        scores = []
        for number in range(len(keys)):
            tables = []
            for one in earlier:
                tables.append(ConfusionMatrix(shards.taxonomy.num_classes, last.device))
                tables[-1].update(one[number], last[number])
            scores.append(sum(table.miou() for table in tables) / len(tables))
        return scores

    return np.array(list(_chained(_in_turns(shards, rows, task, runtime, reading, agreement, "comparing"))))


def _chained(parts: Iterator[list[Any]]) -> Iterator[Any]:
    for part in parts:
        yield from part


def _in_turns(
    shards: ShardSet,
    rows: np.ndarray,
    task: Task,
    runtime: Runtime,
    reading: Reading,
    compute: Callable[[Tensor, list[str]], list[Any]],
    doing: str,
) -> Iterator[list[Any]]:
    """What `compute` gives of each image (on the device), in the rows' order, on all processes: each takes
    one batch in turn. doing: what the progress bar says.
    """
    batches = neighbours(shards, rows, reading.batch)
    loader = image_loader(
        shards,
        batches[runtime.rank :: runtime.world],
        workers=reading.workers,
        timeout_s=reading.timeout_s,
        decode=task.decode,
    )
    bar = tqdm(total=len(rows), unit="image", desc=doing, disable=None if runtime.is_main else True)
    for _ in range(0, len(batches), runtime.world):
        made: list[Any] = []
        problem: DataError | None = None
        try:
            batch = next(loader, None)
            if batch is not None:
                with torch.inference_mode(), runtime.autocast():
                    made = compute(batch["image"].to(runtime.device), batch["keys"])
        except DataError as error:
            problem = error
        with runtime.together():
            if problem:
                raise problem
        found = [one for part in runtime.gather(made) for one in part]
        bar.update(len(found))
        yield found
    bar.close()
