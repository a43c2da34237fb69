"""What every method offers to the engine, and what it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from unimatch.data.sample import Batch, Labeled
from unimatch.errors import UserError
from unimatch.registry import Registry

METHODS = Registry("method")

MixPartner = Literal["same", "shuffled", "batch"]
SupervisedLoss = Callable[[Tensor, Tensor], Tensor]
"""(logits [B, K, H, W], labels int64 [B, H, W]) -> scalar, a mean over labelled pixels."""
ConsistencyLoss = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""(logits [B, K, H, W], labels, conf, valid [B, H, W], threshold) -> scalar, a mean over valid pixels."""
Logs = dict[str, Tensor]


@dataclass(frozen=True)
class ViewNeeds:
    """The views of one sample that a method asks of the task's transform."""

    num_strong: int
    partner: MixPartner | None
    unlabeled: bool


@dataclass(frozen=True)
class Progress:
    """Where the run stands: `step` counts optimiser steps from 0, `epoch` passes over the unlabelled set."""

    step: int
    total_steps: int
    epoch: int


class Method:
    """The loss of one training step. No backward, no device, no process: those belong to the engine.

    Each mean over pixels is multiplied by its `share`, hence the mean of `loss` and of every logged scalar
    over the micro-batches of all processes is the value of the global batch.
    """

    def __init__(
        self, config: Any, supervised_loss: SupervisedLoss, consistency_loss: ConsistencyLoss
    ) -> None:
        self.config = config
        self.supervised_loss = supervised_loss
        self.consistency_loss = consistency_loss

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
        loss = self.supervised_loss(net(x.image)["logits"], x.label) * x.share
        return loss, {"loss": loss.detach(), "loss_x": loss.detach()}

    def after_update(self, net: nn.Module, progress: Progress) -> None:
        """Called once after each optimiser step."""

    def eval_nets(self, net: nn.Module) -> dict[str, nn.Module]:
        """The networks to evaluate by name; the first one gives the headline figure."""
        return {"model": net}

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs beyond the networks of `eval_nets`; empty for a method without it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave; UserError if the state is another method's."""
        if state:
            raise UserError(
                f"the checkpoint holds state that {type(self).__name__} does not have "
                f"({', '.join(sorted(state))}); resume it with the method that wrote it"
            )
