"""Settings that save memory or time and change nothing about the training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import tiny_run_text
from tests.support import tiny_encoder
from unimatch import train
from unimatch.engine.log import read_metrics


def figures(folder: Path, shards: Path, name: str, *settings: str) -> list[float]:
    """Of a run of three steps: their losses and the validation mIoU at the end."""
    path = folder / "run.yaml"
    path.write_text(tiny_run_text(folder / name, shards))
    small = (f"model.encoder.name={tiny_encoder.NAME}", "model.head={name: linear}", "schedule.steps=3")
    short = (*small, "log.pictures_every_steps=0", *settings)
    train.main(["--config", str(path), *(part for setting in short for part in ("--set", setting))])
    (evaluated,) = read_metrics(folder / name, "eval")
    return [*(line["loss"] for line in read_metrics(folder / name, "train")), evaluated["miou"]]


@pytest.mark.parametrize("setting", ["activation_checkpointing=true", "compile=eager"])
def test_a_setting_draws_the_same_curve(tiny_shards: Path, tmp_path: Path, setting: str):
    plain = figures(tmp_path, tiny_shards, "plain")
    assert figures(tmp_path, tiny_shards, "other", setting) == pytest.approx(plain, rel=1e-5)
    assert len(plain) == 4
