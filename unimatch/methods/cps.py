"""Cross pseudo supervision: two networks of other first weights teach each other by hard labels.

Chen et al., Semi-supervised semantic segmentation with cross pseudo supervision, CVPR 2021. There is no
threshold. The first network is the one that is evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from unimatch.data.sample import Batch, Labeled, Unlabeled
from unimatch.errors import ConfigError
from unimatch.losses import PseudoLabels
from unimatch.methods.base import METHODS, Logs, Method, MixPartner, Progress, SemiConfig, ViewNeeds
from unimatch.methods.ops import (
    Pseudo,
    blind_logits,
    logged,
    partner_logits,
    paste,
    pseudo_label,
    pseudo_stats,
)
from unimatch.methods.parts import second_network
from unimatch.methods.soft import over_all, risen


@dataclass
class CPSConfig(SemiConfig):
    """Settings of cross pseudo supervision.

    cutmix: whether the networks teach each other on mixtures of two unlabelled images, and on nothing else.
    weight: of the cross losses; the paper's are 1.5 without CutMix and 1 with it on Pascal, 6 and 5 on
        Cityscapes.
    ramp: the share of the run over which the weight rises as exp(-5 (1 - t)^2); 1 in the medical frame of
        UA-MT, 0: it does not.
    mix_partner: as in FixMatch.
    """

    cutmix: bool = True
    weight: float = 1.0
    ramp: float = 0.0
    mix_partner: MixPartner = "shuffled"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.ramp <= 1.0:
            raise ConfigError(f"ramp must lie in [0, 1], found {self.ramp}")


@METHODS.register("cps", CPSConfig)
class CPS(Method):
    """L = L_x1 + L_x2 + w(t) * (CE(f1, argmax f2) + CE(f2, argmax f1))."""

    def begin(self, net: nn.Module) -> None:
        self.add_part("second", second_network(net), net)

    @property
    def views(self) -> ViewNeeds:
        if not self.config.cutmix:
            return ViewNeeds(0, None, unlabeled=True)
        return ViewNeeds(0, self.config.mix_partner, unlabeled=True, areas=(("mix", "three"),))

    def step(self, net: nn.Module, batch: Batch, progress: Progress) -> tuple[Tensor, Logs]:
        x, u = batch.labeled, batch.unlabeled
        assert u is not None, "cross pseudo supervision needs unlabelled images"
        if progress.step < self.config.burn_in:
            return self.supervised_step(net, x)
        nets = net.train(), self.parts["second"].train()
        logits_x = [each(x.image)["logits"] for each in nets]
        logits, pseudo, valid = (
            self._mixed(nets, u) if self.config.cutmix else self._plain(nets, x, u, logits_x)
        )
        loss_x, loss_x2 = (self.supervised_loss(each, x.label) * x.share for each in logits_x)
        loss_cps, loss_cps2 = (
            self.consistency_loss(mine, over_all(PseudoLabels(theirs[1], theirs[0], valid, 0.0)))
            for mine, theirs in zip(logits, reversed(pseudo), strict=True)
        )
        weight = self.config.weight
        if self.config.ramp:
            weight *= risen(progress.step / (self.config.ramp * progress.total_steps))
        loss = loss_x + loss_x2 + weight * (loss_cps + loss_cps2)
        logs = logged(loss=loss, loss_x=loss_x, loss_x2=loss_x2, loss_cps=loss_cps, loss_cps2=loss_cps2)
        conf, labels = (each[-len(u.weak) :] for each in pseudo[0])
        return loss, logs | pseudo_stats(conf, labels, u, 0.0, logits_x[0].shape[1])

    def _plain(
        self, nets: tuple[nn.Module, ...], x: Labeled, u: Unlabeled, logits_x: list[Tensor]
    ) -> tuple[list[Tensor], list[Pseudo], Tensor]:
        """Logits and pseudo-labels of each network, and which pixels count: of labelled images, then of
        unlabelled ones.
        """
        logits = [torch.cat([own, each(u.weak)["logits"]]) for own, each in zip(logits_x, nets, strict=True)]
        valid = torch.cat([torch.ones_like(x.label, dtype=torch.bool), u.valid])
        return logits, [pseudo_label(each) for each in logits], valid

    def _mixed(self, nets: tuple[nn.Module, ...], u: Unlabeled) -> tuple[list[Tensor], list[Pseudo], Tensor]:
        """The same of mixtures alone. The images' own labels come of passes in train mode, as published."""
        assert u.partner is not None
        box, pseudo = u.areas["mix"], []
        for each in nets:
            predict = partial(blind_logits, each, train=True)
            own = predict(u.weak)
            pseudo.append(pseudo_label(paste(own, partner_logits(predict, own, u), box)))
        image = paste(u.weak, u.partner.weak, box)
        logits = [each(image)["logits"] for each in nets]
        return logits, pseudo, paste(u.valid, u.partner.valid, box)
