"""FixMatch whose pseudo-labels come from an EMA teacher.

Tarvainen & Valpola, Mean teachers are better role models, NeurIPS 2017, section 2: the teacher is the moving
average of the student's weights. The weak and the strong view, the threshold and CutMix are FixMatch's; the
teacher's decay is UniMatch V2's (Yang et al., 2024), and so is its eval mode.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from unimatch.data.sample import Batch
from unimatch.methods.base import METHODS, Logs, Method, Progress, ViewNeeds
from unimatch.methods.fixmatch import FixMatchConfig
from unimatch.methods.ops import mixed_strong, partner_pseudo_label, pseudo_label, weak_to_strong
from unimatch.methods.teacher import Teacher, TeacherConfig, ema_decay


@dataclass
class MeanTeacherConfig(TeacherConfig, FixMatchConfig):
    """Settings of the mean teacher: those of FixMatch and of methods with a teacher."""


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
        partner = partner_pseudo_label(self.teacher.net, u)
        pseudo = pseudo_label(self.teacher.logits(u.weak))
        net.train()
        logits_x = net(x.image)["logits"]
        logits_s = net(mixed_strong(u))["logits"]
        return weak_to_strong(self, x, u, logits_x, logits_s, pseudo, partner)

    def after_update(self, net: nn.Module, progress: Progress) -> None:
        self.teacher.update(net, ema_decay(progress.step, self.config.ema_decay))

    def eval_nets(self, net: nn.Module) -> dict[str, nn.Module]:
        return {"ema": self.teacher.net, "model": net}
