"""Training methods by name."""

from unimatch.methods.base import METHODS, Method, Progress, ViewNeeds
from unimatch.methods.fixmatch import FixMatch, FixMatchConfig
from unimatch.methods.mean_teacher import MeanTeacher, MeanTeacherConfig
from unimatch.methods.supervised import Supervised, SupervisedConfig
from unimatch.methods.unimatch import UniMatch, UniMatchConfig
from unimatch.methods.unimatch_v2 import UniMatchV2, UniMatchV2Config

__all__ = [
    "METHODS",
    "FixMatch",
    "FixMatchConfig",
    "MeanTeacher",
    "MeanTeacherConfig",
    "Method",
    "Progress",
    "Supervised",
    "SupervisedConfig",
    "UniMatch",
    "UniMatchConfig",
    "UniMatchV2",
    "UniMatchV2Config",
    "ViewNeeds",
]
