"""FixMatch for segmentation: pseudo-labels of the weak view supervise one strong view, mixed by CutMix.

Sohn et al., FixMatch, NeurIPS 2020, in the form that UniMatch (Yang et al., CVPR 2023, 3.1) starts from.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from unimatch.data.sample import Batch
from unimatch.errors import ConfigError
from unimatch.methods.base import METHODS, Logs, Method, MixPartner, Progress, SemiConfig, ViewNeeds
from unimatch.methods.ops import (
    joined,
    mixed_strong,
    partner_pseudo_label,
    pseudo_label,
    weak_to_strong,
)


@dataclass
class FixMatchConfig(SemiConfig):
    """Settings of FixMatch.

    threshold: tau; a pixel's pseudo-label counts if its confidence is at least this. 0 keeps every pixel.
    mix_partner: whose pixels fill the CutMix boxes. "same": another crop of the same image, as the released
        code has it; "shuffled": an image of an independent order of the unlabelled set; "batch": the
        neighbour in the batch, which needs neither a second input nor a second prediction, but even
        micro-batches.
    unsupervised_weight: w in L = (1 - w) * L_x + w * L_u; 0.5 is the paper's.
    """

    threshold: float = 0.95
    mix_partner: MixPartner = "same"
    unsupervised_weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("threshold", "unsupervised_weight"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} must lie in [0, 1], found {getattr(self, name)}")


@METHODS.register("fixmatch", FixMatchConfig)
class FixMatch(Method):
    """L = (1 - w) * L_x + w * L_s."""

    @property
    def views(self) -> ViewNeeds:
        return ViewNeeds(num_strong=1, partner=self.config.mix_partner, unlabeled=True)

    def step(self, net: nn.Module, batch: Batch, progress: Progress) -> tuple[Tensor, Logs]:
        x, u = batch.labeled, batch.unlabeled
        assert u is not None, "FixMatch needs unlabelled views"
        if progress.step < self.config.burn_in:
            return self.supervised_step(net, x)
        partner = partner_pseudo_label(net, u)

        # Two passes, so that batch-norm takes its statistics from weak and from strong views apart.
        net.train()
        logits_x, logits_w = net(joined([x.image, u.weak]))["logits"].split([len(x.image), len(u.weak)])
        logits_s = net(mixed_strong(u))["logits"]

        return weak_to_strong(self, x, u, logits_x, logits_s, pseudo_label(logits_w), partner)
