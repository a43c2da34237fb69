"""Kinds of data by name."""

from unimatch.tasks.base import TASKS, Task
from unimatch.tasks.natural import NaturalTask, NaturalTaskConfig

__all__ = ["TASKS", "NaturalTask", "NaturalTaskConfig", "Task"]
