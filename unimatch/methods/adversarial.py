"""Noise on features that moves the predictions of given networks most (Miyato et al., Virtual adversarial
training, TPAMI 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from unimatch.methods.ops import keyed_uniform
from unimatch.methods.soft import divergence

# The length of the noise from which its direction is found. The published 1e-6 lies below what fp32 resolves.
SMALL = 0.1


def against(nets: Sequence[nn.Module], key: Tensor, length: float) -> Callable[[list[Tensor]], list[Tensor]]:
    """A perturbation for `net`: the deepest feature with noise of this length an image, in the direction in
    which the mean logits of the networks' heads change most: one power iteration from noise of the keys.

    The heads are in eval mode for it, and left in it; nothing of it has a graph.
    """

    def perturb(features: list[Tensor]) -> list[Tensor]:
        fixed = [feature.detach().float() for feature in features]
        deep = fixed[-1]
        start = (keyed_uniform(key.to(deep.device), deep[0].numel()) - 0.5).float().view_as(deep)

        def predicted(last: Tensor) -> Tensor:
            logits = [net.eval().head([*fixed[:-1], last]) for net in nets]  # type: ignore[operator]
            return torch.stack(logits).mean(0).float()

        with torch.autocast(deep.device.type, enabled=False):
            with torch.no_grad():
                target = predicted(deep).softmax(1)
            with torch.enable_grad():
                noise = (SMALL * _unit(start)).requires_grad_()
                (gradient,) = torch.autograd.grad(divergence(predicted(deep + noise), target).sum(), noise)
        return [*features[:-1], features[-1] + (length * _unit(gradient)).to(features[-1].dtype)]

    return perturb


def _unit(values: Tensor) -> Tensor:
    """Each image's values over their length."""
    return values / values.flatten(1).norm(dim=1).clamp(min=1e-30).view(-1, 1, 1, 1)
