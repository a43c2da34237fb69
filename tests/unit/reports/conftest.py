"""One tiny run that all tests of reports share; none of them writes into its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import tiny_run_text
from tests.support.training import BARE
from unimatch import train

SHORT = (*BARE, "data.val=val", "schedule.steps=2", "checkpoint.every_steps=1")
SHORT += ("evaluation={every_steps: 1, workers: 0, pseudo_labels: 2}",)


@pytest.fixture(scope="session")
def done(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two steps, evaluated and saved after each, with measured pseudo-labels."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "run.yaml").write_text(tiny_run_text(folder / "done", tiny_shards))
    settings = [part for one in SHORT for part in ("--set", one)]
    train.main(["--config", str(folder / "run.yaml"), *settings])
    return folder / "done"
