"""An EMA teacher: a second network that follows the student's weights and is never trained itself."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unimatch.errors import ConfigError
from unimatch.methods.base import SemiConfig


@dataclass
class TeacherConfig(SemiConfig):
    """What all methods with an EMA teacher have.

    ema_decay: the most of itself that the teacher keeps in a step; before step 1 / (1 - ema_decay) it keeps
        less, 1 - 1 / (step + 1).
    """

    ema_decay: float = 0.996

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.ema_decay < 1.0:
            raise ConfigError(f"ema_decay must lie in [0, 1), found {self.ema_decay}")


def ema_decay(step: int, limit: float) -> float:
    """The decay at a step, counted from 0: min(1 - 1 / (step + 1), limit), so the first one copies (V2)."""
    return min(1.0 - 1.0 / (step + 1), limit)


class Teacher:
    """A copy of a network without gradients; fp32, like the weights that it follows.

    buffers: whether its batch-norm statistics follow the student's; else they are its own, of the passes that
    it makes in train mode.

    No gradient reaches it, so whatever wraps the student to train it leaves it alone. `update` and `copy`
    belong into a method's `after_update`, where student and teacher are whole on every process or, both
    alike, this process's parts; the processes' teachers then stay equal, but for batch-norm statistics where
    those are not synchronised.
    """

    def __init__(self, student: nn.Module, buffers: bool = True) -> None:
        self.net = copy.deepcopy(student).eval().requires_grad_(False)
        self.buffers = buffers
        self._followed: nn.Module | None = None

    @torch.inference_mode()
    def logits(self, image: Tensor, train: bool = False) -> Tensor:
        """[B, K, H, W] in torch's inference mode, with the network in eval or in train mode, in the precision
        of the run. No loss can keep them for backward; what is made of them (a softmax, labels) it can.
        """
        logits: Tensor = self.net.train(train)(image)["logits"]
        return logits

    @torch.no_grad()
    def copy(self, student: nn.Module) -> None:
        """Everything becomes the student's."""
        theirs = student.state_dict(keep_vars=True)
        for name, own in self.net.state_dict(keep_vars=True).items():
            own.copy_(theirs[name])

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
        own: dict[str, Tensor] = dict(self.net.named_parameters())
        other: dict[str, Tensor] = dict(student.named_parameters())
        if self.buffers:
            own, other = self.net.state_dict(keep_vars=True), student.state_dict(keep_vars=True)
        floats = [name for name, value in own.items() if value.is_floating_point()]
        integers = [name for name in own if name not in set(floats)]
        self._floats = [own[name] for name in floats], [other[name] for name in floats]
        self._integers = [own[name] for name in integers], [other[name] for name in integers]
        self._followed = student
