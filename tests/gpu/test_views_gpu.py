"""Views on a GPU against the same functions on the CPU, and that nothing waits for the GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.unit.tasks.test_natural import make_task, raw_micro
from tests.unit.tasks.test_natural_on_device import leaves
from tests.unit.views.test_on_device import EXTREME, draw, images
from unimatch.views.colors import MAX_SIGMA
from unimatch.views.natural import ViewConfig
from unimatch.views.on_device import blur_radius, strong_views

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
