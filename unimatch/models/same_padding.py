"""Convolutions that pad by the size of the image, written so that an exporter can follow the sizes."""

from __future__ import annotations

import copy

import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn


class FollowedConv2dSame(Conv2dSame):
    """timm's Conv2dSame, as TensorFlow pads: the same padding, computed in whole numbers.

    timm divides, rounds up and takes a maximum, which torch.export carries as one term from convolution to
    convolution: the sizes of five of them take it minutes.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, h, w] -> [B, C', h / stride, w / stride], rounded up."""
        pads: list[int] = []
        for axis in (1, 0):
            side, stride = x.shape[2 + axis], self.stride[axis]
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            total = ((side + stride - 1) // stride - 1) * stride + reach - side
            if reach < stride:  # else it is never negative
                total = max(total, 0) if reach > 1 else 0
            pads += [total // 2, total - total // 2]
        x = F.pad(x, pads)
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def followed(net: nn.Module) -> nn.Module:
    """A copy of a network whose sizes an exporter can follow; it computes the same."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if type(module) is Conv2dSame:
            module.__class__ = FollowedConv2dSame
    return net
