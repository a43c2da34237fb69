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
        self._followed: nn.Module | None = None

    @torch.no_grad()
    def logits(self, image: Tensor) -> Tensor:
        """[B, K, H, W], in eval mode and without a graph."""
        logits: Tensor = self.net.eval()(image)["logits"]
        return logits

    @torch.no_grad()
    def update(self, student: nn.Module, decay: float) -> None:
        """Float parameters and buffers: decay * own + (1 - decay) * student's; integer ones are copied."""
        if self._followed is not student:
            self._follow(student)
        torch._foreach_lerp_(*self._floats, 1.0 - decay)
        if self._integers[0]:
            torch._foreach_copy_(*self._integers)

    def _follow(self, student: nn.Module) -> None:
        """Finds the tensors of both networks: 4 ms of a ResNet-101 that need not be spent in every step.

        At the first update, when all that wraps the student is around it; then its tensors change in place.
        """
        own, other = self.net.state_dict(keep_vars=True), student.state_dict(keep_vars=True)
        floats = [name for name, value in own.items() if value.is_floating_point()]
        integers = [name for name in own if name not in set(floats)]
        self._floats = [own[name] for name in floats], [other[name] for name in floats]
        self._integers = [own[name] for name in integers], [other[name] for name in integers]
        self._followed = student
