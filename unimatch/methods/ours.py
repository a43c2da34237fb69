"""A recipe that begins as the baseline and takes pseudo-labels in as far as the labels vouch for them.

Until its start it is the baseline; from then on the labelled loss keeps its whole weight, and
unlabelled images come on top. The parts are known ones: a mean teacher (Tarvainen & Valpola, NeurIPS 2017),
CutMix (French et al., BMVC 2020), labelled objects pasted as ClassMix cuts them (Olsson et al., WACV 2021),
thresholds of classes by their mean confidence (Wang et al., FreeMatch, ICLR 2023). What was measured:
docs/board.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unimatch.data.sample import Batch, Labeled, Unlabeled
from unimatch.errors import ConfigError
from unimatch.losses import PseudoLabels
from unimatch.methods.base import METHODS, Logs, MixPartner, Progress
from unimatch.methods.class_counts import ClassCounts
from unimatch.methods.mean_teacher import MeanTeacher
from unimatch.methods.mix import labelled_classes
from unimatch.methods.ops import (
    Pseudo,
    logged,
    mixed_pseudo_label,
    mixed_strong,
    paste,
    pseudo_label,
    pseudo_stats,
)
from unimatch.methods.teacher import TeacherConfig
from unimatch.taxonomy import IGNORE_INDEX


@dataclass
class OursConfig(TeacherConfig):
    """Settings.

    threshold: tau of the class that the teacher is surest of; with class_thresholds that of another class is
        lower, as its mean confidence is.
    weight: of the unsupervised loss, beside 1 of the labelled one.
    start_passes, start: passes over the labelled pixels, and share of the run, before which labelled images
        alone are seen.
    ramp: share of the run after it in which the weight rises from 0.
    paste: probability that a strong view gets half of the classes of a labelled crop.
    trust: whether a pseudo-label counts as much as predictions of its class are right on labelled images.
    """

    ema_decay: float = 0.99
    threshold: float = 0.9
    mix_partner: MixPartner = "batch"
    weight: float = 1.0
    start_passes: float = 12.0
    start: float = 0.0
    ramp: float = 0.2
    paste: float = 0.5
    class_thresholds: bool = True
    trust: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("threshold", "start", "ramp", "paste"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} must lie in [0, 1], found {getattr(self, name)}")
        if self.start_passes < 0:
            raise ConfigError(f"start_passes must be at least 0, found {self.start_passes}")


@METHODS.register("ours", OursConfig)
class Ours(MeanTeacher):
    """L = L_x + w(t) L_s, L_s over one strong view; the teacher labels in train mode, with batch-norm
    statistics of the weak unlabelled views. The student is evaluated.
    """

    def begin(self, net: nn.Module) -> None:
        super().begin(net)
        self.counts = ClassCounts(self.num_classes, self.group)

    def step(self, net: nn.Module, batch: Batch, progress: Progress) -> tuple[Tensor, Logs]:
        x, u = batch.labeled, batch.unlabeled
        assert u is not None, "unlabelled views are needed"
        weight = self._weight(progress)
        if not weight:
            return self.supervised_step(net, x)
        conf, labels = pseudo_label(self.teacher.logits(u.weak, train=True))
        partner = None
        if not u.partner_in_batch:
            assert u.partner is not None, "mixing needs a partner"
            partner = self._eased(*pseudo_label(self.teacher.logits(u.partner.weak, train=True)))

        net.train()
        logits_x = net(x.image)["logits"]
        known = x.label != IGNORE_INDEX
        self.counts.labeled_and_not(logits_x.argmax(1), x.label, known, labels, conf, u.valid)
        conf, labels = self._eased(conf, labels)
        image, pseudo = self._strong(x, u, conf, labels, partner)
        logits_s = net(image)["logits"]

        threshold = self.config.threshold
        loss_x = self.supervised_loss(logits_x, x.label) * x.share
        loss_s = self.consistency_loss(logits_s, pseudo) * self.share_of(pseudo.valid)
        loss = loss_x + weight * loss_s
        logs = logged(loss=loss, loss_x=loss_x, loss_s=loss_s)
        return loss, logs | pseudo_stats(conf, labels, u, threshold, self.num_classes)

    def _weight(self, progress: Progress) -> float:
        """w(t); 0: labelled images alone."""
        first = max(
            self.config.start * progress.total_steps, self.config.start_passes / progress.label_passes
        )
        begun = progress.step + 1 - max(self.config.burn_in, first)
        rise = max(self.config.ramp * progress.total_steps, 1.0)
        return float(self.config.weight * min(1.0, max(0.0, begun / rise)))

    def _strong(
        self, x: Labeled, u: Unlabeled, conf: Tensor, labels: Tensor, partner: Pseudo | None
    ) -> tuple[Tensor, PseudoLabels]:
        """The strong view, mixed and with labelled pixels pasted in, and its labels."""
        conf, target = mixed_pseudo_label(conf, labels, partner, u.boxes[0])
        image, label, pasted = labelled_classes(x, u, self.config.paste, self.num_classes)
        target = paste(target, label, pasted)
        trust = None
        if self.config.trust:
            trust = torch.where(pasted, 1.0, self.counts.precision().to(target.device)[target])
        conf, valid = conf.masked_fill(pasted, torch.inf), u.mixed_valid[0] | pasted
        pseudo = PseudoLabels(target, conf, valid, self.config.threshold, trust)
        return paste(mixed_strong(u), image, pasted), pseudo

    def _eased(self, conf: Tensor, labels: Tensor) -> Pseudo:
        return (self.counts.eased(conf, labels) if self.config.class_thresholds else conf), labels

    def after_update(self, net: nn.Module, progress: Progress) -> None:
        super().after_update(net, progress)
        self.counts.step_done()

    def eval_nets(self, net: nn.Module) -> dict[str, nn.Module]:
        return {"model": net, "ema": self.teacher.net}

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self.counts.sums.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts.sums = state["counts"]
