"""Batches on their way to a GPU, beside the computation of the step before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unimatch.data.training import RawMicro


class Copies:
    """Copies to the device on a stream of their own; on other devices than GPUs nothing at all.

    The trainer launches a step and goes on before the device has finished it. Copies on the same stream would
    wait for that step; on their own one they run meanwhile, if they come from pinned memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def start(self, micro: RawMicro) -> RawMicro:
        """The micro-batch on the device; what is launched from now on waits for it, this call does not."""
        if self.stream is None:
            return micro
        with torch.cuda.stream(self.stream):
            moved: Any = {
                name: {key: value.to(self.device, non_blocking=True) for key, value in part.items()}
                if isinstance(part, dict)
                else part
                for name, part in micro.items()
            }
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self.stream)
        for part in moved.values():
            for value in part.values() if isinstance(part, dict) else ():
                assert isinstance(value, Tensor)
                value.record_stream(current)  # its memory is used there: not free before that is done
        result: RawMicro = moved
        return result
