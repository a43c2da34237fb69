"""PseudoSeg: soft pseudo-labels of the decoder and of a refined class activation map, calibrated together.

Zou et al., PseudoSeg: Designing pseudo labels for semantic segmentation, ICLR 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatch.data.sample import Batch
from unimatch.errors import ConfigError
from unimatch.methods.activation_maps import RefinedCAM
from unimatch.methods.base import METHODS, Logs, Method, Progress, SemiConfig, ViewNeeds
from unimatch.methods.ops import logged, pseudo_stats
from unimatch.methods.parts import features_of, resized
from unimatch.methods.soft import soft_cross_entropy
from unimatch.taxonomy import IGNORE_INDEX


@dataclass
class PseudoSegConfig(SemiConfig):
    """Settings of PseudoSeg.

    temperature: pseudo-labels are sharpened by it.
    weight: of the consistency loss.
    """

    temperature: float = 0.5
    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise ConfigError(f"temperature must be above 0, found {self.temperature}")


@METHODS.register("pseudoseg", PseudoSegConfig)
class PseudoSeg(Method):
    """L = L_x + L_cam,x + L_class,x + w L_u: L_u is the soft cross-entropy of the strong view outside its
    cutout. Class 0 is the background.
    """

    def begin(self, net: Any) -> None:
        self.add_part("cam", RefinedCAM(net.encoder.channels, self.num_classes), net)

    @property
    def views(self) -> ViewNeeds:
        return ViewNeeds(1, None, unlabeled=True, areas=(("cutout", "cutout"),))

    def step(self, net: nn.Module, batch: Batch, progress: Progress) -> tuple[Tensor, Logs]:
        x, u = batch.labeled, batch.unlabeled
        assert u is not None, "PseudoSeg needs unlabelled views"
        if progress.step < self.config.burn_in:
            return self.supervised_step(net, x)
        net.train()
        cam = self.parts["cam"].train()
        hole = u.areas["cutout"].view(len(u.weak), *[1] * (u.weak.ndim - 3), *u.weak.shape[-2:])
        logits_x, features_x = features_of(net, x.image)
        with torch.no_grad():
            logits_w, features_w = features_of(net, u.weak)
            map_w = resized(cam.eval()(features_w)[1], logits_w.shape[-2:])
            target = self._fused(logits_w.float(), map_w.float())
        torch.clear_autocast_cache()  # of weights that were cast without a graph
        scores, map_x = cam.train()(features_x)
        logits_s = net(u.strong[0].masked_fill(hole, 0.0))["logits"]

        valid = u.valid & ~u.areas["cutout"]
        classes = torch.arange(1, self.num_classes, device=x.label.device)
        shown = (x.label.flatten(1)[..., None] == classes).any(1).float()  # [B, K - 1]
        map_x = resized(map_x, x.label.shape[-2:])
        loss_x = self.supervised_loss(logits_x, x.label) * x.share
        loss_cam = self.supervised_loss(map_x, x.label) * x.share
        known = (x.label != IGNORE_INDEX).flatten(1).any(1)  # a mask without a label says nothing
        errors = F.binary_cross_entropy_with_logits(scores.float(), shown, reduction="none").mean(1)
        loss_class = (errors * known).sum() / known.sum().clamp(min=1) * self.share_of(known)
        loss_s = soft_cross_entropy(logits_s, target, valid) * self.share_of(valid)
        loss = loss_x + loss_cam + loss_class + self.config.weight * loss_s
        logs = logged(loss=loss, loss_x=loss_x, loss_cam=loss_cam, loss_class=loss_class, loss_s=loss_s)
        conf, labels = target.max(1)
        return loss, logs | pseudo_stats(conf, labels, u, 0.0, self.num_classes)

    def _fused(self, logits: Tensor, other: Tensor) -> Tensor:
        """[B, K, H, W]: the mean of both softmaxes, sharpened; logits over their common root mean square in
        all processes' micro-batches.
        """
        scale = self.group.mean((logits.square().mean() + other.square().mean()) / 2.0).sqrt().clamp(min=1e-6)
        mean = ((logits / scale).softmax(1) + (other / scale).softmax(1)) / 2.0
        sharp = mean ** (1.0 / self.config.temperature)
        return sharp / sharp.sum(1, keepdim=True)
