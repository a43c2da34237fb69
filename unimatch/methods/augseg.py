"""AugSeg: operations of a random list for every view, and labelled crops for images that are not confident.

Zhao et al., Augmentation matters: A simple-yet-effective approach to semi-supervised semantic segmentation,
CVPR 2023.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unimatch.data.sample import Batch, Labeled, Unlabeled
from unimatch.losses import PseudoLabels
from unimatch.methods.base import METHODS, Logs, Progress, ViewNeeds
from unimatch.methods.mean_teacher import MeanTeacher
from unimatch.methods.ops import keyed_uniform, logged, paste, pseudo_label, pseudo_stats
from unimatch.methods.soft import entropy, over_all, pixel_means
from unimatch.methods.teacher import TeacherConfig, ema_decay
from unimatch.mixing import joined
from unimatch.taxonomy import IGNORE_INDEX


@dataclass
class AugSegConfig(TeacherConfig):
    """Settings of AugSeg; the defaults are those of Pascal.

    threshold: tau; below 0 keeps every pixel, as published for Cityscapes.
    weight: of the unsupervised loss.
    """

    ema_decay: float = 0.999
    threshold: float = 0.95
    weight: float = 1.0


@METHODS.register("augseg", AugSegConfig)
class AugSeg(MeanTeacher):
    """L = L_x + w * L_u, L_u over all pixels of images that are mixed with others of the micro-batch."""

    divided = "images are mixed with others of their micro-batch, in an order that is drawn from its keys"

    @property
    def views(self) -> ViewNeeds:
        areas = (("labeled", "beta_labeled"),)
        return ViewNeeds(1, None, unlabeled=True, ops="augseg", boxes="beta", areas=areas)

    def step(self, net: nn.Module, batch: Batch, progress: Progress) -> tuple[Tensor, Logs]:
        x, u = batch.labeled, batch.unlabeled
        assert u is not None, "AugSeg needs unlabelled views"
        if progress.step < self.config.burn_in:
            return self.supervised_step(net, x)
        threshold = self.config.threshold
        logits_w = self.teacher.logits(u.weak)
        probability, (conf, labels) = logits_w.float().softmax(1), pseudo_label(logits_w)
        # 1 for an image of certain pixels, 0 for one whose classes are all as likely.
        certain = (1.0 - entropy(probability) / math.log(probability.shape[1])) * conf
        image, conf_s, labels_s, valid = mixed_with_labeled(x, u, conf, labels, pixel_means(certain, u.valid))

        net.train()
        logits_x, logits_s = net(joined([x.image, image]))["logits"].split([len(x.image), len(image)])
        loss_x = self.supervised_loss(logits_x, x.label) * x.share
        loss_s = self.consistency_loss(logits_s, over_all(PseudoLabels(labels_s, conf_s, valid, threshold)))
        loss = loss_x + self.config.weight * loss_s
        logs = logged(loss=loss, loss_x=loss_x, loss_s=loss_s)
        return loss, logs | pseudo_stats(conf, labels, u, threshold, logits_w.shape[1])

    def after_update(self, net: nn.Module, progress: Progress) -> None:
        """In the first epoch the teacher is the student."""
        decay = ema_decay(progress.step, self.config.ema_decay) if progress.epoch else 0.0
        self.teacher.update(net, decay)


def mixed_with_labeled(
    x: Labeled, u: Unlabeled, conf: Tensor, labels: Tensor, certain: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(image, conf, labels, valid) of the strong views, each with a box of another one, which itself has,
    with probability 1 - certain [B], a box of a labelled crop: the same order says whose.
    """
    order = u.noise_key.argsort()
    donor = order % len(x.image)
    wanted = keyed_uniform(u.noise_key, 1)[:, 0] >= certain
    box = u.areas["labeled"] & wanted[:, None, None]
    label = x.label[donor]
    lent = (
        paste(u.strong[0], x.image[donor], box),
        paste(conf, torch.ones_like(conf), box),
        paste(labels, label, box),
        paste(u.valid, label != IGNORE_INDEX, box),
    )
    own = (u.strong[0], conf, labels, u.valid)
    image, conf, labels, valid = (
        paste(one, other[order], u.boxes[0]) for one, other in zip(own, lent, strict=True)
    )
    return image, conf, labels, valid
