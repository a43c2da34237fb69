"""The processes of a run as methods see them: `unimatch.methods.base.Group`."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from unimatch.engine import waits
from unimatch.engine.runtime import Runtime


class Processes:
    """The group of all processes of a runtime; tensors are on its device."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def mean(self, values: Tensor) -> Tensor:
        with waits.waiting():
            return self._runtime.sum_on_device(values.detach()) / self._runtime.world

    def gather(self, values: Tensor) -> Tensor:
        if self._runtime.world == 1:
            return values.detach()
        found = [torch.empty_like(values) for _ in range(self._runtime.world)]
        with waits.waiting():
            dist.all_gather(found, values.detach().contiguous())
        return torch.cat(found)
