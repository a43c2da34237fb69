"""PrevMatch: UniMatch, guided by earlier states of the network as well.

Shin et al., Revisiting and maximizing temporal knowledge in semi-supervised semantic segmentation, 2024. The
released code keeps a state whenever it is the best one yet on the validation set; here one of every epoch is
kept, so no validation label steers the training.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unimatch import keyed
from unimatch.data.sample import Batch
from unimatch.errors import ConfigError
from unimatch.methods.base import METHODS, Logs, Progress
from unimatch.methods.ops import blind_logits, logged, partner_pseudo_label, pseudo_label, pseudo_stats
from unimatch.methods.teacher import Teacher
from unimatch.methods.unimatch import UniMatch, UniMatchConfig

DRAW = 0x9E7  # keeps a step's choice of copies apart from other keys


@dataclass
class PrevMatchConfig(UniMatchConfig):
    """Settings of PrevMatch: those of UniMatch and three more.

    copies: earlier states that are kept, one an epoch; the oldest one leaves.
    used: the most of them that label a step: how many is uniform from 1.
    previous_threshold: tau of their pseudo-labels.
    """

    copies: int = 8
    used: int = 3
    previous_threshold: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.used <= self.copies:
            raise ConfigError(f"used must be 1 to copies ({self.copies}), found {self.used}")


@METHODS.register("prevmatch", PrevMatchConfig)
class PrevMatch(UniMatch):
    """L = (L_x + L_uni + lambda L_prev) / (2 + lambda): L_prev is L_uni's formula with the labels of earlier
    states, lambda rises from 0 to 1 until half of the run, and falls to 0 at its end.
    """

    elementwise = False  # its copies are whole

    def begin(self, net: nn.Module) -> None:
        self.blank = Teacher(net).net  # what copies are made of
        self.copies: list[nn.Module] = []
        self.epoch = 0

    def step(self, net: nn.Module, batch: Batch, progress: Progress) -> tuple[Tensor, Logs]:
        x, u = batch.labeled, batch.unlabeled
        assert u is not None, "PrevMatch needs unlabelled views"
        if progress.step < self.config.burn_in:
            return self.supervised_step(net, x)
        threshold, weight = self.config.threshold, 0.0
        partner = partner_pseudo_label(net, u)
        logits_x, logits_w, logits_fp, logits_s = self.streams(net, x, u)
        pseudo = pseudo_label(logits_w)
        loss_x = self.supervised_loss(logits_x, x.label) * x.share
        loss_uni, terms = self.guided(logits_fp, logits_s, pseudo, partner, u, threshold)
        loss = loss_x + loss_uni
        if self.copies:
            chosen = self._chosen(progress)
            previous = pseudo_label(_mean_logits(chosen, u.weak))
            theirs = None
            if not u.partner_in_batch:
                assert u.partner is not None
                theirs = pseudo_label(_mean_logits(chosen, u.partner.weak))
            weight = 1.0 - abs(2.0 * progress.step / progress.total_steps - 1.0)
            terms["loss_prev"], _ = self.guided(
                logits_fp, logits_s, previous, theirs, u, self.config.previous_threshold
            )
            loss = loss + weight * terms["loss_prev"]
        loss = loss / (2.0 + weight)
        logs = logged(loss=loss, loss_x=loss_x, **terms)
        return loss, logs | pseudo_stats(*pseudo, u, threshold, num_classes=logits_x.shape[1])

    def _chosen(self, progress: Progress) -> list[tuple[nn.Module, float]]:
        """Copies of this step with their weights, of a flat Dirichlet law: the same on all processes."""
        key = keyed.key(DRAW, progress.step)
        count = keyed.Draws(key).integer(1, min(self.config.used, len(self.copies)) + 1)
        order = keyed.permutation(keyed.key(key, 1), len(self.copies))[:count]
        weights = -np.log1p(-keyed.uniform(keyed.key(key, 2), count))
        weights /= weights.sum()
        return [(self.copies[number], weight) for number, weight in zip(order, weights.tolist(), strict=True)]

    def after_update(self, net: nn.Module, progress: Progress) -> None:
        """Keeps a copy behind the first step of each epoch but the first one."""
        if progress.epoch > self.epoch:
            self._keep(net.state_dict())
            self.epoch = progress.epoch

    def _keep(self, state: dict[str, Any]) -> None:
        one = copy.deepcopy(self.blank)
        one.load_state_dict(state)
        self.copies = [*self.copies, one][-self.config.copies :]

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "copies": [each.state_dict() for each in self.copies]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.copies, self.epoch = [], state["epoch"]
        for each in state["copies"]:
            self._keep(each)


def _mean_logits(chosen: list[tuple[nn.Module, float]], image: Tensor) -> Tensor:
    return torch.stack([weight * blind_logits(each, image) for each, weight in chosen]).sum(0)
