"""The natural task with strong views made by the device: the same batch, but for a few grey levels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

from tests.unit.tasks.test_natural import CPU, MEAN, STD, TAXONOMY, PixelNet, make_task, raw_micro
from unimatch.config import load
from unimatch.data.sample import Batch
from unimatch.engine.run_config import RunConfig
from unimatch.errors import ConfigError
from unimatch.tasks import NaturalTask, NaturalTaskConfig
from unimatch.views.natural import ViewConfig

LEVEL = 1 / (255 * min(STD))  # a grey level after normalisation, at most


def leaves(batch: Batch) -> dict[str, torch.Tensor]:
    """Every tensor of a batch, by its path."""
    found: dict[str, torch.Tensor] = {}

    def visit(path: str, value: object) -> None:
        if isinstance(value, torch.Tensor):
            found[path] = value
        elif isinstance(value, tuple):
            for index, one in enumerate(value):
                visit(f"{path}.{index}", one)
        elif dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                visit(f"{path}.{field.name}", getattr(value, field.name))

    visit("", batch)
    return found


@pytest.mark.parametrize("partner", ["same", "shuffled", "batch"])
def test_the_batch_is_the_cpu_paths(partner: str):
    task = make_task()
    raws = [raw_micro(partner, on_device=value) for value in (False, True)]
    counts = [torch.tensor(task.pixel_counts(raw)) for raw in raws]
    assert torch.equal(*counts)
    theirs, ours = (leaves(task.to_device(raw, CPU, counts[0] / 7)) for raw in raws)
    assert set(ours) == set(theirs)
    strong = [name for name in ours if ".strong." in name]
    assert len(strong) == 4  # two views, each with the partner's
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype and value.stride() == theirs[name].stride(), name
        if name in strong:
            assert float((value - theirs[name]).abs().max()) <= 2.01 * LEVEL
            assert float(((value - theirs[name]).abs() > LEVEL / 9).double().mean()) < 1e-3
        else:
            assert torch.equal(value, theirs[name]), name
    weak = ours[".unlabeled.weak"]
    assert not torch.allclose(ours[".unlabeled.strong.0"], weak, atol=0.1), "the views must be strong"


def test_pictures_show_the_views_of_the_cpu_path():
    task = make_task()
    pictures = [
        task.pictures(PixelNet(), task.to_device(raw_micro("same", 4, on_device=value), CPU))["unlabeled"]
        for value in (False, True)
    ]
    difference = np.abs(pictures[0].astype(int) - pictures[1])
    assert pictures[0].shape == pictures[1].shape and difference.max() <= 2 and difference.mean() < 0.01


def test_the_host_never_waits_for_a_value_of_the_device():
    """Tensors without values on a GPU that need not exist: reading one, or mixing devices, would raise."""
    try:
        with FakeTensorMode() as fake:
            fake.from_tensor(torch.zeros(1)).to("cuda", non_blocking=True)
    except RuntimeError:
        pytest.skip(f"torch {torch.__version__} asks the driver even for tensors without values")
    task = make_task()
    for partner in ("same", "batch"):
        raw = raw_micro(partner, size=3, on_device=True)
        counts = torch.tensor(task.pixel_counts(raw))
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            micro = {half: {k: fake.from_tensor(v) for k, v in raw[half].items()} for half in raw}
            batch = task.to_device(micro, torch.device("cuda"), counts)
            for name, value in leaves(batch).items():
                assert value.device.type == "cuda", name


@pytest.mark.parametrize(
    ("device", "without", "with_gpu"),
    [("cpu", False, False), ("accelerator", True, True), ("auto", False, True)],
)
def test_who_makes_the_strong_views(device: str, without: bool, with_gpu: bool):
    config = NaturalTaskConfig(ViewConfig(crop=16, device=device))
    task = NaturalTask(config, TAXONOMY, MEAN, STD)
    assert (task.views_on_device(False), task.views_on_device(True)) == (without, with_gpu)


def test_another_device_is_refused(tiny_run):
    assert load(tiny_run, RunConfig).task.config.views.device == "auto"
    with pytest.raises(
        ConfigError, match="task.views.device: expected one of cpu, accelerator, auto, found 'gpu'"
    ):
        load(tiny_run, RunConfig, ["task.views.device=gpu"])
