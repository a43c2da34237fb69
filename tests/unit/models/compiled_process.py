"""A process of test_recompute: blocks without batch norms, compiled and not, come to the same gradients."""

from __future__ import annotations

import copy

import torch
from torch import nn

from unimatch.models.recompute import recompute_activations

if __name__ == "__main__":
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.GELU())
    lean, image = copy.deepcopy(plain), torch.randn(2, 3, 8, 8)
    recompute_activations([lean])
    lean.compile(backend="aot_eager")
    for each in (plain, lean):
        each(image).square().mean().backward()
    for mine, theirs in zip(lean.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
