"""UniMatch: FixMatch with two strong views and a stream of perturbed features.

Yang et al., Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic Segmentation, CVPR 2023,
section 3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unimatch.data.sample import Batch, Labeled, Unlabeled
from unimatch.errors import ConfigError
from unimatch.losses import PseudoLabels
from unimatch.methods.base import METHODS, Logs, Method, Progress, ViewNeeds
from unimatch.methods.fixmatch import FixMatchConfig
from unimatch.methods.ops import (
    Pseudo,
    joined,
    logged,
    mixed_strong,
    partner_pseudo_label,
    pseudo_label,
    pseudo_stats,
    strong_losses,
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
        logits_x, logits_w, logits_fp, logits_s = self.streams(net, x, u)
        conf, labels = pseudo_label(logits_w)

        loss_x = self.supervised_loss(logits_x, x.label) * x.share
        loss_u, terms = self.guided(logits_fp, logits_s, (conf, labels), partner, u, threshold)
        loss = (1.0 - weight) * loss_x + weight * loss_u

        logs = logged(loss=loss, loss_x=loss_x, **terms)
        return loss, logs | pseudo_stats(conf, labels, u, threshold, num_classes=logits_x.shape[1])

    def streams(self, net: nn.Module, x: Labeled, u: Unlabeled) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits of the labelled images, of the weak views, of their perturbed features, and of the mixed
        strong views one after the other.
        """
        net.train()
        # The labelled half is perturbed too, and thrown away: it takes part in the decoder's batch-norm, as
        # in the reference.
        perturb = twin_dropout(torch.cat([x.noise_key, u.noise_key]), self.config.feature_dropout)
        logits, perturbed = net(joined([x.image, u.weak]), perturb=perturb)["logits"].chunk(2)
        logits_x, logits_w = logits.split([len(x.image), len(u.weak)])
        logits_fp = perturbed[len(x.image) :]
        logits_s = net(mixed_strong(u))["logits"]
        return logits_x, logits_w, logits_fp, logits_s

    def guided(
        self,
        logits_fp: Tensor,
        logits_s: Tensor,
        pseudo: Pseudo,
        partner: Pseudo | None,
        u: Unlabeled,
        threshold: float,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The unsupervised loss of the streams against pseudo-labels of the weak views and of the partner,
        and its terms.
        """
        conf, labels = pseudo
        loss_fp = self.consistency_loss(logits_fp, PseudoLabels(labels, conf, u.valid, threshold)) * u.share
        loss_s = strong_losses(self.consistency_loss, logits_s, conf, labels, partner, u, threshold)
        loss = 0.25 * loss_s[0] + 0.25 * loss_s[1] + 0.5 * loss_fp
        return loss, {"loss_s1": loss_s[0], "loss_s2": loss_s[1], "loss_fp": loss_fp}
