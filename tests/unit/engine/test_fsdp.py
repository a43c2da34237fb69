"""A torch whose `fully_shard` cannot do it here is refused before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

from unimatch.engine import fsdp
from unimatch.engine.modes import Fsdp
from unimatch.errors import UserError


def asks_for_gpus(*_: Any, **__: Any) -> None:
    """As torch 2.6 does on CPUs, in the first forward pass."""
    raise AttributeError("'Stream' object has no attribute 'record_event'")


def does_nothing(*_: Any, **__: Any) -> None:
    """Beside gradients that come out as a sum over two processes."""


@pytest.mark.parametrize(
    ("broken", "reason"), [(asks_for_gpus, "no attribute 'record_event'"), (does_nothing, "2 in place of 1")]
)
def test_a_release_that_does_not_average_gradients_is_refused(
    broken: Callable[..., None], reason: str, monkeypatch: pytest.MonkeyPatch
):
    def sharded(probe: torch.nn.Linear, **_: Any) -> None:
        probe.register_forward_pre_hook(broken)

    monkeypatch.setattr(fsdp, "fully_shard", sharded)
    monkeypatch.setattr(torch.Tensor, "full_tensor", lambda gradient: 2 * gradient, raising=False)
    try:
        with pytest.raises(UserError, match=f"FSDP: torch {torch.__version__.split('+')[0]}.*{reason}"):
            fsdp.mesh_of(Fsdp(), torch.device("cpu"), timedelta(seconds=30))
    finally:
        dist.destroy_process_group()
