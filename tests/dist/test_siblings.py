"""The methods that the field compares with, on two real processes, in every layout: one start serves all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.conftest import ROOT, tiny_run_text
from tests.support.label_sets import label_and_compare, write_label_set
from tests.support.launches import SHARDS_ON_CPUS
from tests.support.processes import succeed
from tests.support.siblings import LABELED_ALONE, SIBLINGS, method_name, setting
from tests.support.training import BARE, built, trained
from unimatch.config import dump, load
from unimatch.engine.log import read_metrics
from unimatch.engine.run_config import RunConfig
from unimatch.engine.runtime import Runtime
from unimatch.methods import METHODS
from unimatch.shardset.label_set import LabelSet

PROGRAM = Path(__file__).with_name("runs_process.py")
# Stages of ZeRO, each with other parts: a second network, a head and its teacher, a head. FSDP: a second
# network, two teachers that it runs in pieces, a head with a teacher and a memory, whole copies.
SHARDED = [("cps", "3"), ("u2pl", "2"), ("corrmatch", "1")]
SHARDED += [(case, "fsdp") for case in ("cps", "ps_mt", "u2pl", "prevmatch")]
LABELLER = "cps"  # whose run is labelled with
EVERY = [(case, stage) for case in SIBLINGS for stage in ("1", "2", "3", "fsdp")]
# Two epochs of two steps, for what begins or changes with an epoch. Small steps amplify no rounding.
SMALL = (
    *BARE,
    "task.views.crop=32",
    "batch.unlabeled=16",
    "optimizer.lr=0.0003",
    "schedule.steps=4",
    "checkpoint.every_steps=4",
)


@pytest.fixture(scope="module")
def folder(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("siblings")
    (found / "base.yaml").write_text(tiny_run_text(found / "run", tiny_shards))
    write_label_set(found / "labels", tiny_shards, tiny_shards.parent / "split" / "unlabeled.txt")
    return found


def config_of(folder: Path, case: str, layout: str) -> RunConfig:
    out = folder / layout / case.replace(" ", "_")
    labels = [f"data.pseudo={folder / 'labels'}"] if case in LABELED_ALONE else []
    return load(folder / "base.yaml", RunConfig, [*SMALL, setting(case), f"out={out}", *labels])


def path_of(folder: Path, case: str, layout: str = "0") -> Path:
    return folder / f"{layout}-{case}.yaml"


def sharded(config: pytest.Config) -> list[tuple[str, str]]:
    wanted = EVERY if config.getoption("thorough") else SHARDED
    return [(case, layout) for case, layout in wanted if layout != "fsdp" or SHARDS_ON_CPUS]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "layout" in metafunc.fixturenames:
        metafunc.parametrize(("case", "layout"), sharded(metafunc.config))


@pytest.fixture(scope="module")
def double(folder: Path, pytestconfig: pytest.Config) -> None:
    """All cases have been trained by two processes, in layout "0", DDP, and some in others."""
    arguments = []
    # FSDP before ZeRO, of which accelerate keeps in mind for the whole process that it was there.
    parted = sorted(sharded(pytestconfig), key=lambda one: one[1] != "fsdp")
    for case, layout in [*((case, "0") for case in SIBLINGS), *parted]:
        path = path_of(folder, case, layout)
        path.write_text(dump(config_of(folder, case, layout)))
        arguments += [layout, str(path)]
    arguments += ["labels", f"{path_of(folder, LABELLER)}:{folder / 'two'}"]
    succeed(2, str(PROGRAM), *arguments, PYTHONPATH=str(ROOT), timeout_s=480)


def test_two_processes_write_the_label_set_and_the_folder_of_one(folder: Path, double: None):
    """34 samples in batches of 3, of which one process has more than the other."""
    config = load(path_of(folder, LABELLER), RunConfig)
    label_and_compare(config, folder / "one", Runtime())
    one, two = (folder / name for name in ("one", "two"))
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert len(files) >= 34 * 4 and files == sorted(
        path.relative_to(two) for path in two.rglob("*") if path.is_file()
    )
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files)
    assert LabelSet.open(two / "labels").info["created"]["step"] == 4
    assert len(set(np.load(one / "scores.npy").tolist())) > 30


def curve(folder: Path, case: str, layout: str) -> list[float]:
    return [line["loss"] for line in read_metrics(config_of(folder, case, layout).out, "train")]


@pytest.mark.parametrize("case", SIBLINGS)
def test_two_processes_draw_the_curve_of_one_or_say_why_not(folder: Path, double: None, case: str):
    one = [line["loss"] for line in trained(built(config_of(folder, case, "one")))]
    same = curve(folder, case, "0") == pytest.approx(one, rel=2e-4)
    assert same == (METHODS[method_name(case)].cls.divided == "")


def test_every_layout_trains_network_and_parts_alike(folder: Path, double: None, case: str, layout: str):
    assert curve(folder, case, layout) == pytest.approx(curve(folder, case, "0"), rel=2e-4)
    theirs, ours = (config_of(folder, case, each).out / "last" for each in ("0", layout))
    files = {path.name for path in theirs.glob("*.safetensors")}
    assert files == {path.name for path in ours.glob("*.safetensors")} and "model.safetensors" in files
    for name in files:
        mine, other = load_file(ours / name), load_file(theirs / name)
        assert mine.keys() == other.keys()
        assert all(mine[key].shape == other[key].shape for key in other)
        away = sum(float((mine[key].double() - other[key].double()).square().sum()) for key in other)
        size = sum(float(other[key].double().square().sum()) for key in other)
        assert away < 1e-7 * size, name
