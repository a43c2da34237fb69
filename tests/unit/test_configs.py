"""Every run in configs/ loads: nobody should find a mistake in a shipped file by starting it."""

import math
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from tests.support.siblings import LABELED_ALONE
from unimatch import shipped
from unimatch.config import Section, dump, from_text, load
from unimatch.engine.optim import OptimizerConfig
from unimatch.engine.run_config import RunConfig
from unimatch.experiments.definition import load_experiment
from unimatch.experiments.size import steps_of
from unimatch.losses import LossConfig
from unimatch.models.heads.deeplabv3plus import DeepLabV3PlusConfig
from unimatch.models.heads.dpt import DPTConfig
from unimatch.models.heads.pspnet import PSPNetConfig
from unimatch.models.heads.unet import UNetHeadConfig
from unimatch.tasks import MedicalTaskConfig
from unimatch.views.change import ChangeViewConfig
from unimatch.views.medical import MedicalViewConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Files in base/ are parts that runs include; they are incomplete by themselves.
PARTS = (CONFIGS / "base", CONFIGS / "experiments")
RUNS = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent not in PARTS)
EXPERIMENT_NAMES = sorted(path.stem for path in (CONFIGS / "experiments").glob("*.yaml"))


def test_there_are_runs_and_every_base_is_used():
    assert RUNS
    texts = "".join(path.read_text() for path in CONFIGS.rglob("*.yaml"))
    assert [path.name for path in (CONFIGS / "base").glob("*.yaml") if path.name not in texts] == []


@pytest.mark.parametrize("path", RUNS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_a_run_loads_and_its_dump_is_equal(path):
    config = load(path, RunConfig)
    assert from_text(dump(config), RunConfig) == config


ALL_LABELS = ("ade20k_all_v2", "cityscapes_all_v2", "coco_all_v2")
BOARDS = [name for name in EXPERIMENT_NAMES if name.startswith("board_")]
OWN_LISTS = "label_loop"  # whose runs differ in their labelled samples
UNTRAINED = "networks"  # to predict with
# Over published splits.
SHORT = ("camvid_short", "camvid_siblings")
TABLES = [
    name for name in EXPERIMENT_NAMES if name not in (*ALL_LABELS, *BOARDS, *SHORT, OWN_LISTS, UNTRAINED)
]
experiment_of = cache(load_experiment)


@pytest.mark.parametrize("name", EXPERIMENT_NAMES)
def test_every_run_of_every_experiment_resolves(name):
    experiment = experiment_of(name)
    config = experiment.config
    skipped = [dict(zip(config.axes, values, strict=True)) for values in product(*config.axes.values())]
    per_seed = math.prod(len(values) for values in config.axes.values()) - sum(map(config.skips, skipped))
    assert (
        len(experiment.runs)
        == per_seed * len(config.seeds)
        == len({run.config.out for run in experiment.runs})
    )
    assert [run.number for run in experiment.runs] == list(range(1, len(experiment.runs) + 1))
    for run in experiment.runs:
        alone = run.config.method.name in ("supervised", *LABELED_ALONE)
        assert (run.config.batch.unlabeled is None) == alone
        assert run.config.out.parent == Path("runs", experiment.name)
        assert run.config.seed == config.seeds[(run.number - 1) // per_seed]
    first, later = experiment.runs[:per_seed], experiment.runs[per_seed:]
    for run in first:
        assert from_text(dump(run.config), RunConfig) == run.config
    # Any two runs of a seed differ in what their names say; those of the other seeds repeat them.
    settings = [dump(replace(run.config, out=Path("x"))) for run in first]
    assert len(set(settings)) == len(settings)
    for run in later:
        same = first[(run.number - 1) % per_seed].config
        by_seed = name in (*BOARDS, OWN_LISTS)  # also the lists
        data = run.config.data if by_seed else same.data
        assert run.config == replace(same, out=run.config.out, seed=run.config.seed, data=data)


@pytest.mark.parametrize("name", TABLES)
def test_a_run_of_a_table_has_its_split_and_method(name):
    for run in experiment_of(name).runs:
        method, split = run.values["method"], run.values["split"]
        named = {"fixmatch_v2": "mean_teacher"}.get(method, method)
        assert run.config.method.name == named and steps_of(run.config) > 0
        assert run.config.data.split == f"{name.split('_')[0]}/{split}"


def test_the_experiments_are_those_of_the_published_tables():
    sizes = {name: len(experiment_of(name).runs) for name in TABLES}
    assert sizes == {
        "acdc": 27,
        "acdc_siblings": 6,
        "ade20k_v2": 108,
        "cityscapes": 90,
        "cityscapes_siblings": 64,
        "cityscapes_v2": 108,
        "coco": 45,
        "coco_v2": 135,
        "levir": 72,
        "levir_v2": 108,
        "pascal": 90,
        "pascal_blended": 108,
        "pascal_siblings": 110,
        "pascal_v2": 135,
        "whu": 72,
        "whu_v2": 108,
    }
    used = {run.config.data.split for name in TABLES for run in experiment_of(name).runs}
    assert used == set(shipped.of_kind("splits")) - {"ade20k/1_4", "ade20k/1_2"}  # no figures are published


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_gives_all_methods_the_same_labels_and_the_baseline_more_time(name):
    """Of one seed and setting: the same lists, steps and labelled images; splits differ between seeds."""
    experiment = experiment_of(name)
    config = experiment.config
    for run in experiment.runs:
        mine, others = run.config, {**run.values, config.across: config.baseline}
        (base,) = [
            one.config for one in experiment.runs
            if one.values == others and one.config.seed == mine.seed
        ]  # fmt: skip
        assert (mine.data, mine.batch.labeled, mine.schedule, mine.optimizer, mine.task) == (
            base.data, base.batch.labeled, base.schedule, base.optimizer, base.task,
        )  # fmt: skip
        assert f"seed{mine.seed}/" in mine.data.labeled and f"seed{mine.seed}/" in mine.data.unlabeled
    lengths = {
        name: [run.config.schedule.steps for run in experiment.runs if run.values[config.across] == name]
        for name in config.axes[config.across]
    }
    assert len(set(lengths[config.baseline])) > len(set(lengths["fixmatch"]))


def test_the_label_loop_differs_in_lists_of_its_seed_alone():
    for run in experiment_of(OWN_LISTS).runs:
        folder = {"first": "12", "random": "23"}.get(run.values["labels"], run.values["labels"])
        assert run.config.data.labeled == f"runs/label_loop/lists/seed{run.config.seed}/{folder}/labeled.txt"


def run_of(name, **values):
    """The settings of a run of seed 0; axes that are not given have their first value."""
    experiment = experiment_of(name)
    wanted = {axis: next(iter(found)) for axis, found in experiment.config.axes.items()} | values
    return next(run.config for run in experiment.runs if run.values == wanted)


# Of the published runs: crop, epochs, rate, head's factor, tau, encoder, output stride.
PUBLISHED = {
    "pascal": (321, 80, 0.001, 10, 0.95, "resnet101s", 16),
    "pascal_blended": (513, 80, 0.001, 10, 0.95, "resnet101s", 16),
    "cityscapes": (801, 240, 0.005, 1, 0.0, "resnet50s", 16),
    "coco": (513, 30, 0.004, 10, 0.95, "xception65_released", 16),
    "levir": (256, 80, 0.02, 1, 0.95, "resnet50s", 16),
    "whu": (256, 80, 0.02, 1, 0.95, "resnet50s", 16),
    "acdc": (256, 300, 0.01, 1, 0.95, "unet", 16),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_the_published_ones(name):
    crop, epochs, lr, head, threshold, encoder, stride = PUBLISHED[name]
    partner = "shuffled" if name == "acdc" else "same"
    for method in ("fixmatch", "unimatch"):
        config = run_of(name, method=method)
        assert (config.task.config.views.crop, config.schedule.epochs) == (crop, epochs)
        optimizer = OptimizerConfig(
            lr=lr, name="sgd", momentum=0.9, weight_decay=1e-4, head_lr_multiplier=head
        )
        assert config.optimizer == optimizer and config.schedule.power == 0.9
        assert (config.method.config.threshold, config.method.config.mix_partner) == (threshold, partner)
        assert (config.model.encoder.name, config.model.encoder.output_stride) == (encoder, stride)
        assert (config.precision, config.sync_batchnorm) == ("fp32", "global")
        assert config.task.config.evaluate.mode == "sliding" if name == "cityscapes" else "whole"
    assert run_of(name).batch.labeled == 2 * config.batch.labeled == 2 * config.batch.unlabeled


def test_epochs_have_the_published_steps():
    """Two images a device on four, of lists that were filled up: one more than N // 8 for these two."""
    assert steps_of(run_of("cityscapes", method="unimatch", split="1_16")) == 240 * 349
    assert steps_of(run_of("pascal", method="unimatch", split="1464")) == 80 * 1140
    assert steps_of(run_of("pascal", method="unimatch", split="92")) == 80 * ((10582 - 92) // 8)


# Of the published runs of V2: crop, epochs, global batch, steps an epoch of one list.
PUBLISHED_V2 = {
    "pascal_v2": (518, 60, 16, {"92": 655}),
    "cityscapes_v2": (798, 180, 8, {"1_16": 348}),
    "ade20k_v2": (518, 60, 8, {"1_64": 2486}),
    "coco_v2": (518, 20, 16, {"1_512": 7378}),
    "levir_v2": (252, 60, 8, {}),
    "whu_v2": (252, 60, 8, {}),
}


@pytest.mark.parametrize("name", PUBLISHED_V2)
def test_settings_of_v2_are_the_published_ones(name):
    crop, epochs, batch, steps = PUBLISHED_V2[name]
    for method in ("unimatch_v2", "fixmatch_v2"):
        for size in ("small", "base", "large"):
            config = run_of(name, method=method, encoder=size)
            assert config.model.encoder.name == f"vit_{size}_patch14_dinov2"
            assert config.model.encoder.weights == f"file:pretrained/dinov2_{size}.pth"
            assert config.model.head == Section("dpt", DPTConfig()) and not config.model.encoder.freeze
            assert (config.batch.labeled, config.batch.unlabeled) == (batch, batch)
            assert (config.task.config.views.crop, config.schedule.epochs) == (crop, epochs)
            assert config.optimizer == OptimizerConfig(
                lr=5e-6, name="adamw", head_lr_multiplier=40, weight_decay=0.01
            )
            assert config.schedule.power == 0.9 and config.precision == "fp32"
            assert (config.method.config.threshold, config.method.config.ema_decay) == (0.95, 0.996)
            assert config.method.config.mix_partner == "batch"
    whose = "student" if config.task.name == "change" else "teacher"
    assert run_of(name, method="unimatch_v2").method.config.pseudo_labels == whose
    evaluate = config.task.config.evaluate
    if name == "cityscapes_v2":
        assert (evaluate.mode, evaluate.border) == ("sliding", "inside")
        assert config.task.config.loss == LossConfig("ohem", 0.7, 100_000)
    else:
        assert (evaluate.mode, evaluate.multiple_of) == ("whole", 14)
    for split, expected in steps.items():
        config = run_of(name, method="unimatch_v2", split=split)
        assert steps_of(config) == pytest.approx(expected * epochs, rel=0.003)


# Of the published supervised runs of V2: global batch, and steps an epoch of a repeated list.
SUPERVISED_V2 = {
    "pascal_v2": (32, 93),
    "cityscapes_v2": (16, 187),
    "ade20k_v2": (16, 375),
    "coco_v2": (32, 937),
    "levir_v2": (16, 187),
    "whu_v2": (16, 187),
}


@pytest.mark.parametrize("name", SUPERVISED_V2)
def test_the_baseline_of_v2_is_as_long_as_published(name):
    config = run_of(name, method="supervised")
    batch, per_epoch = SUPERVISED_V2[name]
    assert (config.batch.labeled, config.batch.unlabeled) == (batch, None)
    assert steps_of(config) == per_epoch * PUBLISHED_V2[name][1]
    if name == "cityscapes_v2":  # of a device's four images
        assert config.task.config.loss.ohem_min_kept_per_image == 200_000 // 4


def test_all_labels_are_used_beside_more_images():
    for name in ALL_LABELS:
        for run in experiment_of(name).runs:
            data = run.config.data
            assert (data.split, data.labeled) == (None, "train")
            others = data.unlabeled if isinstance(data.unlabeled, list) else [data.unlabeled]
            assert (others == [None]) == (run.values["unlabeled"] == "labels_only")
    half = run_of("ade20k_all_v2", unlabeled="half_coco").data.unlabeled
    assert [(part.samples, part.shards, part.weight) for part in half] == [
        ("train", None, 1),
        ("train+extra", "data/coco", 1),
    ]


def test_ohem_keeps_as_many_pixels_of_a_device_as_published():
    for method, images in (("unimatch", 2), ("fixmatch", 2), ("supervised", 4)):
        config = run_of("cityscapes", method=method)
        assert config.batch.labeled == 4 * images
        assert config.task.config.loss == LossConfig("ohem", 0.7, 200_000 // images)


@pytest.mark.parametrize(
    ("name", "values", "per_epoch"),
    [
        ("cityscapes", {"split": "1_16"}, 349),
        ("pascal", {"split": "1464"}, 1140),
        ("pascal", {"split": "92"}, 1311),
        ("pascal", {"split": "92", "method": "supervised"}, 5),
        ("coco", {"split": "1_512"}, 14757),
        ("acdc", {"split": "7"}, 98),
        ("acdc", {"split": "1", "method": "supervised"}, 1),
        ("levir", {"split": "5"}, 845),
    ],
)
def test_an_epoch_has_the_published_number_of_steps(name, values, per_epoch):
    config = run_of(name, **{"method": "unimatch", **values})
    assert steps_of(config) == per_epoch * config.schedule.epochs


def test_change_detection_has_the_published_heads():
    for name in ("levir", "whu"):
        config = run_of(name, method="unimatch")
        assert config.model.head == Section("deeplabv3plus", DeepLabV3PlusConfig())
        assert config.task.name == "change" and config.task.config.views == ChangeViewConfig(crop=256)
        assert config.task.config.loss.name == "ce" and config.method.config.feature_dropout == 0.5
        pspnet = run_of(name, head="pspnet").model
        assert pspnet.head == Section("pspnet", PSPNetConfig()) and pspnet.encoder.output_stride == 8


def test_acdc_has_the_published_network_and_views():
    config = run_of("acdc", method="unimatch", split="3")
    assert (config.model.encoder.name, config.model.encoder.in_channels) == ("unet", 1)
    assert config.model.head == Section("unet", UNetHeadConfig("bilinear"))
    assert config.task == Section("medical", MedicalTaskConfig(MedicalViewConfig(crop=256)))
    assert config.method.config.feature_dropout == 0.5
    short, plain = (
        load(CONFIGS / "acdc" / f"cpu_{name}_7.yaml", RunConfig) for name in ("unimatch", "supervised")
    )
    assert short.schedule == plain.schedule and short.optimizer == plain.optimizer
    assert plain.batch.labeled == short.batch.labeled + short.batch.unlabeled
