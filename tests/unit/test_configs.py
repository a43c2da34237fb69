"""Every run in configs/ loads: nobody should find a mistake in a shipped file by starting it."""

import re
from pathlib import Path

import pytest

from unimatch.config import Section, dump, from_text, load
from unimatch.engine.optim import OptimizerConfig
from unimatch.engine.run_config import RunConfig
from unimatch.models.heads.deeplabv3plus import DeepLabV3PlusConfig
from unimatch.models.heads.unet import UNetHeadConfig
from unimatch.tasks import MedicalTaskConfig
from unimatch.views.change import ChangeViewConfig
from unimatch.views.medical import MedicalViewConfig

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


@pytest.mark.parametrize("path", [p for p in RUNS if re.search(r"_\d+$", p.stem)], ids=lambda path: path.stem)
def test_a_name_says_method_and_amount_of_labels(path):
    config = load(path, RunConfig)
    method, amount = path.stem.removeprefix("cpu_").split("_")
    assert config.method.name == method
    assert config.out == Path("runs", path.parent.name, path.stem)
    lists = [text for text in (config.data.labeled, config.data.unlabeled) if text]
    assert all(text.startswith(f"runs/{path.parent.name}/splits/{amount}/") for text in lists)
    assert len(lists) == 2 or method == "supervised"
    assert config.data.shards == f"runs/{path.parent.name}/shards"


def test_change_detection_has_the_published_settings():
    for folder in ("levir", "whu"):
        config = load(CONFIGS / folder / "unimatch_10.yaml", RunConfig)
        assert (config.batch.labeled, config.batch.unlabeled, config.schedule.epochs) == (8, 8, 80)
        assert (config.optimizer.name, config.optimizer.lr, config.optimizer.head_lr_multiplier) == (
            "sgd",
            0.02,
            1,
        )
        assert (config.optimizer.momentum, config.optimizer.weight_decay) == (0.9, 1e-4)
        assert (config.model.encoder.name, config.model.encoder.output_stride) == ("resnet50s", 16)
        assert config.model.head == Section("deeplabv3plus", DeepLabV3PlusConfig())
        assert config.task.name == "change" and config.task.config.views == ChangeViewConfig(crop=256)
        assert config.task.config.loss.name == "ce" and config.task.config.evaluate.mode == "whole"
        method = config.method.config
        assert (method.threshold, method.mix_partner, method.feature_dropout) == (0.95, "same", 0.5)
        baseline = load(CONFIGS / folder / "supervised_10.yaml", RunConfig)
        assert baseline.batch.labeled == 16 and baseline.data.unlabeled is None


def test_acdc_has_the_published_settings():
    config = load(CONFIGS / "acdc" / "unimatch_3.yaml", RunConfig)
    assert (config.batch.labeled, config.batch.unlabeled, config.schedule.epochs) == (12, 12, 300)
    optimizer = OptimizerConfig(lr=0.01, name="sgd", momentum=0.9, weight_decay=1e-4, head_lr_multiplier=1)
    assert config.optimizer == optimizer
    assert (config.model.encoder.name, config.model.encoder.in_channels) == ("unet", 1)
    assert config.model.head == Section("unet", UNetHeadConfig("bilinear"))
    assert config.task == Section("medical", MedicalTaskConfig(MedicalViewConfig(crop=256)))
    method = config.method.config
    assert (method.threshold, method.mix_partner, method.feature_dropout) == (0.95, "shuffled", 0.5)
    baseline = load(CONFIGS / "acdc" / "supervised_3.yaml", RunConfig)
    assert baseline.batch.labeled == 24 and baseline.data.unlabeled is None
    short, plain = (
        load(CONFIGS / "acdc" / f"cpu_{name}_7.yaml", RunConfig) for name in ("unimatch", "supervised")
    )
    assert short.schedule == plain.schedule and short.optimizer == plain.optimizer
    assert plain.batch.labeled == short.batch.labeled + short.batch.unlabeled
