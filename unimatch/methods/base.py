"""What every method offers to the engine, and what it is given.

Beside the loss of a step a method may have, all of it made in `begin`:

- `parts`: modules that are trained beside the network: a projection head, a second network. They lie in the
  same wrapper, so that DDP and ZeRO see one module, one call and one backward; in the optimiser, at the rate
  of the head (a second network: its encoder at the encoder's); and in checkpoints, in a file of their own, so
  that evaluation and prediction read the network alone. Under DDP every step must reach each of their
  parameters: a step that does not use them adds `idle`.
- teachers, which are never trained by a gradient: methods.teacher. They are in `eval_nets` or `companions`.
- state that is no module (queues, thresholds): in `state_dict`. It is either equal on all processes, because
  it is changed only by what `group` gathers, or its class says that it is a process's own.
- views and rectangles of more kinds than the task makes by itself: `ViewNeeds`.
- runs that come before it, and label samples: `stages`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from unimatch.data.sample import Batch, Labeled
from unimatch.errors import ConfigError, UserError
from unimatch.losses import PseudoLabels
from unimatch.registry import Registry

METHODS = Registry("method")

MixPartner = Literal["same", "shuffled", "batch"]
SupervisedLoss = Callable[[Tensor, Tensor], Tensor]
"""(logits [B, K, H, W], labels int64 [B, H, W]) -> scalar, a mean over labelled pixels."""
ConsistencyLoss = Callable[[Tensor, PseudoLabels], Tensor]
"""(logits [B, K, H, W], pseudo-labels of these images) -> scalar, a mean over valid pixels."""
Logs = dict[str, Tensor]


@dataclass(frozen=True)
class ViewNeeds:
    """The views of one sample that a method asks of the task's transform.

    Everything random is drawn from the sample's key, so it is the same on any process, on the CPU and on the
    device, and after a resume.
    """

    num_strong: int
    partner: MixPartner | None
    unlabeled: bool
    ops: str | None = None  # list of the strong views' operations, of views.op_lists; None: the task's
    boxes: str | None = None  # law of the CutMix boxes, of views.box_laws; None: task.views.box
    # Further rectangles of each unlabelled sample, a name and a law each: `Unlabeled.areas` as masks.
    areas: tuple[tuple[str, str], ...] = ()
    labeled_areas: tuple[tuple[str, str], ...] = ()  # the same of each labelled sample: `Labeled.areas`
    strong_labeled: bool = False  # a strong view of labelled samples too


@dataclass(frozen=True)
class Stage:
    """A run that is trained before the method's own, whose network labels unlabelled samples for all runs
    behind it: those that no earlier stage has labelled, or of them the most stable ones, see
    engine.stages.
    """

    name: str
    stable: bool = False


class Group(Protocol):
    """The processes of a run, as a method sees them. All of them make each call, in the same order."""

    def mean(self, values: Tensor) -> Tensor:
        """The mean over processes of a tensor, without a gradient: equal on all."""

    def gather(self, values: Tensor) -> Tensor:
        """[W * n, ...]: the tensors [n, ...] of all W processes in their order, without a gradient."""


class Alone:
    """The group of one process."""

    def mean(self, values: Tensor) -> Tensor:
        return values.detach()

    def gather(self, values: Tensor) -> Tensor:
        return values.detach()


@dataclass
class SemiConfig:
    """What all methods with unlabelled images have.

    burn_in: the first steps, which use labelled images alone (L = L_x) and cost a fraction of the others:
        pseudo-labels then come from a network that has learned something. 0, as in the papers: none.
    """

    burn_in: int = 0

    def __post_init__(self) -> None:
        if self.burn_in < 0:
            raise ConfigError(f"burn_in must be at least 0 steps, found {self.burn_in}")


@dataclass(frozen=True)
class Progress:
    """Where the run stands: `step` counts optimiser steps from 0, `epoch` passes over the unlabelled set.

    label_passes: over the labelled pixels in a step, of whose images a crop shows a part.
    """

    step: int
    total_steps: int
    epoch: int
    label_passes: float = math.inf


class Method:
    """The loss of one training step. No backward, no device, no process: those belong to the engine.

    Each mean over pixels is multiplied by its `share`, hence the mean of `loss` and of every logged scalar
    over the micro-batches of all processes is the value of the global batch. `divided` says why a method's
    loss depends on how a global batch is cut into micro-batches all the same; empty: it does not.
    `elementwise`: what `after_update` does to an element of a network depends on the elements in its place
    alone, so that a process can do it to its parts of networks that are parted over all.
    """

    divided: ClassVar[str] = ""
    elementwise: ClassVar[bool] = True
    stages: ClassVar[tuple[Stage, ...]] = ()

    def __init__(
        self,
        config: Any,
        supervised_loss: SupervisedLoss,
        consistency_loss: ConsistencyLoss,
        num_classes: int = 0,
        group: Group | None = None,
    ) -> None:
        """num_classes: of the task, for methods with heads or state for each; group: None for one process."""
        self.config = config
        self.supervised_loss = supervised_loss
        self.consistency_loss = consistency_loss
        self.num_classes = num_classes
        self.group: Group = group or Alone()
        self.parts = nn.ModuleDict()

    @property
    def views(self) -> ViewNeeds:
        """What the transform must produce for `step`."""
        raise NotImplementedError

    def begin(self, net: nn.Module) -> None:
        """Called once, with the network and its first weights, before anything is wrapped around it."""

    def step(self, net: nn.Module, batch: Batch, progress: Progress) -> tuple[Tensor, Logs]:
        """The loss of one micro-batch, a scalar with a graph, and what to log, detached.

        Leaves `net` in train mode. Logs: "loss" and its terms "loss_x", "loss_s" ...; for methods with
        pseudo-labels "kept", the fraction of valid pixels with confidence >= threshold, and "pseudo_hist",
        float [K], the class fractions among those pixels of this micro-batch (all 0 if there are none).
        """
        raise NotImplementedError

    def supervised_step(self, net: nn.Module, x: Labeled) -> tuple[Tensor, Logs]:
        """The supervised loss alone: every step of the baseline, and the burn-in of other methods."""
        net.train()
        loss = self.supervised_loss(net(x.image)["logits"], x.label) * x.share + self.idle()
        return loss, {"loss": loss.detach(), "loss_x": loss.detach()}

    def add_part(self, name: str, part: nn.Module, net: nn.Module) -> None:
        """Keeps a part, on the network's device."""
        device = next(net.parameters()).device
        part.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parts[name] = part

    def share_of(self, mask: Tensor) -> Tensor:
        """The share, as of `Batch`, of a mean over the pixels of a mask that no view has told of: their
        number over the mean number of the micro-batches that all processes compute together.
        """
        count = mask.sum().float()
        return count / self.group.mean(count).clamp(min=1)

    def idle(self) -> Tensor | float:
        """0, with a graph to every parameter of the parts: for a step that does not use them."""
        # Under ZeRO-3 they are elsewhere now, under FSDP some are parts of another type; neither misses them.
        here = (p for p in self.parts.parameters() if type(p) is nn.Parameter and p.numel())
        return sum((0.0 * p.sum() for p in here), 0.0)

    def after_update(self, net: nn.Module, progress: Progress) -> None:
        """Called once after each optimiser step."""

    def eval_nets(self, net: nn.Module) -> dict[str, nn.Module]:
        """The networks to evaluate by name; the first one gives the headline figure."""
        return {"model": net}

    def companions(self) -> dict[str, nn.Module]:
        """The modules beside the network and `eval_nets` that checkpoints hold, by name of their file."""
        return {"parts": self.parts} if len(self.parts) else {}

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs beyond `eval_nets` and `companions`; empty for a method without it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave; UserError if the state is another method's."""
        if state:
            raise UserError(
                f"the checkpoint holds state that {type(self).__name__} does not have "
                f"({', '.join(sorted(state))}); resume it with the method that wrote it"
            )
