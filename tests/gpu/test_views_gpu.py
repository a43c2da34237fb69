"""Views on a GPU against the same functions on the CPU, and that nothing waits for the GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.unit.tasks.test_natural import make_task, raw_micro
from tests.unit.tasks.test_natural_on_device import leaves
from tests.unit.views.test_on_device import EXTREME, draw, images
from tests.unit.views.test_op_lists import noise
from unimatch.keyed import Draws
from unimatch.views.colors import MAX_SIGMA
from unimatch.views.natural import ViewConfig
from unimatch.views.on_device import blur_radius, strong_views
from unimatch.views.op_lists import LISTS, draw_ops, listed_views, row

CONFIG = ViewConfig(crop=160)


def pinned(raw: dict) -> dict:
    return {half: {name: value.pin_memory() for name, value in raw[half].items()} for half in raw}


@pytest.mark.parametrize("config", [CONFIG, EXTREME], ids=["published", "extreme"])
@pytest.mark.parametrize("tf32", [False, True])
def test_views_are_those_of_the_cpu(config: ViewConfig, tf32: bool, gpu: torch.device):
    image = torch.from_numpy(images(160, 120))
    rows = np.stack([[draw(10 * b + v, config).row() for v in range(10)] for b in range(8)])
    colors, radius = torch.from_numpy(rows), blur_radius(MAX_SIGMA)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found = strong_views(image.to(gpu), colors.to(gpu), radius)
    differs = torch.stack(found).cpu() - torch.stack(strong_views(image, colors, radius))
    assert float((differs != 0).double().mean()) < 1e-4
    assert float(differs.abs().max()) <= (4 if config is CONFIG else 30)


@pytest.mark.parametrize("name", LISTS)
def test_views_of_a_list_are_those_of_the_cpu_and_nothing_waits(
    name: str, device: torch.device, request: pytest.FixtureRequest
):
    rows = torch.from_numpy(np.stack([row(draw_ops(Draws(key), name)) for key in range(12)]))[:, None]
    weak = torch.from_numpy(np.stack([noise(key) for key in range(12)]))
    there = weak.to(device), rows.to(device)
    listed_views(*there)  # what is made once may wait
    request.getfixturevalue("no_wait")
    with torch.autocast(device.type, dtype=torch.bfloat16):
        (found,) = listed_views(*there)
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("default")
    (expected,) = listed_views(weak, rows)
    # A level off here and there; operations behind it may make more of it.
    assert float(((found.cpu() - expected).abs() > 1).double().mean()) < 1e-2


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("partner", ["same", "batch"])
def test_a_batch_is_made_without_waiting(partner: str, on_device: bool, gpu: torch.device, no_wait: None):
    task, raw = make_task(), pinned(raw_micro(partner, on_device=on_device))
    shares = torch.tensor(task.pixel_counts(raw)) / 7
    batch = task.to_device(raw, gpu, shares)
    torch.cuda.set_sync_debug_mode("default")
    expected = leaves(task.to_device(raw, torch.device("cpu"), shares))
    for name, value in leaves(batch).items():
        assert torch.allclose(value.cpu().double(), expected[name].double(), atol=0.05), name
