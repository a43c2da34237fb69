"""FixMatch whose pseudo-labels come from an EMA teacher.

Tarvainen & Valpola, Mean teachers are better role models, NeurIPS 2017, section 2: the teacher is the moving
average of the student's weights. The weak and the strong view, the threshold and CutMix are FixMatch's; the
teacher's decay is UniMatch V2's (Yang et al., 2024), and so is its eval mode.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from unimatch.data.sample import Batch
from unimatch.errors import ConfigError
from unimatch.methods.base import METHODS, Logs, Method, Progress, ViewNeeds
from unimatch.methods.fixmatch import FixMatchConfig
from unimatch.methods.ops import (
    mixed_strong,
    partner_pseudo_label,
    pseudo_label,
    pseudo_stats,
    strong_losses,
)
from unimatch.methods.teacher import Teacher, ema_decay


@dataclass
class MeanTeacherConfig(FixMatchConfig):
    """Settings of the mean teacher: those of FixMatch and one more.

    ema_decay: the most of itself that the teacher keeps in a step; before step 1 / (1 - ema_decay) it keeps
        less, 1 - 1 / (step + 1).
    """

    ema_decay: float = 0.996

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.ema_decay < 1.0:
            raise ConfigError(f"ema_decay must lie in [0, 1), found {self.ema_decay}")


@METHODS.register("mean_teacher", MeanTeacherConfig)
class MeanTeacher(Method):
    """L = (1 - w) * L_x + w * L_s, the pseudo-labels of L_s being the teacher's."""

    def begin(self, net: nn.Module) -> None:
        self.teacher = Teacher(net)

    @property
    def views(self) -> ViewNeeds:
        return ViewNeeds(num_strong=1, partner=self.config.mix_partner, unlabeled=True)

    def step(self, net: nn.Module, batch: Batch, progress: Progress) -> tuple[Tensor, Logs]:
        x, u = batch.labeled, batch.unlabeled
        assert u is not None, "a mean teacher needs unlabelled views"
        if progress.step < self.config.burn_in:
            return self.supervised_step(net, x)
        threshold, weight = self.config.threshold, self.config.unsupervised_weight

        partner = partner_pseudo_label(self.teacher.net, u)
        conf, labels = pseudo_label(self.teacher.logits(u.weak))
        net.train()
        logits_x = net(x.image)["logits"]
        logits_s = net(mixed_strong(u))["logits"]

        loss_x = self.supervised_loss(logits_x, x.label) * x.share
        (loss_s,) = strong_losses(self.consistency_loss, logits_s, conf, labels, partner, u, threshold)
        loss = (1.0 - weight) * loss_x + weight * loss_s

        logs = {"loss": loss.detach(), "loss_x": loss_x.detach(), "loss_s": loss_s.detach()}
        return loss, logs | pseudo_stats(conf, labels, u, threshold, num_classes=logits_x.shape[1])

    def after_update(self, net: nn.Module, progress: Progress) -> None:
        self.teacher.update(net, ema_decay(progress.step, self.config.ema_decay))

    def eval_nets(self, net: nn.Module) -> dict[str, nn.Module]:
        return {"ema": self.teacher.net, "model": net}
