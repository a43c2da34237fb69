"""Optimiser and schedule as a run uses them: rates, updates and clipping of real steps, by formula."""

from __future__ import annotations

import copy
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.training import SUPERVISED, bare, built, trained
from unimatch.config import Section
from unimatch.engine.optim import OptimizerConfig, build_optimizer, load_state, set_lr
from unimatch.engine.schedule import ScheduleConfig
from unimatch.engine.trainer import Trainer
from unimatch.errors import UserError
from unimatch.models.encoders import EncoderConfig
from unimatch.models.heads.deeplabv3plus import DeepLabV3PlusConfig
from unimatch.models.heads.dpt import DPTConfig
from unimatch.models.segmentor import ModelConfig, build_segmentor

GROUPS = ("encoder", "head")


def test_parts_beside_the_network_have_groups_of_their_own():
    """A second network is trained as the first is, any other part as a head."""
    head = Section("deeplabv3plus", DeepLabV3PlusConfig(channels=8))
    config = ModelConfig(EncoderConfig("test_efficientnet", weights="none"), head)
    net, second = (build_segmentor(config, 3) for _ in range(2))
    beside = torch.nn.ModuleDict({"second": second, "project": torch.nn.Conv2d(4, 4, 1)})
    groups = build_optimizer(net, OptimizerConfig(lr=0.1, head_lr_multiplier=10.0), beside).param_groups
    found = {group["name"]: (group["lr"], len(group["params"])) for group in groups}
    encoder, head = (len(list(part.parameters())) for part in (net.encoder, net.head))
    assert found == {
        "encoder": (0.1, encoder),
        "head": (1.0, head),
        "second_encoder": (0.1, encoder),
        "second_head": (1.0, head),
        "project": (1.0, 2),
    }


class Watched:
    """What each update of a trainer starts from, with which gradients and rates, and what it makes of it."""

    def __init__(self, trainer: Trainer) -> None:
        self.steps: list[dict[str, list]] = []
        trainer.optimizer.register_step_pre_hook(self._before)
        trainer.optimizer.register_step_post_hook(self._after)

    def _before(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        groups = optimizer.param_groups
        assert [group["name"] for group in groups] == list(GROUPS)
        self.steps.append(
            {
                "rate": [group["lr"] for group in groups],
                "grad": [_doubles(p.grad for p in group["params"]) for group in groups],
                "old": [_doubles(group["params"]) for group in groups],
            }
        )

    def _after(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self.steps[-1]["new"] = [_doubles(group["params"]) for group in optimizer.param_groups]


def _doubles(values) -> Tensor:
    """All values of some tensors in one, float64."""
    return torch.cat([value.detach().flatten().double() for value in values])


def config_of(tiny_run: Path, *overrides: str):
    return bare(tiny_run, SUPERVISED, "batch.labeled=2", *overrides)


@pytest.mark.parametrize(
    ("schedule", "multiplier", "factors"),
    [
        ("{steps: 5, power: 1.0}", 1.0, [1.0, 1.0, 0.8, 0.6, 0.4]),
        ("{steps: 5, power: 2.0}", 10.0, [1.0, 1.0, 0.64, 0.36, 0.16]),
        ("{steps: 5}", 1.0, [1.0, 1.0, 0.8**0.9, 0.6**0.9, 0.4**0.9]),
        ("{steps: 5, power: 1.0, warmup_steps: 2}", 0.5, [0.5, 1.0, 0.8, 0.6, 0.4]),
        ("{steps: null, epochs: 2, power: 0.0}", 10.0, [1.0] * 4),
    ],
)
def test_logged_rates_are_those_of_the_update_and_of_the_formula(tiny_run, schedule, multiplier, factors):
    batch = 2 if "epochs: 2" not in schedule else 16  # an epoch is a pass over 34 unlabelled samples
    trainer = built(
        config_of(
            tiny_run,
            f"schedule={schedule}",
            f"optimizer={{lr: 0.02, head_lr_multiplier: {multiplier}}}",
            f"batch.labeled={batch}",
        )
    )
    watched = Watched(trainer)
    lines = trained(trainer)
    assert [line["step"] for line in lines] == list(range(1, len(factors) + 1))
    for name, base in (("lr_encoder", 0.02), ("lr_head", 0.02 * multiplier)):
        assert [line[name] for line in lines] == pytest.approx([base * f for f in factors], rel=1e-12)
    assert [step["rate"] for step in watched.steps] == [[x["lr_encoder"], x["lr_head"]] for x in lines]


UPDATES = [
    "{lr: 0.02, weight_decay: 0.0, momentum: 0.0}",
    "{lr: 0.02, weight_decay: 0.5, momentum: 0.0}",
    "{lr: 0.02, weight_decay: 0.0, momentum: 0.6}",
    "{lr: 0.02, weight_decay: 0.5, momentum: 0.6, head_lr_multiplier: 4.0, clip_norm: 0.3}",
    "{lr: 0.02}",
    "{name: adamw, lr: 0.01, weight_decay: 0.0}",
    "{name: adamw, lr: 0.01, weight_decay: 2.0}",
    "{name: adamw, lr: 0.01, weight_decay: 2.0, betas: [0.5, 0.8], head_lr_multiplier: 4.0, clip_norm: 0.3}",
    "{name: adamw, lr: 0.01, momentum: 0.1}",
]


def sgd(config: OptimizerConfig, rate: float, step: dict, group: int, memory: dict) -> Tensor:
    """The change by momentum on gradient and decay."""
    grad = step["grad"][group] + config.weight_decay * step["old"][group]
    memory[group] = config.momentum * memory.get(group, 0.0) + grad
    return -rate * memory[group]


def adamw(config: OptimizerConfig, rate: float, step: dict, group: int, memory: dict) -> Tensor:
    """The change by two moments without bias, and by a decay that they do not see."""
    grad = step["grad"][group]
    first, second = config.betas
    count, mean, square = memory.get(group, (0, 0.0, 0.0))
    count, mean, square = (
        count + 1,
        first * mean + (1 - first) * grad,
        second * square + (1 - second) * grad**2,
    )
    memory[group] = count, mean, square
    mean, square = mean / (1 - first**count), square / (1 - second**count)
    return -rate * (mean / (square.sqrt() + 1e-8) + config.weight_decay * step["old"][group])


@pytest.mark.parametrize("settings", UPDATES)
def test_updates_are_those_of_the_formula(tiny_run, settings):
    """Every field changes what is expected here; the tolerance is a thousandth of the update itself."""
    config = config_of(tiny_run, f"optimizer={settings}", "schedule={steps: 4, power: 1.0}")
    trainer = built(config)
    watched = Watched(trainer)
    trained(trainer)
    formula = {"sgd": sgd, "adamw": adamw}[config.optimizer.name]
    memory: dict[int, object] = {}
    for step, factor in zip(watched.steps, [1.0, 1.0, 0.75, 0.5], strict=True):
        for group, multiplier in enumerate((1.0, config.optimizer.head_lr_multiplier)):
            expected = formula(
                config.optimizer, config.optimizer.lr * factor * multiplier, step, group, memory
            )
            change = step["new"][group] - step["old"][group]
            rounding = 2.0**-23 * step["old"][group].abs()
            assert expected.abs().mean() > 1e-6
            assert ((change - expected).abs() <= 1e-3 * expected.abs() + 2 * rounding + 1e-9).all()


def test_every_setting_is_tried_above():
    """A new one needs a case."""
    told = " ".join(UPDATES)
    by_group = {"decay", "layer_decay"}  # tried below
    names = {field.name for field in fields(OptimizerConfig)}
    assert by_group < names and all(f"{name}: " in told for name in names - by_group)
    # epoch_devices says how long a run is, which test_steps.py tries.
    schedule = {"steps", "epochs", "power", "warmup_steps", "epoch_devices"}
    assert {field.name for field in fields(ScheduleConfig)} == schedule


def loud(trainer: Trainer, factor: float) -> Trainer:
    """The same with a loss, and so with gradients, `factor` times as large."""
    quiet = trainer.method.supervised_loss
    trainer.method.supervised_loss = lambda *inputs: factor * quiet(*inputs)
    return trainer


@pytest.mark.parametrize("factor", [1e-3, 1e5])
def test_a_huge_gradient_is_clipped_over_all_parameters_and_a_small_one_is_left(tiny_run, factor):
    steps, lines = [], []
    for clip in ("null", "0.25"):
        settings = (f"out={tiny_run.parent / clip}", f"optimizer.clip_norm={clip}", "schedule.steps=1")
        trainer = loud(built(config_of(tiny_run, *settings)), factor)
        watched = Watched(trainer)
        lines += trained(trainer)
        steps += watched.steps
    raw, clipped = (torch.cat(step["grad"]) for step in steps)
    norm = float(raw.norm())
    assert "grad_norm" not in lines[0]
    assert lines[1]["grad_norm"] == pytest.approx(norm, rel=1e-5), "logged as it was before clipping"
    if factor < 1:
        assert norm < 0.2 and torch.equal(clipped, raw)
    else:
        assert norm > 1000
        torch.testing.assert_close(clipped, raw * 0.25 / norm, rtol=1e-4, atol=1e-9)


def test_frozen_parameters_are_in_no_group_and_all_others_in_one(tiny_run):
    trainer = built(config_of(tiny_run))
    first = next(trainer.net.encoder.parameters()).requires_grad_(False)
    groups = build_optimizer(trainer.net, trainer.config.optimizer).param_groups
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in trainer.net.parameters() if p is not first)
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in trainer.net.head.parameters()}


def test_a_rate_is_set_from_its_base_however_often(tiny_run):
    optimizer = built(config_of(tiny_run, "optimizer.head_lr_multiplier=3", "optimizer.lr=0.5")).optimizer
    for factor in (0.5, 0.5, 0.1):
        set_lr(optimizer, factor)
        assert [group["lr"] for group in optimizer.param_groups] == [0.5 * factor, 1.5 * factor]


@pytest.mark.parametrize("field", ["lr", "head_lr_multiplier", "clip_norm"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_what_must_be_positive_is(field, value):
    with pytest.raises(ValueError, match=field):
        OptimizerConfig(**{"lr": 0.1, field: value})


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("decay", ["all", "matrices"])
@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_each_parameter_has_the_rate_of_its_depth_and_the_decay_of_its_kind(
    name: str, decay: str, layer_decay: float
):
    head = Section("dpt", DPTConfig(8, (8, 8, 8, 8)))
    net = build_segmentor(ModelConfig(EncoderConfig("test_vit", "none"), head), 3)
    settings = {"name": name, "decay": decay, "layer_decay": layer_decay, "weight_decay": 0.1}
    groups = build_optimizer(net, OptimizerConfig(lr=0.01, head_lr_multiplier=40, **settings)).param_groups
    found = {id(p): group for group in groups for p in group["params"]}
    for label, parameter in net.named_parameters():
        group = found.pop(id(parameter))
        if label.startswith("head."):
            rate = 0.4
        elif ".blocks." in label:  # six of them; the last one has the whole rate
            rate = 0.01 * layer_decay ** (5 - int(label.split(".")[3]))
        else:
            rate = 0.01 if ".norm." in label else 0.01 * layer_decay**6
        assert group["lr"] == group["base_lr"] == pytest.approx(rate, rel=1e-12), label
        assert group["weight_decay"] == (0.0 if decay == "matrices" and parameter.ndim == 1 else 0.1), label
    assert not found
    by_depth = {f"encoder_{depth:02}" for depth in range(7)}
    assert {group["name"] for group in groups} == {"head"} | (by_depth if layer_decay < 1 else {"encoder"})
    net.encoder.freeze()
    if layer_decay < 1:
        with pytest.raises(UserError, match="layer_decay has no meaning with model.encoder.freeze"):
            build_optimizer(net, OptimizerConfig(lr=0.01, **settings))


@pytest.mark.parametrize("factor", [0.0, 1.5])
def test_a_layer_decay_out_of_range_is_refused(factor: float):
    with pytest.raises(ValueError, match="layer_decay"):
        OptimizerConfig(lr=0.1, layer_decay=factor)


def test_a_frozen_encoder_has_no_group(tiny_run: Path):
    trainer = built(
        config_of(tiny_run, "model.encoder.freeze=true", "optimizer={lr: 0.1}", "schedule.steps=1")
    )
    assert [group["name"] for group in trainer.optimizer.param_groups] == ["head"]
    (line,) = trained(trainer)
    assert line["lr_head"] == 0.1 and "lr_encoder" not in line


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_resumed_optimiser_computes_as_this_program_does(fused: bool | None, layout: torch.memory_format):
    """From one that looped over its parameters, and from weights that lay otherwise in memory."""
    values, gradient = torch.randn(2, 4, 3, 5, 5)
    there = torch.nn.Parameter(values.clone().contiguous(memory_format=layout))
    saved = torch.optim.AdamW([there], lr=0.1, fused=fused)
    there.grad = gradient.clone().contiguous(memory_format=layout)
    saved.step()
    here = torch.nn.Parameter(there.detach().clone().contiguous(memory_format=torch.channels_last))
    now = torch.optim.AdamW([here], lr=0.3, fused=True)
    load_state(now, copy.deepcopy(saved.state_dict()))
    assert now.param_groups[0]["fused"] is True and now.param_groups[0]["lr"] == 0.1
    here.grad = gradient.flip(0).contiguous(memory_format=torch.channels_last)
    there.grad = gradient.flip(0).contiguous(memory_format=layout)
    now.step()
    saved.step()
    assert torch.allclose(here, there, rtol=1e-5, atol=1e-6)
    assert now.state[here]["step"].item() == 2
