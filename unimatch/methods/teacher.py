"""An EMA teacher: a second network that follows the student's weights and is never trained itself."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def ema_decay(step: int, limit: float) -> float:
    """The decay at a step, counted from 0: min(1 - 1 / (step + 1), limit), so the first one copies (V2)."""
    return min(1.0 - 1.0 / (step + 1), limit)


class Teacher:
    """A copy of a network in eval mode and without gradients; fp32, like the weights that it follows.

    It lies outside whatever wraps the student, whole on every process. `update` needs the student's whole
    parameters, which a method's `after_update` has under every layout; the processes' teachers then stay
    equal, but for batch-norm statistics where those are not synchronised.
    """

    def __init__(self, student: nn.Module) -> None:
        self.net = copy.deepcopy(student).eval().requires_grad_(False)

    @torch.no_grad()
    def logits(self, image: Tensor) -> Tensor:
        """[B, K, H, W], in eval mode and without a graph, in the precision of the run.

        Not in torch's inference mode: its results could not be kept for the backward pass of the losses that
        they are the targets of, but would have to be copied.
        """
        logits: Tensor = self.net.eval()(image)["logits"]
        return logits

    @torch.no_grad()
    def update(self, student: nn.Module, decay: float) -> None:
        """Float parameters and buffers: decay * own + (1 - decay) * student's; integer ones are copied."""
        own, other = self.net.state_dict(), student.state_dict()
        floats = [name for name, value in own.items() if value.is_floating_point()]
        torch._foreach_lerp_([own[name] for name in floats], [other[name] for name in floats], 1.0 - decay)
        for name in own.keys() - set(floats):
            own[name].copy_(other[name])
