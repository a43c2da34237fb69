"""An image that does not fit into memory in one pass is refused before it is tried."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from unimatch.engine import memory
from unimatch.errors import DataError


class Net(nn.Module):
    """The largest layer takes 4 channels at full size and gives 8."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1)
        self.last = nn.Conv2d(8, 2, 1, stride=2)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.last(self.second(self.first(image)))}


def test_the_need_is_that_of_the_largest_layer_and_the_image() -> None:
    net = Net().train()
    assert memory.bytes_a_pixel(net, (3,)) == 4 * (4 + 8 + 3)
    assert not net.training and not any(module._forward_hooks for module in net.modules())


def test_what_does_not_fit_is_refused_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 60 * 1000 * 2000)
    memory.refuse_too_large(Net(), (1, 1000, 2000, 3), torch.device("cpu"))
    with pytest.raises(DataError, match=r"2001x1000 pixels need at least 0.1 GB .* 0.1 GB are free.*sliding"):
        memory.refuse_too_large(Net(), (1, 1000, 2001, 3), torch.device("cpu"))


def test_the_control_group_bounds_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    free = memory.free_bytes(torch.device("cpu"))
    assert free > 1 << 20
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes(torch.device("cpu")) > 1 << 20
    (tmp_path / "memory.max").write_text("5000\n")
    assert memory.free_bytes(torch.device("cpu")) == 4000
