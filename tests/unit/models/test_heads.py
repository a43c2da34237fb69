"""Every setting of a head shapes it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from unimatch.models.heads import HEADS

STRIDES = {"deeplabv3plus": [4, 16], "pspnet": [4, 16], "unet": [1, 2, 4]}


def head(name: str, **settings: Any) -> nn.Module:
    entry = HEADS[name]
    channels = [16, 40] if name != "unet" else [8, 16, 32]
    return entry.cls(entry.config(**settings), channels, STRIDES[name], 5)


def convolutions(net: nn.Module) -> list[nn.Conv2d]:
    return [module for module in net.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize("rates", [(6, 12, 18), (1, 2, 5)])
def test_the_rates_of_deeplabv3plus_are_its_dilations_and_paddings(rates):
    found = [c for c in convolutions(head("deeplabv3plus", rates=rates).aspp) if c.kernel_size == (3, 3)]
    assert [c.dilation for c in found] == [c.padding for c in found] == [(rate, rate) for rate in rates]


def test_the_widths_of_deeplabv3plus():
    net = head("deeplabv3plus", low_channels=7, channels=11)
    assert [c.out_channels for c in convolutions(net.reduce)] == [7]
    assert [c.out_channels for c in convolutions(net.fuse)] == [11, 11]
    assert net.classifier.in_channels == 11 and net.classifier.out_channels == 5


@pytest.mark.parametrize("bins", [(1, 2, 3, 6), (2,), (1, 4)])
def test_the_bins_of_pspnet_are_the_sizes_of_its_averages(bins):
    net, sizes = head("pspnet", bins=bins).eval(), []
    for branch in net.pyramid:
        branch.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[-2:])))
    net([torch.zeros(2, 16, 24, 24), torch.zeros(2, 40, 12, 12)])
    assert sizes == [(size, size) for size in bins]


@pytest.mark.parametrize("p", [0.0, 0.1, 0.7])
def test_the_dropout_of_pspnet(p):
    torch.manual_seed(0)
    net, seen = head("pspnet", dropout=p).train(), []
    net.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net.fuse.register_forward_hook(lambda _, inputs, output: torch.ones_like(output))
    net([torch.zeros(2, 16, 48, 48), torch.randn(2, 40, 24, 24)])
    dropped = (seen[0] == 0).double().mean().item()
    assert abs(dropped - p) < 0.02
    torch.testing.assert_close(seen[0].max().item(), 1 / (1 - p))


def test_the_ways_of_the_unet_to_enlarge():
    assert [type(up) for up in head("unet", upsample="bilinear").ups] == [nn.Conv2d] * 2
    assert [type(up) for up in head("unet", upsample="transposed").ups] == [nn.ConvTranspose2d] * 2
