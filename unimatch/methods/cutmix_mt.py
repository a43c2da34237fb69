"""CutMix mean teacher: the student is to give, on a mixed image, the mixture of the teacher's probabilities.

French et al., Semi-supervised semantic segmentation needs strong, varied perturbations, BMVC 2020, with the
confidence of the released code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unimatch.data.sample import Batch
from unimatch.methods.base import METHODS, Logs, MixPartner, Progress, ViewNeeds
from unimatch.methods.mean_teacher import MeanTeacher
from unimatch.methods.ops import logged, mixed_strong, partner_logits, paste, pseudo_label, pseudo_stats
from unimatch.methods.soft import squared_error
from unimatch.methods.teacher import TeacherConfig


@dataclass
class CutMixMTConfig(TeacherConfig):
    """Settings of the CutMix mean teacher.

    threshold: the consistency loss is multiplied by the share of pixels with at least this confidence.
    weight: of the consistency loss; the paper's has no ramp.
    mix_partner: as in FixMatch; the released code mixes two orders of the unlabelled set.
    """

    ema_decay: float = 0.99
    threshold: float = 0.97
    weight: float = 1.0
    mix_partner: MixPartner = "shuffled"


@METHODS.register("cutmix_mt", CutMixMTConfig)
class CutMixMT(MeanTeacher):
    """L = L_x + w * q * mean_i ||p_i - t_i||^2: t is the teacher's, q the share of confident pixels."""

    @property
    def views(self) -> ViewNeeds:
        return ViewNeeds(1, self.config.mix_partner, unlabeled=True, boxes="half")

    def step(self, net: nn.Module, batch: Batch, progress: Progress) -> tuple[Tensor, Logs]:
        x, u = batch.labeled, batch.unlabeled
        assert u is not None, "a mean teacher needs unlabelled views"
        if progress.step < self.config.burn_in:
            return self.supervised_step(net, x)
        threshold, valid = self.config.threshold, u.mixed_valid[0]

        logits_w = self.teacher.logits(u.weak)
        mixed = paste(logits_w, partner_logits(self.teacher.logits, logits_w, u), u.boxes[0])
        target = mixed.float().softmax(1)

        net.train()
        logits_x = net(x.image)["logits"]
        logits_s = net(mixed_strong(u))["logits"]

        confident = valid & (target.amax(1) >= threshold)
        # Of all processes' micro-batches that are computed together.
        kept, all_valid = self.group.mean(torch.stack([confident.sum(), valid.sum()]).float())
        loss_x = self.supervised_loss(logits_x, x.label) * x.share
        loss_s = kept / all_valid.clamp(min=1) * squared_error(logits_s, target, valid) * u.mixed_share[0]
        loss = loss_x + self.config.weight * loss_s
        logs = logged(loss=loss, loss_x=loss_x, loss_s=loss_s)
        return loss, logs | pseudo_stats(*pseudo_label(logits_w), u, threshold, logits_w.shape[1])
