"""CorrMatch: pseudo-labels spread over segments of pixels that look alike, above a threshold that follows the
network.

Sun et al., CorrMatch: Label propagation via correlation matching for semi-supervised semantic segmentation,
CVPR 2024. UniMatch with one strong view and a head that correlates pixels of the deepest feature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unimatch.data.sample import Batch
from unimatch.losses import PseudoLabels
from unimatch.methods.base import METHODS, Logs, Method, Progress, ViewNeeds
from unimatch.methods.correlation import Correlation, followed, propagated
from unimatch.methods.ops import (
    blind_logits,
    logged,
    mixed_pseudo_label,
    mixed_strong,
    paste,
    pseudo_label,
    pseudo_stats,
    strong_losses,
    swap_pairs,
    twin_dropout,
)
from unimatch.methods.parts import features_of
from unimatch.methods.soft import divergence, pixel_mean
from unimatch.methods.unimatch import UniMatchConfig
from unimatch.mixing import joined


@dataclass
class CorrMatchConfig(UniMatchConfig):
    """Settings of CorrMatch: those of UniMatch, `threshold` being the first one, and these.

    momentum: what the threshold keeps of itself in a step.
    segments: pixels of each image whose alikes are a segment.
    """

    threshold: float = 0.85
    momentum: float = 0.999
    segments: int = 128


@METHODS.register("corrmatch", CorrMatchConfig)
class CorrMatch(Method):
    """L = (1 - w) (L_x + L_x,corr) / 2 + w (L_s + L_kl + L_fp + L_corr) / 4, L_corr being the mean of the
    weak and the strong view's. The threshold is equal on all processes.
    """

    def begin(self, net: Any) -> None:
        self.add_part("correlation", Correlation(net.encoder.channels[-1], self.num_classes), net)
        self.threshold = torch.tensor(self.config.threshold)

    @property
    def views(self) -> ViewNeeds:
        return ViewNeeds(1, self.config.mix_partner, unlabeled=True)

    def step(self, net: nn.Module, batch: Batch, progress: Progress) -> tuple[Tensor, Logs]:
        x, u = batch.labeled, batch.unlabeled
        assert u is not None and u.partner is not None, "CorrMatch needs unlabelled views"
        if progress.step < self.config.burn_in:
            return self.supervised_step(net, x)
        other = None if u.partner_in_batch else blind_logits(net, u.partner.weak)

        net.train()
        key = torch.cat([x.noise_key, u.noise_key])
        twin = twin_dropout(key, self.config.feature_dropout)
        both, features = features_of(net, joined([x.image, u.weak]), twin)
        logits, perturbed = both.chunk(2)
        logits_x, logits_w = logits.split([len(x.image), len(u.weak)])
        logits_s, features_s = features_of(net, mixed_strong(u))
        correlate = self.parts["correlation"].train()
        corr, alike = correlate(features[-1], logits, key)
        corr_x, corr_w = corr.split([len(x.image), len(u.weak)])
        corr_s, _ = correlate(features_s[-1], logits_s, u.noise_key)

        pseudo = pseudo_label(logits_w)
        tau = self.threshold = followed(
            self.threshold, self.config.momentum, *pseudo, u, self.num_classes, self.group
        )
        logits_p = swap_pairs(logits_w.detach()) if other is None else other
        partner, box = pseudo_label(logits_p), u.boxes[0]
        sure = mixed_pseudo_label(*pseudo, partner, box)[0] >= tau
        target = paste(logits_w.detach(), logits_p, box).float().softmax(1)
        size = features_s[-1].shape[-2:]
        conf, labels = propagated(
            alike[len(x.image) :].detach(), size, *pseudo, u, tau, self.config.segments, self.num_classes
        )

        def weak(logits: Tensor) -> Tensor:
            return self.consistency_loss(logits, PseudoLabels(labels, conf, u.valid, tau)) * u.share

        def strong(logits: Tensor) -> Tensor:
            return strong_losses(self.consistency_loss, logits, conf, labels, partner, u, tau)[0]

        terms = {
            "loss_x": self.supervised_loss(logits_x, x.label) * x.share,
            "loss_x_corr": self.supervised_loss(corr_x, x.label) * x.share,
            "loss_s": strong(logits_s),
            "loss_kl": pixel_mean(divergence(logits_s, target) * sure, u.mixed_valid[0]) * u.mixed_share[0],
            "loss_fp": weak(perturbed[len(x.image) :]),
            "loss_corr": 0.5 * (weak(corr_w) + strong(corr_s)),
        }
        weight, values = self.config.unsupervised_weight, list(terms.values())
        loss = (1.0 - weight) * 0.5 * sum(values[:2]) + weight * 0.25 * sum(values[2:])
        logs = logged(loss=loss, threshold=tau, **terms)
        return loss, logs | pseudo_stats(*pseudo, u, tau, self.num_classes)

    def state_dict(self) -> dict[str, Any]:
        return {"threshold": self.threshold.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.threshold = state["threshold"]
