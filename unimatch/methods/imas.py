"""iMAS: every unlabelled image is perturbed, mixed and weighed by how easy it is for student and teacher.

Zhao et al., Instance-specific and model-adaptive supervision for semi-supervised semantic segmentation, CVPR
2023. An image is easy (h near 1) where the two networks agree and are confident.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unimatch import keyed
from unimatch.data.sample import Batch, Unlabeled
from unimatch.losses import PseudoLabels
from unimatch.methods.agreement import confusions, weighted_iou
from unimatch.methods.base import METHODS, Logs, Progress, ViewNeeds
from unimatch.methods.mean_teacher import MeanTeacher
from unimatch.methods.ops import blind_logits, logged, paste, pseudo_label, pseudo_stats
from unimatch.methods.soft import over_all, pixel_means
from unimatch.methods.teacher import TeacherConfig
from unimatch.mixing import joined


@dataclass
class IMASConfig(TeacherConfig):
    """Settings of iMAS; the defaults are those of Pascal.

    threshold: tau.
    weight: of the unsupervised loss.
    left_out: a class that the agreement of the networks leaves out, the background; none: all classes count,
        as they should where class 0 is none (in the released code it is also left out on Cityscapes).
    """

    threshold: float = 0.95
    weight: float = 3.0
    left_out: int | None = 0


@METHODS.register("imas", IMASConfig)
class IMAS(MeanTeacher):
    """L = L_x + w * (L_int + L_cm) / 2, or L_x + w * L_int in a step without CutMix; each is
    mean_i h_i * (sum of kept pixels' CE / pixels), a mixed image having the weight of the one below.
    """

    divided = "images are mixed with those of opposite rank in their micro-batch"

    @property
    def views(self) -> ViewNeeds:
        return ViewNeeds(1, None, unlabeled=True, ops="imas", areas=(("mix", "side"),))

    def step(self, net: nn.Module, batch: Batch, progress: Progress) -> tuple[Tensor, Logs]:
        x, u = batch.labeled, batch.unlabeled
        assert u is not None, "iMAS needs unlabelled views"
        if progress.step < self.config.burn_in:
            return self.supervised_step(net, x)
        threshold = self.config.threshold
        conf, labels = pseudo_label(self.teacher.logits(u.weak))
        own = pseudo_label(blind_logits(net, u.weak))
        easy = self._easiness((conf, labels), own, u)

        # Opposite ranks; with probability mean(h), which all processes draw from the step's own key.
        rank = easy.argsort()
        partner = torch.empty_like(rank).scatter_(0, rank, rank.flip(0))
        draw = keyed.Draws(keyed.key(progress.step)).uniform()
        box = u.areas["mix"] & (self.group.mean(easy.mean()) > draw)
        mixed = paste(u.weak, u.weak[partner], box)
        share = easy.view(-1, *[1] * (u.weak.ndim - 1))
        intensity = share * u.strong[0] + (1.0 - share) * u.weak

        net.train()
        sizes = [len(x.image), *[len(u.weak)] * 3]
        images = joined([x.image, u.weak, mixed, intensity])
        # The weak views take part in the batch-norm alone.
        logits_x, _, logits_cm, logits_int = net(images)["logits"].split(sizes)
        weight = easy[:, None, None].expand_as(conf)
        loss_x = self.supervised_loss(logits_x, x.label) * x.share
        loss_int = self.consistency_loss(
            logits_int, over_all(PseudoLabels(labels, conf, u.valid, threshold, weight))
        )
        mixed_labels, mixed_conf, valid = (
            paste(each, each[partner], box) for each in (labels, conf, u.valid)
        )
        loss_cm = self.consistency_loss(
            logits_cm, over_all(PseudoLabels(mixed_labels, mixed_conf, valid, threshold, weight))
        )
        halves = box.any().float() / 2.0
        loss = loss_x + self.config.weight * ((1.0 - halves) * loss_int + halves * loss_cm)
        logs = logged(loss=loss, loss_x=loss_x, loss_int=loss_int, loss_cm=loss_cm, easy=easy.mean())
        return loss, logs | pseudo_stats(conf, labels, u, threshold, logits_x.shape[1])

    def _easiness(
        self, teacher: tuple[Tensor, Tensor], student: tuple[Tensor, Tensor], u: Unlabeled
    ) -> Tensor:
        """h [B]: the mean over the two networks of the agreement, with the one as reference, times the share
        of pixels that it is confident of.
        """
        shares = [
            pixel_means((conf >= self.config.threshold).float(), u.valid) for conf, _ in (teacher, student)
        ]
        table = confusions(teacher[1], student[1], u.valid, self.num_classes)
        agreements = [weighted_iou(each, self.config.left_out) for each in (table, table.transpose(1, 2))]
        return (agreements[0] * shares[0] + agreements[1] * shares[1]) / 2.0
