"""Several trained networks as one: the mean of their softmax."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from unimatch.engine.restore import Restored
from unimatch.errors import UserError
from unimatch.predicting.scales import TINY, OverScales
from unimatch.tasks.base import Task
from unimatch.tasks.prediction import EvaluateConfig

Rescale = tuple[Tensor, Tensor]  # what an input normalised for another network is multiplied by and added to


class Ensemble(nn.Module):
    """The mean of networks' softmax, as logits.

    rescales: of each network, from inputs as the first one takes them; None: it takes the same.
    """

    def __init__(self, nets: Sequence[nn.Module], rescales: Sequence[Rescale | None]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)
        self.rescales = list(rescales)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """image [B, ..., C, H, W], normalised for the first network -> {"logits": [B, K, H, W]}."""
        total: Tensor | None = None
        for net, rescale in zip(self.nets, self.rescales, strict=True):
            own = image
            if rescale is not None:
                factor, offset = (one.to(image.device) for one in rescale)
                own = image * factor + offset
            probability = net(own)["logits"].float().softmax(1)
            total = probability if total is None else total + probability
        assert total is not None
        return {"logits": (total / len(self.nets)).clamp(min=TINY).log()}


def one_network(found: Sequence[Restored], scales: Sequence[float], flip: bool) -> nn.Module:
    """What predicts as all of these together do, averaged over sizes and mirrored images too.

    UserError: networks of other classes or images, or that predict images in another way.
    """
    first = found[0]
    for other in found[1:]:
        _refuse_other(first, other)
    net: nn.Module = first.net
    if len(found) > 1:
        net = Ensemble([one.net for one in found], [_rescale(first.task, one.task) for one in found])
    plain = list(scales) == [1.0] and not flip
    return net if plain else OverScales(net, scales, flip, first.net.encoder.patch)


def _rescale(first: Task, other: Task) -> Rescale | None:
    """From values less one task's mean over its deviation to those of another one."""
    if torch.equal(first.mean, other.mean) and torch.equal(first.std, other.std):
        return None
    return first.std / other.std, (first.mean - other.mean) / other.std


def _scaling(task: Task) -> Any:
    """How the bands of files become channels; None: ordinary pictures."""
    return None if task.bands is None else replace(task.bands, mean=(), std=())


def _seen(found: Restored) -> Any:
    """What of an image the network sees at once, and of which side."""
    settings, crop = found.config.task.config.evaluate, found.config.task.config.views.crop
    if not isinstance(settings, EvaluateConfig):
        return crop
    sides = None if settings.mode == "whole" else settings.windows(crop)
    return settings.mode, sides, settings.border, settings.multiple_of


WHAT: dict[str, Callable[[Restored], Any]] = {
    "task": lambda one: one.config.task.name,
    "classes": lambda one: one.task.taxonomy.to_json(),
    "bands": lambda one: _scaling(one.task),
    "preparation of images": lambda one: one.prepared,
    "mode or window": _seen,
    "patch size": lambda one: one.net.encoder.patch,
}


def _refuse_other(first: Restored, other: Restored) -> None:
    names = [what for what, of in WHAT.items() if of(first) != of(other)]
    if names:
        raise UserError(
            f"{other.folder} has another {', '.join(names)} than {first.folder}: an ensemble is of networks "
            "that see the same images alike and name the same classes"
        )
