"""What tests know of each method beyond the first ones: settings in which every term counts, and passes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Pass = tuple[bool, bool, int]  # train mode, with gradients, images (of batches of 4 + 4)
EVAL, BLIND = (False, False, 4), (True, False, 4)  # without a graph: in eval mode, in train mode


def train(images: int) -> Pass:
    return True, True, images


@dataclass
class Sibling:
    """settings: with which all terms of the loss are at work on networks that know nothing yet.

    net: the passes of the network in a step; others: of the modules beside it, by name of their file.
    """

    settings: dict[str, Any]
    net: list[Pass]
    others: dict[str, list[Pass]] = field(default_factory=dict)


MIXED_TWICE = [train(4), BLIND, BLIND, train(4)]
SIBLINGS = {
    "cutmix_mt": Sibling({"threshold": 0.4}, [train(4), train(4)], {"ema": [EVAL, EVAL]}),
    "cps": Sibling({}, MIXED_TWICE, {"parts.second": MIXED_TWICE}),
    "cps, no CutMix": Sibling({"cutmix": False}, [train(4)] * 2, {"parts.second": [train(4)] * 2}),
    "augseg": Sibling({"threshold": 0.4}, [train(8)], {"ema": [EVAL]}),
    "imas": Sibling({"threshold": 0.0, "left_out": None}, [EVAL, train(16)], {"ema": [EVAL]}),
}


def method_name(case: str) -> str:
    return case.split(",")[0]
