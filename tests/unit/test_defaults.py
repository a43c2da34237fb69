"""Defaults that decide what a run computes: with another one, an old configuration means another run."""

from __future__ import annotations

import pytest

from unimatch import config as config_io
from unimatch.engine.run_config import FREE_ON_RESUME, RunConfig
from unimatch.engine.run_folder import flat
from unimatch.methods import METHODS
from unimatch.models.heads import HEADS
from unimatch.packing.recipe import Recipe
from unimatch.tasks import TASKS

REQUIRED = """
out: run
data: {shards: shards, labeled: train}
batch: {labeled: 8}
model: {encoder: {name: resnet50s, weights: none}, head: {name: deeplabv3plus}}
method: {name: supervised}
task: {name: natural, views: {crop: 321}}
optimizer: {lr: 0.1}
schedule: {steps: 100}
"""
RUN = {
    "data.split": None,
    "model.weights": None,
    "data.unlabeled": None,
    "data.skip_ceiling": 0,
    "batch.unlabeled": None,
    "model.encoder.output_stride": 16,
    "model.encoder.in_channels": 3,
    "model.encoder.freeze": False,
    "model.encoder.drop_path": 0.0,
    "model.encoder.positions": "released",
    "optimizer.name": "sgd",
    "optimizer.head_lr_multiplier": 1.0,
    "optimizer.weight_decay": 1e-4,
    "optimizer.momentum": 0.9,
    "optimizer.betas": [0.9, 0.999],
    "optimizer.clip_norm": None,
    "optimizer.decay": "all",
    "optimizer.layer_decay": 1.0,
    "schedule.epochs": None,
    "schedule.epoch_devices": 1,
    "schedule.power": 0.9,
    "schedule.warmup_steps": 0,
    "seed": 0,
    "precision": "fp32",
    "sync_batchnorm": "global",
    "loss_normalization": "global",
}
FIXMATCH = {"threshold": 0.95, "mix_partner": "same", "unsupervised_weight": 0.5, "burn_in": 0}
ST = {"scales": [0.5, 0.75, 1.0, 1.5, 2.0], "flip": True}
METHOD = {
    "supervised": {},
    "cutmix_mt": {
        "burn_in": 0,
        "ema_decay": 0.99,
        "threshold": 0.97,
        "weight": 1.0,
        "mix_partner": "shuffled",
    },
    "cps": {"burn_in": 0, "cutmix": True, "weight": 1.0, "ramp": 0.0, "mix_partner": "shuffled"},
    "augseg": {"burn_in": 0, "ema_decay": 0.999, "threshold": 0.95, "weight": 1.0},
    "corrmatch": {
        **FIXMATCH,
        "threshold": 0.85,
        "feature_dropout": 0.5,
        "momentum": 0.999,
        "segments": 128,
    },
    "prevmatch": {
        **FIXMATCH,
        "feature_dropout": 0.5,
        "copies": 8,
        "used": 3,
        "previous_threshold": 0.9,
    },
    "u2pl": {
        "burn_in": 0,
        "ema_decay": 0.99,
        "mix": "cutmix",
        "unreliable": 20.0,
        "contrast_weight": 1.0,
        "low_rank": 3,
        "high_rank": 20,
        "queue": 5000,
        "width": 256,
    },
    "ps_mt": {
        "burn_in": 0,
        "ema_decay": 0.996,
        "warm_up": 5,
        "threshold": 0.6,
        "weight": 1.5,
        "ramp": 12,
        "boxes": "beta",
        "noise": 2.0,
        "mix_partner": "batch",
    },
    "pseudoseg": {"burn_in": 0, "temperature": 0.5, "weight": 1.0},
    "pc2seg": {
        "burn_in": 0,
        "consistency": 1.0,
        "contrast": 0.1,
        "anchors": 512,
        "negatives": 200,
        "temperature": 0.1,
        "width": 128,
    },
    "ours": {
        "burn_in": 0,
        "ema_decay": 0.99,
        "threshold": 0.9,
        "mix_partner": "batch",
        "weight": 1.0,
        "start_passes": 12.0,
        "start": 0.0,
        "ramp": 0.2,
        "paste": 0.5,
        "class_thresholds": True,
        "trust": True,
    },
    "ua_mt": {"burn_in": 0, "ema_decay": 0.99, "weight": 0.1, "passes": 8},
    "st": ST,
    "st_plus": {**ST, "stable": 0.5, "snapshots": 3},
    "bcp": {"burn_in": 0, "ema_decay": 0.99, "pretrain": 0, "weight": 0.5},
    "imas": {"burn_in": 0, "ema_decay": 0.996, "threshold": 0.95, "weight": 3.0, "left_out": 0},
    "fixmatch": FIXMATCH,
    "mean_teacher": {**FIXMATCH, "ema_decay": 0.996},
    "unimatch": {**FIXMATCH, "feature_dropout": 0.5},
    "unimatch_v2": {
        **FIXMATCH,
        "mix_partner": "batch",
        "ema_decay": 0.996,
        "complementary_dropout": True,
        "pseudo_labels": "teacher",
    },
}
HEAD = {
    "deeplabv3plus": {"rates": [6, 12, 18], "low_channels": 48, "channels": 256},
    "dpt": {"channels": None, "levels_channels": None},
    "linear": {},
    "pspnet": {"bins": [1, 2, 3, 6], "dropout": 0.1},
    "unet": {"upsample": "bilinear"},
}
BLUR_AND_BOX = {
    "views.blur.p": 0.5,
    "views.blur.sigma": [0.1, 2.0],
    "views.box.p": 0.5,
    "views.box.area": [0.02, 0.4],
    "views.box.aspect": [0.3, 1 / 0.3],
}
PHOTOGRAPHS = {
    "views.flip": 0.5,
    "views.jitter.p": 0.8,
    "views.jitter.brightness": 0.5,
    "views.jitter.contrast": 0.5,
    "views.jitter.saturation": 0.5,
    "views.jitter.hue": 0.25,
    **BLUR_AND_BOX,
    "views.device": "auto",
    "loss.name": "ce",
    "loss.ohem_threshold": 0.7,
    "loss.ohem_min_kept_per_image": 100_000,
    "evaluate.mode": "whole",
    "evaluate.window": None,
    "evaluate.stride": None,
    "evaluate.border": "cut",
    "evaluate.multiple_of": 1,
}
TASK = {
    "natural": {**PHOTOGRAPHS, "views.scale": [0.5, 2.0], "views.gray": 0.2},
    "change": {**PHOTOGRAPHS, "views.scale": [0.8, 1.2], "views.gray": 0.0},
    "medical": {
        "views.turn": 0.5,
        "views.rotate": 0.5,
        "views.degrees": 20,
        "views.jitter.p": 0.8,
        "views.jitter.brightness": 0.5,
        "views.jitter.contrast": 0.5,
        **BLUR_AND_BOX,
        "evaluate.per": "volume",
    },
}
RECIPE = {
    "classes_file": None,
    "colors": [],
    "label_kind": "ids",
    "first_id": 0,
    "id_map": {},
    "ignore_id": None,
    "ignore_color": None,
    "segments": None,
    "downscale": 1,
    "label_format": "zst",
    "png": "keep",
    "fast_decode": False,
    "shard_mb": 256,
    "seed": 0,
}


def given(text: str, *overrides: str) -> RunConfig:
    return config_io.from_text(text, RunConfig, overrides)


def test_of_a_run():
    settings = flat(config_io.plain(given(REQUIRED)))
    free = {name for name in settings if name.startswith(FREE_ON_RESUME)}
    named = {name for name in settings if name.split(".")[0] in ("method", "task") or ".head." in name}
    said = {"data.labeled", "batch.labeled", "model.encoder.name", "model.encoder.weights"}
    said |= {"optimizer.lr", "schedule.steps"}
    assert {name: settings[name] for name in settings.keys() - free - named - said} == RUN


@pytest.mark.parametrize("name", METHODS.names())
def test_of_a_method(name):
    assert config_io.plain(METHODS[name].config()) == METHOD[name]


@pytest.mark.parametrize("name", HEADS.names())
def test_of_a_head(name):
    assert config_io.plain(HEADS[name].config()) == HEAD[name]


@pytest.mark.parametrize("name", TASKS.names())
def test_of_a_task(name):
    settings = given(REQUIRED, f"task={{name: {name}, views: {{crop: 256}}}}").task.config
    assert flat(config_io.plain(settings)) == {"views.crop": 256, **TASK[name]}


def test_of_a_recipe():
    text = "subsets: {train: {images: '*.jpg'}}\nclasses: [a, b]\n"
    settings = config_io.plain(config_io.from_text(text, Recipe))
    assert {name: settings[name] for name in RECIPE} == RECIPE
