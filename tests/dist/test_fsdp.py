"""FSDP2 on real processes over gloo: the same training as DDP, and states that move between all layouts.

layouts_process.py trains a small network in every way that concerns a layout; whole runs of methods with
networks beside theirs are in test_siblings.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import ROOT, tiny_run_text
from tests.dist.layouts_process import CASES, LAYOUTS
from tests.dist.test_training import Run
from tests.dist.test_zero import assert_same_weights, zero
from tests.support.launches import SHARDS_ON_CPUS, fsdp
from tests.support.processes import succeed

pytestmark = pytest.mark.skipif(not SHARDS_ON_CPUS, reason=f"torch {torch.__version__} cannot do it on CPUs")
PROGRAM = Path(__file__).with_name("layouts_process.py")
COMPARED = [(name, layout) for name, case in CASES.items() for layout in case.layouts]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    """What each case came to in each layout, on two processes."""
    folder = tmp_path_factory.mktemp("layouts")
    succeed(2, str(PROGRAM), str(folder), PYTHONPATH=str(ROOT))
    results: dict[tuple[str, str], Any] = torch.load(folder / "results.pt", weights_only=True)
    return results


def tolerance(case: str) -> dict[str, float]:
    """In bf16 it matters in which order values lie in memory."""
    return {"rtol": 1e-2, "atol": 1e-3} if CASES[case].precision == "bf16" else {"rtol": 1e-5, "atol": 1e-6}


def assert_same(mine: Any, theirs: Any, case: str) -> None:
    """Tensors by value and type, all else equal, down through dicts and lists."""
    if isinstance(theirs, Tensor):
        torch.testing.assert_close(mine, theirs, **tolerance(case))
    elif isinstance(theirs, dict):
        assert mine.keys() == theirs.keys()
        for key in theirs:
            assert_same(mine[key], theirs[key], case)
    elif isinstance(theirs, list):
        assert len(mine) == len(theirs)
        for one, other in zip(mine, theirs, strict=True):
            assert_same(one, other, case)
    else:
        assert mine == theirs


def test_every_layout_is_tried():
    assert {layout for _, layout in COMPARED} == LAYOUTS.keys() - {"ddp"}


@pytest.mark.parametrize(("case", "layout"), COMPARED)
def test_parts_train_as_ddp_does(trained: dict[tuple[str, str], Any], case: str, layout: str):
    """Losses and norms of gradients; network, teacher and part; what a whole copy of the teacher predicts."""
    ours, theirs = trained[case, layout], trained[CASES[case].like or case, "ddp"]
    assert ours["figures"] == pytest.approx(theirs["figures"], rel=tolerance(case)["rtol"])
    for name in ("nets", "shown", "kept"):
        assert_same(ours[name], theirs[name], case)
    student, teacher = theirs["nets"]["model"], theirs["nets"]["ema"]
    assert any(not torch.equal(student[key], teacher[key]) for key in student), "the teacher lags"


@pytest.mark.parametrize(("case", "layout"), COMPARED)
def test_the_optimisers_state_is_that_of_ddp(trained: dict[tuple[str, str], Any], case: str, layout: str):
    """Whole, by number, and the same after it has been loaded; how an update is computed may differ."""
    ours, theirs = trained[case, layout], trained[CASES[case].like or case, "ddp"]["optimizer"]
    for state in (ours["optimizer"], ours["loaded again"]):
        assert_same(state["state"], theirs["state"], case)
        groups = [
            [
                {key: value for key, value in group.items() if key not in ("fused", "foreach")}
                for group in each
            ]
            for each in (state["param_groups"], theirs["param_groups"])
        ]
        assert groups[0] == groups[1]


def test_training_moves_between_layouts_and_process_counts(tiny_shards: Path, tmp_path: Path):
    """DDP and ZeRO-2 on two processes, hybrid FSDP on four, FSDP on one, DDP on two; each is killed but the
    last.
    """
    config = tmp_path / "run.yaml"
    config.write_text(tiny_run_text(tmp_path / "run", tiny_shards))
    settings = ("optimizer={lr: 0.0003, clip_norm: 5.0}", "data.workers=0", "data.val=null")
    settings += ("task.views.crop=32", "schedule.steps=15", "checkpoint.every_steps=3")
    still = Run(config, "still", *settings).train(2)
    moved = Run(config, "moved", *settings)
    for count, step, launch in ((2, 3, {}), (2, 6, zero(2)), (4, 9, fsdp(2, 2)), (1, 12, fsdp())):
        moved.fall(count, step, "--resume", **launch)
    moved.train(2, "--resume")
    assert moved.losses == pytest.approx(still.losses, rel=1e-4) and len(moved.losses) == 15
    assert_same_weights(moved, still, config)
