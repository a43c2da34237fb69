"""What a shell or a job script has exported changes no figure of a run, and is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from accelerate.utils import DynamoBackend

from tests.support.training import SUPERVISED, Log, bare, built
from unimatch.engine.environment import OVERRULED, REFUSED, TF32, overrule
from unimatch.engine.preflight import preflight
from unimatch.engine.run_config import RunConfig
from unimatch.engine.runtime import Runtime
from unimatch.errors import UserError

# By variable: a value that somebody has exported.
EXPORTED = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_GRADIENT_CLIPPING": "0.01",
    "ACCELERATE_DYNAMO_BACKEND": "EAGER",
    "ACCELERATE_DOWNCAST_BF16": "true",
    "ACCELERATE_FP8_BACKEND": "TE",
    "ACCELERATE_TORCH_DEVICE": "meta",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    TF32: "1",
    "NVIDIA_TF32_OVERRIDE": "1",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "DNNL_DEFAULT_FPMATH_MODE": "BF16",
}


def test_every_variable_of_the_table_is_tried_here():
    assert set(EXPORTED) == {*OVERRULED, "ACCELERATE_MIXED_PRECISION"}


def weights_after_two_steps(config: RunConfig) -> torch.Tensor:
    trainer = built(config)
    trainer.train(Log())
    return torch.cat([parameter.flatten() for parameter in trainer.net.parameters()])


def test_a_run_is_the_same_whatever_is_exported(tiny_run: Path, monkeypatch: pytest.MonkeyPatch):
    config = bare(tiny_run, SUPERVISED, "schedule.steps=2", "optimizer={name: sgd, lr: 0.1}")
    expected = weights_after_two_steps(config)
    for name, value in EXPORTED.items():
        monkeypatch.setenv(name, value)
    config.out = config.out.with_name("exported")
    assert torch.equal(weights_after_two_steps(config), expected)


def test_accelerate_is_told_nothing_by_the_environment(monkeypatch: pytest.MonkeyPatch):
    for name, value in EXPORTED.items():
        monkeypatch.setenv(name, value)
    accelerator = Runtime().accelerator
    assert accelerator.gradient_accumulation_steps == 1
    assert accelerator.state.dynamo_plugin.backend == DynamoBackend.NO
    assert accelerator.mixed_precision == "no"
    assert accelerator.device.type != "meta"


@pytest.mark.parametrize("name", EXPORTED)
def test_each_is_taken_away_and_told_once(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, EXPORTED[name])
    (line,) = overrule("fp32")
    assert line.startswith(f"{name}={EXPORTED[name]} of the environment is not used: ")
    assert name not in os.environ
    assert overrule("fp32") == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"),
        ("ACCELERATE_DYNAMO_BACKEND", "no"),
        ("ACCELERATE_DYNAMO_BACKEND", "NO"),
        ("ACCELERATE_MIXED_PRECISION", "bf16"),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "STRICT"),
    ],
)
def test_what_a_launcher_sets_to_the_runs_own_value_is_not_worth_a_line(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(name, value)
    assert overrule("bf16") == []


def test_torch_has_read_one_of_them_when_it_was_imported(monkeypatch: pytest.MonkeyPatch):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")  # as the import does with the variable
        monkeypatch.setenv(TF32, "1")
        overrule("fp32")
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("name", REFUSED)
def test_another_way_to_lay_out_the_network_is_refused(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, "true")
    with pytest.raises(UserError, match=name):
        Runtime()


def test_the_preflight_names_what_it_overruled(tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    lines = preflight(tiny_config, Runtime(), resume=False)[1].splitlines()
    text = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4 of the environment is not used: batch decides"
    assert lines[-1] == f"  {text}"
