"""What zero_private.py takes from inside DeepSpeed is what it says, in each release that is named there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT
from tests.support.processes import succeed
from unimatch.engine.zero_private import TRIED

PROGRAM = Path(__file__).with_name("zero_private_process.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    path = tmp_path_factory.mktemp("zero") / "found.pt"
    succeed(2, str(PROGRAM), str(path), PYTHONPATH=str(ROOT), ACCELERATE_USE_DEEPSPEED="true")
    results: dict[Any, Any] = torch.load(path, weights_only=False)
    return results


def told(found: dict[Any, Any]) -> str:
    """What a failure means."""
    return f"DeepSpeed {found['version']} differs inside from {' and '.join(TRIED)}, which were tried"


def test_the_state_of_every_group_is_found(found: dict[Any, Any]):
    assert found[2]["linked"] == found[3]["linked"] == [True] * 4, told(found)


@pytest.mark.parametrize("stage", [2, 3])
def test_the_flat_parts_of_all_processes_are_each_groups_parameters(found: dict[Any, Any], stage: int):
    """By their sum and their squares' sum."""
    for parts, group in zip(found[stage]["parts"], found[stage]["groups"], strict=True):
        torch.testing.assert_close(torch.stack(parts), torch.stack(group), msg=told(found))


def test_parameters_in_parts_are_told_from_whole_ones(found: dict[Any, Any]):
    assert (found[2]["is parted"], found[3]["is parted"]) == ([False] * 4, [True] * 4), told(found)


def test_a_processs_own_part_is_the_one_that_deepspeed_keeps(found: dict[Any, Any]):
    for own, local in zip(found[3]["own"], found[3]["local"], strict=True):
        torch.testing.assert_close(own[: local.numel()], local.flatten(), msg=told(found))
        assert not own[local.numel() :].any(), told(found)


def test_no_messages_of_its_own_are_compiled(found: dict[Any, Any]):
    assert found[2]["builder"] is found[3]["builder"] is False, told(found)


def test_the_releases_are_in_the_table_of_what_was_tried():
    page = (ROOT / "docs" / "install.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| DeepSpeed |"))
    assert len(TRIED) > 1 and set(TRIED) <= set(row.split())
