"""Switching between training and evaluation: every part, but for those that decide for themselves."""

from __future__ import annotations

import torch
from torch import nn

from unimatch.config import Section
from unimatch.models.encoders import EncoderConfig
from unimatch.models.heads.deeplabv3plus import DeepLabV3PlusConfig
from unimatch.models.segmentor import ModelConfig, Segmentor, build_segmentor


def network(freeze: bool = False) -> Segmentor:
    encoder = EncoderConfig("test_efficientnet", weights="none", freeze=freeze)
    head = Section("deeplabv3plus", DeepLabV3PlusConfig(channels=16, low_channels=8))
    return build_segmentor(ModelConfig(encoder, head), 3)


def test_all_modules_follow_as_in_torch():
    net = network()
    for mode in (False, True, False):
        assert net.train(mode) is net
        assert {module.training for module in net.modules()} == {mode}
    assert net.eval() is net and not net.head.training
    net.train()
    before = {name: value.clone() for name, value in net.named_buffers()}
    net(torch.rand(2, 3, 33, 33))
    assert any(not torch.equal(value, before[name]) for name, value in net.named_buffers())


def test_a_frozen_encoder_stays_as_it_is():
    net = network(freeze=True).train()
    assert net.training and net.head.training
    assert not any(module.training for module in net.encoder.modules())


def test_a_part_with_a_train_of_its_own_decides_for_itself():
    class Stubborn(nn.Sequential):
        def train(self, mode: bool = True) -> nn.Sequential:
            return super().train(False)

    net = network()
    net.head.classifier = Stubborn(net.head.classifier)
    net.train()
    assert net.head.training and not net.head.classifier.training and not net.head.classifier[0].training
