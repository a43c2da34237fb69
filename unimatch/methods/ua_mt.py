"""UA-MT: a mean teacher whose student follows it where the teacher, asked several times, is not uncertain.

Yu et al., Uncertainty-aware self-ensembling model for semi-supervised 3D left atrium segmentation, MICCAI
2019, as the SSL4MIS code has it for slices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unimatch.data.sample import Batch, Unlabeled
from unimatch.errors import ConfigError
from unimatch.methods.base import METHODS, Logs, Progress, ViewNeeds
from unimatch.methods.mean_teacher import MeanTeacher
from unimatch.methods.ops import keyed_normal, logged, pseudo_label, pseudo_stats
from unimatch.methods.soft import entropy, risen, squared_error
from unimatch.methods.teacher import TeacherConfig, ema_decay
from unimatch.mixing import joined

NOISE, LARGEST_NOISE = 0.1, 0.2  # of normalised images


@dataclass
class UAMTConfig(TeacherConfig):
    """Settings of UA-MT.

    weight: of the consistency loss at the end; it rises as exp(-5 (1 - t)^2) over the run.
    passes: of the teacher over noisy images, whose mean says where it is uncertain.
    """

    ema_decay: float = 0.99
    weight: float = 0.1
    passes: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.passes < 1:
            raise ConfigError(f"passes must be at least 1, found {self.passes}")


@METHODS.register("ua_mt", UAMTConfig)
class UAMT(MeanTeacher):
    """L = L_x + w(t) * mean_i ||p_i - t_i||^2 / 2 over unlabelled pixels where the entropy of the teacher's
    mean is below (0.75 + 0.25 ramp) ln K. The teacher stays in train mode, with batch-norm statistics of its
    own.
    """

    def begin(self, net: nn.Module) -> None:
        super().begin(net)
        self.teacher.buffers = False

    @property
    def views(self) -> ViewNeeds:
        return ViewNeeds(0, None, unlabeled=True)

    def step(self, net: nn.Module, batch: Batch, progress: Progress) -> tuple[Tensor, Logs]:
        x, u = batch.labeled, batch.unlabeled
        assert u is not None, "a mean teacher needs unlabelled images"
        if progress.step < self.config.burn_in:
            return self.supervised_step(net, x)
        ramp = risen(progress.step / progress.total_steps)

        net.train()
        logits_x, logits_u = net(joined([x.image, u.weak]))["logits"].split([len(x.image), len(u.weak)])
        target = self._noisy(u, 0)
        mean = torch.stack([self._noisy(u, number) for number in range(1, self.config.passes + 1)]).mean(0)
        sure = u.valid & (entropy(mean) < (0.75 + 0.25 * ramp) * math.log(mean.shape[1]))

        loss_x = self.supervised_loss(logits_x, x.label) * x.share
        loss_u = squared_error(logits_u, target, sure) / 2.0 * self.share_of(sure)
        loss = loss_x + self.config.weight * ramp * loss_u
        logs = logged(loss=loss, loss_x=loss_x, loss_u=loss_u)
        _, labels = pseudo_label(logits_u)
        return loss, logs | pseudo_stats(sure.float(), labels, u, 0.5, mean.shape[1])

    def _noisy(self, u: Unlabeled, number: int) -> Tensor:
        """The teacher's probabilities [B, K, H, W] of images with noise of their keys and this number."""
        noise = keyed_normal(u.noise_key + number, u.weak[0].numel()).view_as(u.weak)
        noise = (NOISE * noise).clamp(-LARGEST_NOISE, LARGEST_NOISE)
        return self.teacher.logits(u.weak + noise, train=True).float().softmax(1)

    def after_update(self, net: nn.Module, progress: Progress) -> None:
        if progress.step < self.config.burn_in:
            self.teacher.copy(net)  # it makes no passes of its own then
        else:
            self.teacher.update(net, ema_decay(progress.step, self.config.ema_decay))

    def eval_nets(self, net: nn.Module) -> dict[str, nn.Module]:
        return {"model": net, "ema": self.teacher.net}
