"""The model against runs that were measured: two CPU cores, one thread a process; see docs/scaling.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from unimatch.scale import read_measured

FILES = sorted((Path(__file__).parent / "measured").glob("*.json"))
WRONG_BY = 0.15


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_steps_that_the_model_was_not_fitted_to_are_nearly_those_that_were_measured(path: Path):
    calibration, rows = read_measured(path)
    left = [row for row in rows if row not in calibration.fitted]
    assert {row.mode for row in left} == {"ddp", "fsdp"} and len(left) >= 3
    errors = {f"{row.mode}, {row.samples}": calibration.predict(row) / row.parts.busy - 1 for row in left}
    assert max(map(abs, errors.values())) < WRONG_BY, errors


def test_networks_of_both_kinds_were_measured():
    assert [path.stem for path in FILES] == ["unimatch", "unimatch_v2"]
