"""Where an image shows the classes that it is said to have."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unimatch.methods.parts import resized

WIDTH = 128  # of queries and keys


class RefinedCAM(nn.Module):
    """Which classes an image shows, and where: activation maps of a linear classifier over the mean of the
    deepest feature, refined by the likeness of places. (A linear classifier's Grad-CAM is that map.)
    """

    def __init__(self, channels: list[int], num_classes: int) -> None:
        super().__init__()
        self.classify = nn.Conv2d(channels[-1], num_classes - 1, 1)  # all but the background
        joined = channels[-1] + channels[-2]
        self.query, self.key = nn.Conv2d(joined, WIDTH, 1), nn.Conv2d(joined, WIDTH, 1)
        self.out = nn.Sequential(nn.Conv2d(num_classes, num_classes, 1), nn.BatchNorm2d(num_classes))

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """features, finest first -> scores [B, K - 1] of the classes, logits [B, K, h, w] of the deepest
        one's size. Only the scores have a graph to the features.
        """
        deep = features[-1]
        scores = self.classify(deep).mean((2, 3))
        with torch.no_grad():
            maps = self.classify(deep).float().relu()
            maps = maps / maps.amax((2, 3), keepdim=True).clamp(min=1e-6)
            maps = maps * (scores.sigmoid() >= 0.5)[..., None, None]
        joined = torch.cat([deep, resized(features[-2], deep.shape[-2:])], dim=1).detach()
        query, key = self.query(joined).flatten(2).float(), self.key(joined).flatten(2).float()
        alike = (query.transpose(1, 2) @ key).softmax(-1)  # [B, hw, hw]
        refined = maps + (maps.flatten(2) @ alike.transpose(1, 2)).view_as(maps)
        background = 2.0 - refined.amax(1, keepdim=True)
        return scores, self.out(torch.cat([background, refined], dim=1))
