"""The experiment that a test module writes out as TEXT."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import tiny_run_text
from unimatch.experiments.definition import Experiment, load_experiment


@pytest.fixture
def file(tmp_path: Path, tiny_shards: Path, request: pytest.FixtureRequest) -> Path:
    (tmp_path / "run.yaml").write_text(tiny_run_text(tmp_path / "unused", tiny_shards))
    path = tmp_path / "tiny.yaml"
    path.write_text(request.module.TEXT.format(out=tmp_path / "runs"))
    return path


@pytest.fixture
def experiment(file: Path) -> Experiment:
    return load_experiment(str(file))
