"""UniMatch V2: a teacher's pseudo-labels, and two strong views that see complementary halves of the features.

Yang et al., UniMatch V2: Pushing the limit of semi-supervised semantic segmentation, 2024, section 3. The
weak view never goes through the student.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from unimatch.data.sample import Batch, Unlabeled
from unimatch.methods.base import METHODS, Logs, MixPartner, Progress, ViewNeeds
from unimatch.methods.mean_teacher import MeanTeacher, MeanTeacherConfig
from unimatch.methods.ops import (
    complementary_dropout,
    mixed_strong,
    partner_pseudo_label,
    pseudo_label,
    weak_to_strong,
)


@dataclass
class UniMatchV2Config(MeanTeacherConfig):
    """Settings of UniMatch V2: those of the mean teacher and two more.

    complementary_dropout: whether the two strong views share the channels of the features between them.
    pseudo_labels: whose they are. The released change detection has the student's own, and keeps the teacher
        for evaluation.
    """

    mix_partner: MixPartner = "batch"
    complementary_dropout: bool = True
    pseudo_labels: Literal["teacher", "student"] = "teacher"


@METHODS.register("unimatch_v2", UniMatchV2Config)
class UniMatchV2(MeanTeacher):
    """L = (1 - w) * L_x + w * (L_s1 + L_s2) / 2."""

    @property
    def views(self) -> ViewNeeds:
        return ViewNeeds(num_strong=2, partner=self.config.mix_partner, unlabeled=True)

    def step(self, net: nn.Module, batch: Batch, progress: Progress) -> tuple[Tensor, Logs]:
        x, u = batch.labeled, batch.unlabeled
        assert u is not None, "UniMatch V2 needs unlabelled views"
        if progress.step < self.config.burn_in:
            return self.supervised_step(net, x)
        conf, labels, partner = self._pseudo_labels(net, u)

        net.train()
        logits_x = net(x.image)["logits"]
        perturb = complementary_dropout(u.noise_key) if self.config.complementary_dropout else None
        logits_s = net(mixed_strong(u), perturb=perturb)["logits"]
        return weak_to_strong(self, x, u, logits_x, logits_s, (conf, labels), partner)

    def _pseudo_labels(
        self, net: nn.Module, u: Unlabeled
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """(conf, labels) of the weak views, and of what is pasted, see ops.partner_pseudo_label."""
        if self.config.pseudo_labels == "teacher":
            return *pseudo_label(self.teacher.logits(u.weak)), partner_pseudo_label(self.teacher.net, u)
        partner = partner_pseudo_label(net, u)
        net.train()
        with torch.no_grad():
            conf, labels = pseudo_label(net(u.weak)["logits"])
        torch.clear_autocast_cache()  # of weights that were cast without a graph
        return conf, labels, partner
