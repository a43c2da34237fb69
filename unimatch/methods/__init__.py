"""Training methods by name."""

from unimatch.methods.augseg import AugSeg, AugSegConfig
from unimatch.methods.base import METHODS, Group, Method, Progress, Stage, ViewNeeds
from unimatch.methods.bcp import BCP, BCPConfig
from unimatch.methods.corrmatch import CorrMatch, CorrMatchConfig
from unimatch.methods.cps import CPS, CPSConfig
from unimatch.methods.cutmix_mt import CutMixMT, CutMixMTConfig
from unimatch.methods.fixmatch import FixMatch, FixMatchConfig
from unimatch.methods.imas import IMAS, IMASConfig
from unimatch.methods.mean_teacher import MeanTeacher, MeanTeacherConfig
from unimatch.methods.ours import Ours, OursConfig
from unimatch.methods.pc2seg import PC2Seg, PC2SegConfig
from unimatch.methods.prevmatch import PrevMatch, PrevMatchConfig
from unimatch.methods.ps_mt import PSMT, PSMTConfig
from unimatch.methods.pseudoseg import PseudoSeg, PseudoSegConfig
from unimatch.methods.st import ST, STConfig, STPlus, STPlusConfig
from unimatch.methods.supervised import Supervised, SupervisedConfig
from unimatch.methods.u2pl import U2PL, U2PLConfig
from unimatch.methods.ua_mt import UAMT, UAMTConfig
from unimatch.methods.unimatch import UniMatch, UniMatchConfig
from unimatch.methods.unimatch_v2 import UniMatchV2, UniMatchV2Config

__all__ = [
    "AugSeg",
    "AugSegConfig",
    "BCP",
    "BCPConfig",
    "CPS",
    "CPSConfig",
    "CorrMatch",
    "CorrMatchConfig",
    "CutMixMT",
    "CutMixMTConfig",
    "FixMatch",
    "FixMatchConfig",
    "Group",
    "IMAS",
    "IMASConfig",
    "METHODS",
    "MeanTeacher",
    "MeanTeacherConfig",
    "Method",
    "Ours",
    "OursConfig",
    "PC2Seg",
    "PC2SegConfig",
    "PSMT",
    "PSMTConfig",
    "PrevMatch",
    "PrevMatchConfig",
    "Progress",
    "PseudoSeg",
    "PseudoSegConfig",
    "ST",
    "STConfig",
    "STPlus",
    "STPlusConfig",
    "Stage",
    "Supervised",
    "SupervisedConfig",
    "U2PL",
    "U2PLConfig",
    "UAMT",
    "UAMTConfig",
    "UniMatch",
    "UniMatchConfig",
    "UniMatchV2",
    "UniMatchV2Config",
    "ViewNeeds",
]
