"""U2PL: pixels that are too uncertain for a pseudo-label say at least which classes they are not of.

Wang et al., Semi-supervised semantic segmentation using unreliable pseudo-labels, CVPR 2022. A mean teacher
over mixed images, with a contrastive loss whose negatives are the uncertain pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unimatch import keyed
from unimatch.data.sample import Batch
from unimatch.losses import PseudoLabels
from unimatch.methods.base import METHODS, Logs, Progress, ViewNeeds
from unimatch.methods.contrast import Queues
from unimatch.methods.mean_teacher import MeanTeacher
from unimatch.methods.mix import Mix, with_neighbour
from unimatch.methods.ops import logged, pseudo_label, pseudo_stats
from unimatch.methods.parts import ProjectionHead, features_of
from unimatch.methods.reliability import Sorted, class_contrast
from unimatch.methods.soft import entropy
from unimatch.methods.teacher import Teacher, TeacherConfig, ema_decay
from unimatch.mixing import joined


@dataclass
class U2PLConfig(TeacherConfig):
    """Settings of U2PL; the defaults are those of Pascal.

    mix: how the unlabelled images of half of the steps are changed: "cutmix" a box of half the area of the
        neighbour, "classmix" half of the neighbour's classes, "cutout" a box without anything.
    unreliable: percent of the pixels that are uncertain at the start; it falls to 0 linearly.
    contrast_weight: of the contrastive loss: 1 as published, 0.1 as its author later advised.
    low_rank, high_rank: a pixel is a negative of the classes with these ranks among its probabilities; of few
        classes the first is at most half of their number.
    queue: features of a class, `width` numbers each, that are kept; 30000 published, all in the checkpoint.
    """

    ema_decay: float = 0.99
    mix: Mix = "cutmix"
    unreliable: float = 20.0
    contrast_weight: float = 1.0
    low_rank: int = 3
    high_rank: int = 20
    queue: int = 5000
    width: int = 256


@METHODS.register("u2pl", U2PLConfig)
class U2PL(MeanTeacher):
    """L = L_x + L_u + w_c L_c: L_u is the mean over certain pixels times (pixels / certain ones). The queues
    are equal on all processes.
    """

    divided = "certain pixels are a percentile of their micro-batch, and anchors are drawn from it"

    def begin(self, net: Any) -> None:
        super().begin(net)
        self.teacher.buffers = False
        self.add_part("project", ProjectionHead(net.encoder.channels, self.config.width), net)
        self.projector = Teacher(self.parts["project"], buffers=False)
        self.queues = Queues(self.num_classes, self.config.queue)
        self._device = next(net.parameters()).device

    @property
    def views(self) -> ViewNeeds:
        return ViewNeeds(0, "batch", unlabeled=True, areas=(("mix", "half"),))

    def step(self, net: nn.Module, batch: Batch, progress: Progress) -> tuple[Tensor, Logs]:
        x, u = batch.labeled, batch.unlabeled
        assert u is not None, "U2PL needs unlabelled images"
        if progress.step < self.config.burn_in:
            return self.supervised_step(net, x)
        conf, labels = pseudo_label(self.teacher.logits(u.weak))
        mixes = keyed.Draws(keyed.key(progress.step)).bool(0.5)  # all processes in the same steps
        mix = self.config.mix if mixes else None
        image, target, valid = with_neighbour(u, labels, mix, self.num_classes)

        net.train()
        images, key = joined([x.image, image]), torch.cat([x.noise_key, u.noise_key])
        logits, features = features_of(net, images)
        logits_x, logits_s = logits.split([len(x.image), len(image)])
        vectors = self.parts["project"].train()(features, key)
        with torch.no_grad():
            theirs, features = features_of(self.teacher.net.train(), images)
            their_vectors = self.projector.net.train()(features, key)
        probability = theirs.float().softmax(1)
        percent = self.config.unreliable * (1.0 - progress.step / progress.total_steps)
        found = Sorted.of(x, target, valid, entropy(probability), percent)

        loss_x = self.supervised_loss(logits_x, x.label) * x.share
        sure = valid & ~found.unlabeled(found.uncertain)
        scale = valid.sum() / sure.sum().clamp(min=1)
        certain = PseudoLabels(target, torch.ones_like(conf), sure, threshold=0.0)
        loss_s = scale * self.consistency_loss(logits_s, certain)
        ranks = (min(self.config.low_rank, self.num_classes // 2), self.config.high_rank)
        loss_c = class_contrast(vectors, their_vectors, probability, found, ranks, self.queues, self.group)
        loss = loss_x + loss_s + self.config.contrast_weight * loss_c
        logs = logged(loss=loss, loss_x=loss_x, loss_s=loss_s, loss_c=loss_c, sure=1.0 / scale.clamp(min=1))
        return loss, logs | pseudo_stats(conf, labels, u, 0.0, self.num_classes)

    def after_update(self, net: nn.Module, progress: Progress) -> None:
        for teacher, student in ((self.teacher, net), (self.projector, self.parts["project"])):
            if progress.step < self.config.burn_in:
                teacher.copy(student)  # it makes no passes of its own then
            else:
                teacher.update(student, ema_decay(progress.step, self.config.ema_decay))

    def companions(self) -> dict[str, nn.Module]:
        return {**super().companions(), "ema_project": self.projector.net}

    def state_dict(self) -> dict[str, Any]:
        return self.queues.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.queues.load_state_dict(state, self._device)
