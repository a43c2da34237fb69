"""Runs of the methods that the field compares with, in this process: on every task, stopped and resumed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import tiny_run_text
from tests.support.change_set import write_change_run
from tests.support.label_sets import write_label_set
from tests.support.medical_set import write_medical_run
from tests.support.narrow import NARROW_UNET
from tests.support.siblings import LABELED_ALONE, SIBLINGS, setting
from tests.support.training import BARE, built, trained
from tools import method_pictures
from unimatch.config import load
from unimatch.engine import checkpoint
from unimatch.engine.build import build_trainer
from unimatch.engine.restore import restore
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import open_data
from unimatch.engine.runtime import Runtime
from unimatch.errors import UserError
from unimatch.models import unet
from unimatch.packing.splits import draw_splits, write_split
from unimatch.packing.synthetic import write_synthetic
from unimatch.shardset.archive import ShardSet

TASKS = ("natural", "change", "medical")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A configuration of each task over a tiny set: two steps an epoch."""
    folder = tmp_path_factory.mktemp("siblings")
    shards = folder / "natural" / "shards"
    write_synthetic(shards, train=13, val=1, height=40, width=48, seed=0)
    write_split(draw_splits(ShardSet.open(shards), "train", [5])[0], shards.parent / "split")
    natural = folder / "natural.yaml"
    natural.write_text(tiny_run_text(folder / "run", shards).replace("crop: 48", "crop: 32"))
    found = {
        "natural": natural,
        "change": write_change_run(folder / "change", train=13, val=1),
        "medical": write_medical_run(folder / "medical", train=13, val=1),
    }
    for path in found.values():
        data = load(path, RunConfig).data
        write_label_set(labels_of(path), Path(data.shards), str(data.unlabeled))
    return found


@pytest.fixture(autouse=True)
def narrow_unet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet, "WIDTHS", NARROW_UNET)


def labels_of(base: Path) -> Path:
    """Labels of the unlabelled samples of a configuration."""
    return base.with_suffix(".labels")


def config_of(base: Path, task: str, method: str, out: Path, steps: int) -> RunConfig:
    own = BARE if task != "medical" else BARE[:4]  # whose head has no settings
    if any(f"name: {name}}}" in method for name in LABELED_ALONE):
        own = (*own, f"data.pseudo={labels_of(base)}")
    settings = (
        f"schedule.steps={steps}",
        "checkpoint.every_steps=2",
        "optimizer.lr=0.001",
    )
    return load(base, RunConfig, [*own, method, *settings, f"out={out}"])


def pytest_generate_tests(metafunc):
    """tests/dist/test_siblings.py trains each on photographs too, for fewer steps than --thorough asks."""
    if "task" in metafunc.fixturenames:
        thorough = metafunc.config.getoption("thorough")
        metafunc.parametrize("task", TASKS if thorough else TASKS[1:])


@pytest.mark.parametrize("case", SIBLINGS)
def test_a_method_trains_on_a_task(bases, task, case, tmp_path, pytestconfig):
    method, steps = setting(case, warm_up=0, pretrain=0), 20 if pytestconfig.getoption("thorough") else 3
    lines = trained(built(config_of(bases[task], task, method, tmp_path / "run", steps)))
    terms = [name for name in lines[0] if name.startswith("loss")]
    assert len(lines) == steps and len(terms) > 2 - (case in LABELED_ALONE)
    assert all(math.isfinite(line[name]) for line in lines for name in terms)


@pytest.mark.parametrize("case", ["cps", "corrmatch", "prevmatch", "u2pl", "ps_mt"])
def test_stopped_and_resumed_equals_never_stopped_to_the_last_bit(bases, case, tmp_path, monkeypatch):
    """The methods that keep more than a teacher; tests/unit/methods holds all to it. Photographs, four steps
    over two epochs; the one that stops does so behind the checkpoint at 2.
    """
    whole = config_of(bases["natural"], "natural", setting(case), tmp_path / "whole", 4)
    expected = trained(built(whole))
    stopped = config_of(bases["natural"], "natural", setting(case), tmp_path / "stopped", 4)
    trainer = built(stopped)
    real = trainer.method.step

    def breaks(net, batch, progress):
        if progress.step == 3:
            raise KeyboardInterrupt
        return real(net, batch, progress)

    monkeypatch.setattr(trainer.method, "step", breaks)
    with pytest.raises(KeyboardInterrupt):
        trained(trainer)
    found = trained(built(stopped, resume=True), resume=True)
    losses = [name for name in expected[0] if name.startswith(("loss", "kept", "pseudo"))]
    assert [[line[name] for name in losses] for line in found] == [
        [line[name] for name in losses] for line in expected[2:]
    ]
    files = {path.name for path in (whole.out / "last").glob("*.safetensors")}
    for name in files:
        ours, theirs = load_file(stopped.out / "last" / name), load_file(whole.out / "last" / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    check_that_evaluation_needs_the_network_alone(whole)
    if case == "cps":  # any network shows what any method does
        assert method_pictures.picture(whole.out, "imas").shape[1] > 3 * method_pictures.SIDE


def test_two_networks_are_compiled_or_computed_again_and_not_both(bases, tmp_path):
    config = config_of(bases["natural"], "natural", setting("cps"), tmp_path / "run", 1)
    plain = trained(built(config))[0]["loss"]
    config.out, config.activation_checkpointing = tmp_path / "again", True
    assert trained(built(config))[0]["loss"] == pytest.approx(plain, rel=1e-6)
    config.compile = "eager"
    with pytest.raises(UserError, match="cps trains two networks"):
        built(config)


def test_a_run_says_that_its_curve_depends_on_micro_batches(bases, tmp_path):
    told = []
    for case, size in (("augseg", "4"), ("augseg", "null"), ("cps", "4")):
        method = setting(case)
        config = config_of(bases["natural"], "natural", method, tmp_path / case, 1)
        config.batch.max_per_device = None if size == "null" else int(size)
        _, banner = build_trainer(config, open_data(config), Runtime(), resume=False)
        told.append("so its curve depends on the number of processes" in banner)
    assert told == [True, False, False]


def check_that_evaluation_needs_the_network_alone(config: RunConfig) -> None:
    folder = checkpoint.find(config.out, "last")
    for name in ("parts.safetensors", "optimizer.pt"):
        (folder / name).unlink(missing_ok=True)
    restored = restore(config.out, "last", None, Runtime())
    with torch.no_grad():
        assert restored.net(torch.zeros(1, 3, 32, 32))["logits"].shape[0] == 1
