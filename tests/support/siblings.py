"""What tests know of each method beyond the first ones: settings in which every term counts, and passes."""

from __future__ import annotations

import json
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
STREAMS = [train(8), train(8)]  # labelled and weak, then two strong views
SIBLINGS = {
    "cutmix_mt": Sibling({"threshold": 0.4}, [train(4), train(4)], {"ema": [EVAL, EVAL]}),
    "cps": Sibling({}, MIXED_TWICE, {"parts.second": MIXED_TWICE}),
    "cps, no CutMix": Sibling({"cutmix": False}, [train(4)] * 2, {"parts.second": [train(4)] * 2}),
    "augseg": Sibling({"threshold": 0.4}, [train(8)], {"ema": [EVAL]}),
    "imas": Sibling({"threshold": 0.0, "left_out": None}, [EVAL, train(16)], {"ema": [EVAL]}),
    "corrmatch": Sibling({"threshold": 0.4, "segments": 8}, [EVAL, train(8), train(4)]),
    "prevmatch": Sibling({"threshold": 0.4, "previous_threshold": 0.4}, [EVAL, *STREAMS]),
    "u2pl": Sibling({"queue": 300, "width": 8}, [train(8)], {"ema": [EVAL, (True, False, 8)]}),
    "ps_mt": Sibling(
        {"threshold": 0.4, "warm_up": 1, "ramp": 1}, [train(4), train(4)], {"ema": [BLIND], "ema2": [BLIND]}
    ),
    "pseudoseg": Sibling({}, [train(4), BLIND, train(4)]),
    "pc2seg": Sibling({"anchors": 20, "negatives": 30, "width": 8}, [train(4), train(8)]),
    "ua_mt": Sibling({"passes": 2}, [train(8)], {"ema": [BLIND] * 3}),
    "ours": Sibling(
        {"threshold": 0.4, "start_passes": 0.0, "start": 0.0, "ramp": 0.0, "paste": 0.5},
        [train(4), train(4)],
        {"ema": [BLIND]},
    ),
    "bcp": Sibling({"pretrain": 2}, [train(4), train(4)], {"ema": [BLIND]}),
    "st": Sibling({}, [train(4)]),
    "st_plus": Sibling({}, [train(4)]),
}


LABELED_ALONE = ("st", "st_plus")  # whose unlabelled images come with the labels of another run


def method_name(case: str) -> str:
    return case.split(",")[0]


def setting(case: str, **first: int) -> str:
    """The method of a case as an override of a run's configuration, with every pixel kept; `first`: its
    settings of this name, such as a warm-up.
    """
    settings = dict(SIBLINGS[case].settings)
    settings |= {name: value for name, value in {"threshold": 0.0, **first}.items() if name in settings}
    settings = "".join(f", {name}: {json.dumps(value)}" for name, value in settings.items())
    return f"method={{name: {method_name(case)}{settings}}}"
