"""PC2Seg: a strong view is to give the weak one's probabilities, and each of its pixels the feature that the
pixel has in the weak one rather than those of other pixels.

Zhong et al., Pixel contrastive-consistent semi-supervised semantic segmentation, ICCV 2021. No code of it is
public: the losses are the abstract's, a pixel-level L2 loss and a pixel contrastive loss with sampled
negatives; what is drawn, how much of it, and the weights are ours, and no parity is claimed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatch.data.sample import Batch, Unlabeled
from unimatch.methods.base import METHODS, Logs, Method, Progress, SemiConfig, ViewNeeds
from unimatch.methods.contrast import contrast, sample
from unimatch.methods.ops import logged, pseudo_label, pseudo_stats
from unimatch.methods.parts import ProjectionHead, features_of
from unimatch.methods.soft import squared_error


@dataclass
class PC2SegConfig(SemiConfig):
    """Settings of PC2Seg.

    consistency, contrast: weights of the two losses.
    anchors, negatives: pixels of the micro-batch that are contrasted, and with how many others each.
    temperature: of the contrast; width: of the features.
    """

    consistency: float = 1.0
    contrast: float = 0.1
    anchors: int = 512
    negatives: int = 200
    temperature: float = 0.1
    width: int = 128


@METHODS.register("pc2seg", PC2SegConfig)
class PC2Seg(Method):
    """L = L_x + w_1 mean_i ||p_i - q_i||^2 + w_2 L_c: q is the weak view's; negatives are pixels of other
    images that have another pseudo-label.
    """

    divided = "pixels are contrasted with others of their micro-batch"

    def begin(self, net: Any) -> None:
        self.add_part("project", ProjectionHead(net.encoder.channels, self.config.width), net)

    @property
    def views(self) -> ViewNeeds:
        return ViewNeeds(1, None, unlabeled=True)

    def step(self, net: nn.Module, batch: Batch, progress: Progress) -> tuple[Tensor, Logs]:
        x, u = batch.labeled, batch.unlabeled
        assert u is not None, "PC2Seg needs unlabelled views"
        if progress.step < self.config.burn_in:
            return self.supervised_step(net, x)
        net.train()
        logits_x = net(x.image)["logits"]
        logits, features = features_of(net, torch.cat([u.weak, u.strong[0]]))
        logits_w, logits_s = logits.chunk(2)
        vectors = self.parts["project"].train()(features, torch.cat([u.noise_key, u.noise_key]))

        loss_x = self.supervised_loss(logits_x, x.label) * x.share
        loss_s = squared_error(logits_s, logits_w.detach().float().softmax(1), u.valid) * u.share
        conf, labels = pseudo_label(logits_w)
        weak, strong = vectors.chunk(2)
        loss_c = self._contrast(weak, strong, labels, u)
        loss = loss_x + self.config.consistency * loss_s + self.config.contrast * loss_c
        logs = logged(loss=loss, loss_x=loss_x, loss_s=loss_s, loss_c=loss_c)
        return loss, logs | pseudo_stats(conf, labels, u, 0.0, logits_x.shape[1])

    def _contrast(self, weak: Tensor, strong: Tensor, labels: Tensor, u: Unlabeled) -> Tensor:
        """The mean over anchors of the strong views [B, D, h, w], 0 with a graph where no pixel is valid."""
        size = weak.shape[-2:]
        small = F.interpolate(torch.stack([labels, u.valid.long()], 1).float(), size=size, mode="nearest")
        labels, valid = small[:, 0].flatten().long(), small[:, 1].flatten() > 0.5
        image = torch.arange(len(weak), device=weak.device).repeat_interleave(size[0] * size[1])
        theirs, own = (each.movedim(1, -1).flatten(0, 2) for each in (weak.detach(), strong))
        places, taken = sample(valid, self.config.anchors)
        others, used = sample(valid, self.config.negatives)
        apart = (image[places][:, None] != image[others]) & (labels[places][:, None] != labels[others]) & used
        losses = contrast(own[places], theirs[places], theirs[others], self.config.temperature, apart)
        counts = taken & apart.any(1)
        return (losses * counts).sum() / counts.sum().clamp(min=1)
