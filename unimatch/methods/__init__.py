"""Training methods by name."""

from unimatch.methods.augseg import AugSeg, AugSegConfig
from unimatch.methods.base import METHODS, Group, Method, Progress, ViewNeeds
from unimatch.methods.cps import CPS, CPSConfig
from unimatch.methods.cutmix_mt import CutMixMT, CutMixMTConfig
from unimatch.methods.fixmatch import FixMatch, FixMatchConfig
from unimatch.methods.imas import IMAS, IMASConfig
from unimatch.methods.mean_teacher import MeanTeacher, MeanTeacherConfig
from unimatch.methods.supervised import Supervised, SupervisedConfig
from unimatch.methods.unimatch import UniMatch, UniMatchConfig
from unimatch.methods.unimatch_v2 import UniMatchV2, UniMatchV2Config

__all__ = [
    "METHODS",
    "CPS",
    "IMAS",
    "AugSeg",
    "AugSegConfig",
    "CPSConfig",
    "CutMixMT",
    "CutMixMTConfig",
    "FixMatch",
    "FixMatchConfig",
    "Group",
    "IMASConfig",
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
