"""PS-MT: two teachers that follow the student in turns, and noise that is made against both of them.

Liu et al., Perturbed and strict mean teachers for semi-supervised semantic segmentation, CVPR 2022.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from unimatch.data.sample import Batch
from unimatch.losses import PseudoLabels
from unimatch.methods.adversarial import against
from unimatch.methods.base import METHODS, Logs, Method, MixPartner, Progress, ViewNeeds
from unimatch.methods.ops import logged, mixed_strong, partner_logits, paste, pseudo_label, pseudo_stats
from unimatch.methods.parts import second_network
from unimatch.methods.teacher import Teacher, TeacherConfig

AGREEING = 7  # classes of the teacher that rests which count


@dataclass
class PSMTConfig(TeacherConfig):
    """Settings of PS-MT; the defaults are those of Pascal's blended splits.

    warm_up: the first epochs, in which student and teachers each learn from labels alone.
    threshold: pixels with at least this confidence count, by it.
    weight: of the unsupervised loss after `ramp` epochs behind the warm-up.
    boxes: the law of the boxes: "beta" one of Pascal, "three" of Cityscapes.
    noise: the length of the noise of an image's deepest feature.
    """

    warm_up: int = 5
    threshold: float = 0.6
    weight: float = 1.5
    ramp: int = 12
    boxes: Literal["beta", "three"] = "beta"
    noise: float = 2.0
    mix_partner: MixPartner = "batch"


@METHODS.register("ps_mt", PSMTConfig)
class PSMT(Method):
    """L = L_x + w(t) L_u: L_u is the mean over confident pixels of conf * CE; the student's features have
    noise in both. The first teacher is the network to evaluate.
    """

    def begin(self, net: nn.Module) -> None:
        self.teachers = (Teacher(net), Teacher(net))
        if self.config.warm_up:
            for name in ("first", "second"):
                self.add_part(name, second_network(net), net)

    @property
    def views(self) -> ViewNeeds:
        return ViewNeeds(
            1, self.config.mix_partner, unlabeled=True, boxes=self.config.boxes, strong_labeled=True
        )

    def step(self, net: nn.Module, batch: Batch, progress: Progress) -> tuple[Tensor, Logs]:
        x, u = batch.labeled, batch.unlabeled
        assert u is not None and x.strong is not None, "PS-MT needs strong views of both kinds"
        if progress.step < self.config.burn_in:
            return self.supervised_step(net, x)
        if progress.epoch < self.config.warm_up:
            logits = [net.train()(x.strong)["logits"]]
            logits += [part.train()(x.image)["logits"] for part in self.parts.values()]
            losses = [self.supervised_loss(each, x.label) * x.share for each in logits]
            return sum(losses[1:], losses[0]), logged(loss=sum(losses[1:], losses[0]), loss_x=losses[0])

        own = self._averaged(u.weak, progress)
        target = paste(own, partner_logits(lambda image: self._averaged(image, progress), own, u), u.boxes[0])
        heads = [teacher.net for teacher in self.teachers]
        net.train()
        logits_x = net(x.strong, perturb=against(heads, x.noise_key, self.config.noise))["logits"]
        logits_s = net(mixed_strong(u), perturb=against(heads, u.noise_key, self.config.noise))["logits"]

        conf, labels = pseudo_label(target)
        kept = u.mixed_valid[0] & (conf >= self.config.threshold)
        loss_x = self.supervised_loss(logits_x, x.label) * x.share
        pseudo = PseudoLabels(labels, conf, kept, threshold=0.0, weight=conf)
        loss_s = self.consistency_loss(logits_s, pseudo) * self.share_of(kept)
        done = min(1.0, (progress.epoch - self.config.warm_up) / max(1, self.config.ramp))
        loss = loss_x + self.config.weight * 0.5 * (1.0 - math.cos(math.pi * done)) * loss_s + self.idle()
        logs = logged(loss=loss, loss_x=loss_x, loss_s=loss_s)
        return loss, logs | pseudo_stats(
            *pseudo_label(own), u, self.config.threshold, num_classes=logits_x.shape[1]
        )

    def _averaged(self, image: Tensor, progress: Progress) -> Tensor:
        """The mean logits of both teachers, in train mode; where a class is not among the likeliest of the
        one that rests, that of the other one alone.
        """
        current, other = (self.teachers[number].logits(image, train=True) for number in _turn(progress))
        likeliest = other.topk(min(AGREEING, other.shape[1]), dim=1).indices
        among = torch.zeros_like(other, dtype=torch.bool).scatter(1, likeliest, True)
        return (current + torch.where(among, other, current)) / 2.0

    def after_update(self, net: nn.Module, progress: Progress) -> None:
        if progress.step < self.config.burn_in or progress.epoch < self.config.warm_up:
            students = self.parts.values() if len(self.parts) else (net, net)
            for teacher, student in zip(self.teachers, students, strict=True):
                teacher.copy(student)
        else:
            self.teachers[_turn(progress)[0]].update(net, self.config.ema_decay)

    def eval_nets(self, net: nn.Module) -> dict[str, nn.Module]:
        return {"ema": self.teachers[0].net, "ema2": self.teachers[1].net, "model": net}


def _turn(progress: Progress) -> tuple[int, int]:
    """Numbers of the teacher that follows the student in this epoch, and of the one that rests."""
    return (0, 1) if progress.epoch % 2 else (1, 0)
