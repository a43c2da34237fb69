"""UniMatch: FixMatch with two strong views and a stream of perturbed features.

Yang et al., Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic Segmentation, CVPR 2023,
section 3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unimatch.data.sample import Batch
from unimatch.errors import ConfigError
from unimatch.methods.base import METHODS, Logs, Method, Progress, ViewNeeds
from unimatch.methods.fixmatch import FixMatchConfig
from unimatch.methods.ops import (
    joined,
    mixed_pseudo_label,
    mixed_strong,
    partner_pseudo_label,
    pseudo_label,
    pseudo_stats,
    twin_dropout,
)


@dataclass
class UniMatchConfig(FixMatchConfig):
    """Settings of UniMatch: those of FixMatch and one more.

    feature_dropout: the probability with which a channel of the encoder's features is dropped in the
    perturbed stream.
    """

    feature_dropout: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.feature_dropout < 1.0:
            raise ConfigError(f"feature_dropout must lie in [0, 1), found {self.feature_dropout}")


@METHODS.register("unimatch", UniMatchConfig)
class UniMatch(Method):
    """L = (1 - w) * L_x + w * (L_s1 / 4 + L_s2 / 4 + L_fp / 2)."""

    @property
    def views(self) -> ViewNeeds:
        return ViewNeeds(num_strong=2, partner=self.config.mix_partner, unlabeled=True)

    def step(self, net: nn.Module, batch: Batch, progress: Progress) -> tuple[Tensor, Logs]:
        x, u = batch.labeled, batch.unlabeled
        assert u is not None, "UniMatch needs unlabelled views"
        if progress.step < self.config.burn_in:
            return self.supervised_step(net, x)
        threshold, weight = self.config.threshold, self.config.unsupervised_weight

        partner = partner_pseudo_label(net, u)

        net.train()
        # The labelled half is perturbed too, and thrown away: it takes part in the decoder's batch-norm, as
        # in the reference.
        perturb = twin_dropout(torch.cat([x.noise_key, u.noise_key]), self.config.feature_dropout)
        logits, perturbed = net(joined([x.image, u.weak]), perturb=perturb)["logits"].chunk(2)
        logits_x, logits_w = logits.split([len(x.image), len(u.weak)])
        logits_fp = perturbed[len(x.image) :]
        logits_s = net(mixed_strong(u))["logits"].chunk(2)

        conf, labels = pseudo_label(logits_w)

        loss_x = self.supervised_loss(logits_x, x.label) * x.share
        loss_fp = self.consistency_loss(logits_fp, labels, conf, u.valid, threshold) * u.share
        loss_s = []
        for view in range(2):
            mixed_conf, mixed_labels = mixed_pseudo_label(conf, labels, partner, u.boxes[view])
            term = self.consistency_loss(
                logits_s[view], mixed_labels, mixed_conf, u.mixed_valid[view], threshold
            )
            loss_s.append(term * u.mixed_share[view])
        loss = (1.0 - weight) * loss_x + weight * (0.25 * loss_s[0] + 0.25 * loss_s[1] + 0.5 * loss_fp)

        terms = {
            "loss": loss,
            "loss_x": loss_x,
            "loss_s1": loss_s[0],
            "loss_s2": loss_s[1],
            "loss_fp": loss_fp,
        }
        logs = {name: term.detach() for name, term in terms.items()}
        return loss, logs | pseudo_stats(conf, labels, u, threshold, num_classes=logits.shape[1])
