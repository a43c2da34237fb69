"""The same losses as plain PyTorch: the yardstick of the speed table.

Written as the published systems are: one pass after another in fp32, no autocast, no layout of its own, an
optimiser of torch's defaults, and float images of two unlabelled loaders that lie in pinned memory. It shares
nothing with the package but the modules of the network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cases import Case

TAU = 0.95
IGNORED = 255
Loss = Callable[..., Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, ignore_index=IGNORED)


def masked(logits: Tensor, labels: Tensor, conf: Tensor, ignored: Tensor) -> Tensor:
    each = F.cross_entropy(logits, labels, reduction="none")
    return (each * ((conf >= TAU) & (ignored != IGNORED))).sum() / (ignored != IGNORED).sum()


def dice(logits: Tensor, labels: Tensor, kept: Tensor | None = None) -> Tensor:
    probability, total = logits.softmax(1), torch.zeros((), device=logits.device)
    kept = torch.ones_like(labels) if kept is None else kept
    for number in range(logits.shape[1]):
        score, target = probability[:, number] * kept, (labels == number).float() * kept
        total = (
            total + 1 - (2 * (score * target).sum() + 1e-5) / ((score**2).sum() + (target**2).sum() + 1e-5)
        )
    return total / logits.shape[1]


def masked_dice(logits: Tensor, labels: Tensor, conf: Tensor, ignored: Tensor) -> Tensor:
    return dice(logits, labels, ((conf >= TAU) & (ignored != IGNORED)).float())


def both(logits: Tensor, labels: Tensor) -> Tensor:
    return (cross_entropy(logits, labels) + dice(logits, labels)) / 2


class Plain:
    """A network, an optimiser and the batches of a case."""

    def __init__(self, net: Any, case: Case, device: torch.device) -> None:
        self.net = net.to(device)
        self.device = device
        self.is_v2 = case.method == "unimatch_v2"
        self.supervised: Loss = both if case.task == "medical" else cross_entropy
        self.consistency: Loss = masked_dice if case.task == "medical" else masked
        parameters = self.net.parameters()
        if self.is_v2:
            self.teacher = copy.deepcopy(self.net).eval().requires_grad_(False)
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(parameters, lr=5e-6, weight_decay=0.01)
        else:
            self.optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, weight_decay=1e-4)
        self.batch = self._random(case)
        self.done = 0

    def step(self) -> None:
        batch = {name: value.to(self.device) for name, value in self.batch.items()}
        loss = self._loss_v2(batch) if self.is_v2 else self._loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.is_v2:
            decay = min(1 - 1 / (self.done + 1), 0.996)
            for own, other in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                own.copy_(own * decay + other.detach() * (1 - decay))
        self.done += 1

    def _decode(self, features: list[Tensor], like: Tensor) -> Tensor:
        return F.interpolate(self.net.head(features), like.shape[-2:], mode="bilinear", align_corners=True)

    def _predict(self, net: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            conf, labels = net(image)["logits"].softmax(1).max(1)
        return conf, labels

    def _mix(
        self, batch: dict[str, Tensor], conf: Tensor, labels: Tensor, other: tuple[Tensor, Tensor]
    ) -> list[Any]:
        """For each strong view: image, pseudo-labels, confidence and ignored pixels, mixed inside its box."""
        views = []
        for view in "12":
            box = batch[f"box{view}"] == 1
            image, partner = batch[f"strong{view}"].clone(), batch[f"other_strong{view}"]
            wide = box.view(len(box), *[1] * (image.ndim - 3), *box.shape[-2:]).expand_as(image)
            image[wide] = partner[wide]
            parts = []
            for own, their in (
                (labels, other[1]),
                (conf, other[0]),
                (batch["ignored"], batch["other_ignored"]),
            ):
                mixed = own.clone()
                mixed[box] = their[box]
                parts.append(mixed)
            views.append((image, *parts))
        return views

    def _loss(self, batch: dict[str, Tensor]) -> Tensor:
        net, images = self.net, batch["image"]
        net.eval()
        other = self._predict(net, batch["other_weak"])
        net.train()
        both_kinds = torch.cat([images, batch["weak"]])
        features = net.features(both_kinds)
        dropped = [F.dropout2d(feature, 0.5) for feature in features]
        pairs = [torch.cat(pair) for pair in zip(features, dropped, strict=True)]
        clean, perturbed = self._decode(pairs, both_kinds).chunk(2)
        logits_x, logits_w = clean.split([len(images), len(batch["weak"])])
        logits_p = perturbed[len(images) :]
        conf, labels = logits_w.detach().softmax(1).max(1)
        first, second = self._mix(batch, conf, labels, other)
        logits_1, logits_2 = net(torch.cat([first[0], second[0]]))["logits"].chunk(2)
        loss_x = self.supervised(logits_x, batch["label"])
        loss_1, loss_2 = self.consistency(logits_1, *first[1:]), self.consistency(logits_2, *second[1:])
        loss_p = self.consistency(logits_p, labels, conf, batch["ignored"])
        return (loss_x + loss_1 * 0.25 + loss_2 * 0.25 + loss_p * 0.5) / 2

    def _loss_v2(self, batch: dict[str, Tensor]) -> Tensor:
        net = self.net
        conf, labels = self._predict(self.teacher, batch["weak"])
        mirrored = {f"other_{name}": batch[name].flip(0) for name in ("strong1", "strong2", "ignored")}
        first, second = self._mix({**batch, **mirrored}, conf, labels, (conf.flip(0), labels.flip(0)))
        net.train()
        logits_x = net(batch["image"])["logits"]
        strong = torch.cat([first[0], second[0]])
        features = net.features(strong)
        count, channels = len(first[0]), features[0].shape[1]
        mask = torch.bernoulli(torch.full((count, channels), 0.5, device=self.device)) * 2
        mask[torch.randperm(count, device=self.device)[: count // 2]] = 1
        factors = torch.cat([mask, 2 - mask])[:, :, None, None]
        logits_1, logits_2 = self._decode([feature * factors for feature in features], strong).chunk(2)
        loss_x = self.supervised(logits_x, batch["label"])
        loss_s = self.consistency(logits_1, *first[1:]) + self.consistency(logits_2, *second[1:])
        return (loss_x + loss_s / 2) / 2

    def _random(self, case: Case) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(0)
        dates = (2,) if case.task == "change" else ()
        size = (case.crop, case.crop)

        def images(count: int) -> Tensor:
            return torch.randn(count, *dates, case.channels, *size, generator=random)

        def integers(count: int, high: int) -> Tensor:
            return torch.randint(0, high, (count, *size), generator=random)

        count = case.unlabeled
        batch = {"image": images(case.labeled), "label": integers(case.labeled, case.classes)}
        others = () if self.is_v2 else ("other_weak", "other_strong1", "other_strong2")
        batch |= {name: images(count) for name in ("weak", "strong1", "strong2", *others)}
        batch |= {name: torch.zeros(count, *size, dtype=torch.long) for name in ("ignored", "other_ignored")}
        for view in "12":
            batch[f"box{view}"] = torch.zeros(count, *size)
            batch[f"box{view}"][::2, : case.crop // 2, : case.crop // 2] = 1
        pinned = self.device.type == "cuda"
        return {name: value.pin_memory() if pinned else value for name, value in batch.items()}
