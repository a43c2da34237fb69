"""Every run in configs/ loads: nobody should find a mistake in a shipped file by starting it."""

from pathlib import Path

import pytest

from unimatch.config import dump, from_text, load
from unimatch.engine.run_config import RunConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Files in base/ are parts that runs include; they are incomplete by themselves.
RUNS = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent != CONFIGS / "base")


def test_there_are_runs_and_every_base_is_used():
    assert RUNS
    texts = "".join(path.read_text() for path in CONFIGS.rglob("*.yaml"))
    assert [path.name for path in (CONFIGS / "base").glob("*.yaml") if path.name not in texts] == []


@pytest.mark.parametrize("path", RUNS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_a_run_loads_and_its_dump_is_equal(path):
    config = load(path, RunConfig)
    assert from_text(dump(config), RunConfig) == config
