"""The samples of one step as a method sees them, outside of a training."""

from __future__ import annotations

from unimatch.data.sample import Batch
from unimatch.data.training import train_loader
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import RunData
from unimatch.engine.runtime import Runtime
from unimatch.engine.steps import cut_into_steps
from unimatch.methods.base import Method
from unimatch.tasks.base import Task


def first_batch(config: RunConfig, data: RunData, task: Task, method: Method, runtime: Runtime) -> Batch:
    """The first step's, whole, on the runtime's device; its views are those of the run, made by workers."""
    steps = cut_into_steps(config, data, method.views, 1)
    loader = train_loader(
        data.learned.samples,
        data.unlabeled.pool if data.unlabeled is not None and method.views.unlabeled else None,
        steps.plan,
        task.transform(method.views),
        stop_step=1,
        workers=0,
        num_classes=data.shards.taxonomy.num_classes,
        decode=task.decode,
    )
    _, micro = next(loader)
    return task.to_device(micro[0], runtime.device)
