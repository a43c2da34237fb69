"""Kinds of data by name."""

from unimatch.tasks.base import TASKS, Task
from unimatch.tasks.change import ChangeTask, ChangeTaskConfig
from unimatch.tasks.medical import MedicalTask, MedicalTaskConfig
from unimatch.tasks.natural import NaturalTask, NaturalTaskConfig

__all__ = [
    "TASKS",
    "ChangeTask",
    "ChangeTaskConfig",
    "MedicalTask",
    "MedicalTaskConfig",
    "NaturalTask",
    "NaturalTaskConfig",
    "Task",
]
