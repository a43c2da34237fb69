"""BCP: labelled and unlabelled images pasted into each other, both ways.

Bai et al., Bidirectional copy-paste for semi-supervised medical image segmentation, CVPR 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unimatch.data.sample import Batch
from unimatch.methods.base import METHODS, Logs, Progress, ViewNeeds
from unimatch.methods.components import largest_components
from unimatch.methods.mean_teacher import MeanTeacher
from unimatch.methods.ops import logged, paste, pseudo_label, pseudo_stats, swap_pairs
from unimatch.methods.teacher import TeacherConfig
from unimatch.taxonomy import IGNORE_INDEX


@dataclass
class BCPConfig(TeacherConfig):
    """Settings of BCP.

    pretrain: the first steps, which paste labelled images into each other; 10000 of the published runs,
        before another 30000.
    weight: of a pixel with a pseudo-label; one with a label has 1.
    """

    ema_decay: float = 0.99
    pretrain: int = 0
    weight: float = 0.5


@METHODS.register("bcp", BCPConfig)
class BCP(MeanTeacher):
    """L = L_in + L_out: labelled pixels' supervised loss + w times that of pseudo-labelled ones, of
    unlabelled images in labelled ones and of labelled images in unlabelled ones. The teacher labels in train
    mode, and of each class but the first only the largest component counts. The student is evaluated.
    """

    @property
    def views(self) -> ViewNeeds:
        return ViewNeeds(0, None, unlabeled=True, areas=(("paste", "two_thirds"),))

    def step(self, net: nn.Module, batch: Batch, progress: Progress) -> tuple[Tensor, Logs]:
        x, u = batch.labeled, batch.unlabeled
        assert u is not None, "BCP needs unlabelled images"
        if progress.step < self.config.burn_in:
            return self.supervised_step(net, x)
        # In proportion, where there are more images of one kind: so the pairs do not depend on how a batch is
        # cut into micro-batches.
        count = max(len(x.image), len(u.weak))
        order = torch.arange(count, device=x.label.device)
        donor, base = order * len(x.image) // count, order * len(u.weak) // count
        image, label, box = x.image[donor], x.label[donor], u.areas["paste"][base]
        net.train()
        if progress.step < self.config.pretrain:
            logits = net(paste(image, swap_pairs(x.image)[donor], box))["logits"]
            target = paste(label, swap_pairs(x.label)[donor], box)
            loss = self.supervised_loss(logits, target) * self.share_of(target != IGNORE_INDEX)
            return loss, logged(loss=loss, loss_x=loss)

        conf, labels = pseudo_label(self.teacher.logits(u.weak, train=True))
        labels = largest_components(labels, self.num_classes)
        pseudo = labels.masked_fill(~u.valid, IGNORE_INDEX)[base]
        weak = u.weak[base]
        # An unlabelled image in the box of a labelled one, and the other way round.
        logits_in = net(paste(image, weak, box))["logits"]
        logits_out = net(paste(weak, image, box))["logits"]
        loss_x = self._within(logits_in, label, ~box) + self._within(logits_out, label, box)
        loss_u = self._within(logits_in, pseudo, box) + self._within(logits_out, pseudo, ~box)
        loss = loss_x + self.config.weight * loss_u
        logs = logged(loss=loss, loss_x=loss_x, loss_u=loss_u)
        return loss, logs | pseudo_stats(conf, labels, u, 0.0, self.num_classes)

    def _within(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """The supervised loss over the pixels of a mask."""
        labels = labels.masked_fill(~mask, IGNORE_INDEX)
        return self.supervised_loss(logits, labels) * self.share_of(labels != IGNORE_INDEX)

    def after_update(self, net: nn.Module, progress: Progress) -> None:
        if progress.step < max(self.config.burn_in, self.config.pretrain):
            self.teacher.copy(net)
        else:
            self.teacher.update(net, self.config.ema_decay)

    def eval_nets(self, net: nn.Module) -> dict[str, nn.Module]:
        return {"model": net, "ema": self.teacher.net}
