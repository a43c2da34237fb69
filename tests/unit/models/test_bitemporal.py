"""The network for pairs of dates, and the PSPNet head."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatch.config import Section, from_text
from unimatch.errors import ConfigError, UserError
from unimatch.methods.ops import twin_dropout
from unimatch.models.encoders import EncoderConfig, build_encoder
from unimatch.models.heads import HEADS
from unimatch.models.heads.deeplabv3plus import DeepLabV3PlusConfig
from unimatch.models.heads.linear import LinearHead, LinearHeadConfig
from unimatch.models.heads.pspnet import PSPNet, PSPNetConfig
from unimatch.models.segmentor import BitemporalSegmentor, ModelConfig, build_segmentor

HEAD_CONFIGS = {"deeplabv3plus": DeepLabV3PlusConfig(rates=(1, 2, 3), channels=16), "pspnet": PSPNetConfig()}


def make_net(head: str = "deeplabv3plus") -> BitemporalSegmentor:
    torch.manual_seed(0)
    encoder = EncoderConfig("test_efficientnet", "none", output_stride=8 if head == "pspnet" else 16)
    net = build_segmentor(ModelConfig(encoder, Section(head, HEAD_CONFIGS[head])), 2, dates=2)
    assert type(net) is BitemporalSegmentor
    return net


def dates(seed: int = 1, size: tuple[int, int] = (48, 56)) -> Tensor:
    return torch.randn(3, 2, 3, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("head", ["deeplabv3plus", "pspnet"])
@pytest.mark.parametrize("size", [(48, 56), (41, 65)])
def test_logits_are_those_of_the_absolute_difference_of_each_level(head, size):
    net, image = make_net(head).eval(), dates(size=size)
    with torch.no_grad():
        first, second = net.encoder(image[:, 0]), net.encoder(image[:, 1])
        differences = [torch.maximum(a - b, b - a) for a, b in zip(first, second, strict=True)]
        expected = F.interpolate(net.head(differences), size, mode="bilinear", align_corners=True)
        torch.testing.assert_close(net(image)["logits"], expected)
    assert expected.shape == (3, 2, *size)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("head", ["deeplabv3plus", "pspnet"])
def test_exchanging_the_dates_changes_nothing(head, training):
    net, image = make_net(head).train(training), dates()
    other = copy.deepcopy(net)
    with torch.no_grad():
        torch.manual_seed(5)  # the head's dropout
        one = net(image)["logits"]
        torch.manual_seed(5)
        two = other(image.flip(1))["logits"]
    torch.testing.assert_close(one, two)
    assert one.std() > 0


def test_each_date_has_its_own_batch_statistics_in_training():
    """A light that is different everywhere at one date vanishes: its batch-norms see that date alone."""
    net, image = make_net().train(), dates()
    brighter = image.clone()
    brighter[:, 1] = 3 * image[:, 1]  # the first layer is linear and then normalised
    torch.testing.assert_close(net(image)["logits"], net(brighter)["logits"], rtol=1e-2, atol=1e-2)


def test_equal_dates_have_no_difference_and_the_perturbation_acts_on_differences():
    net, image = make_net().eval(), dates()
    seen: list[list[Tensor]] = []

    def perturb(features: list[Tensor]) -> list[Tensor]:
        seen.append(features)
        return twin_dropout(torch.arange(len(features[0])), 0.5)(features)

    with torch.no_grad():
        logits = net(image, perturb=perturb)["logits"]
        clean = net(image)["logits"]
        net(image[:, :1].expand(-1, 2, -1, -1, -1), perturb=perturb)
    assert len(seen[0]) == 2 and all((level >= 0).all() and level.any() for level in seen[0])
    assert not any(level.any() for level in seen[1])
    torch.testing.assert_close(logits[:3], clean)
    assert logits.shape[0] == 6 and not torch.allclose(logits[3:], clean, atol=1e-3)


@pytest.mark.parametrize("head", ["deeplabv3plus", "pspnet"])
def test_every_parameter_gets_a_gradient_and_the_encoder_has_one_set(head):
    net = make_net(head).train()
    single = build_segmentor(
        ModelConfig(EncoderConfig("test_efficientnet", "none"), Section(head, HEAD_CONFIGS[head])), 2
    )
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in single.parameters())
    logits = net(dates())["logits"]
    (logits * torch.randn_like(logits)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    # What is added to a feature of both dates last, a bias without an activation behind it, has no effect.
    idle = [name for name, p in net.named_parameters() if not p.grad.any() and not name.endswith("bn3.bias")]
    assert idle == []


def slow_pspnet(head: PSPNet, feature: Tensor) -> Tensor:
    """The published decoder in eval mode, written out with plain functions."""

    def conv_norm_relu(x: Tensor, part: nn.Sequential, padding: int) -> Tensor:
        conv, norm = part[0], part[1]
        x = F.conv2d(x, conv.weight, padding=padding)
        x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
        return x.clamp(min=0)

    height, width = feature.shape[-2:]
    levels = [feature]
    for level, bins in enumerate((1, 2, 3, 6)):
        cells = feature.new_empty(*feature.shape[:2], bins, bins)
        for row in range(bins):
            for column in range(bins):
                rows = slice(row * height // bins, -(-(row + 1) * height // bins))
                columns = slice(column * width // bins, -(-(column + 1) * width // bins))
                cells[..., row, column] = feature[..., rows, columns].mean((-1, -2))
        cells = conv_norm_relu(cells, head.pyramid[level], 0)
        levels.append(F.interpolate(cells, (height, width), mode="bilinear", align_corners=True))
    fused = conv_norm_relu(torch.cat(levels, 1), head.fuse, 1)
    return F.conv2d(fused, head.classifier.weight, head.classifier.bias)


@pytest.mark.parametrize("size", [(12, 18), (7, 11), (3, 4)])
def test_pspnet_is_the_published_decoder(size):
    torch.manual_seed(0)
    head = PSPNet(PSPNetConfig(), [16, 32], [4, 8], 2)
    for norm in (module for module in head.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -0.3, 0.3)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 2)
    feature = torch.randn(2, 32, *size)
    with torch.no_grad():
        torch.testing.assert_close(
            head.eval()([torch.randn(2, 16, 9, 9), feature]), slow_pspnet(head, feature)
        )


def test_pspnet_has_the_published_widths():
    """ResNet-50: 2048 channels, four levels of 512, joined 4096, fused to 512."""
    with torch.device("meta"):
        head = PSPNet(PSPNetConfig(), [256, 2048], [4, 8], 2)
    shapes = {name: tuple(p.shape) for name, p in head.named_parameters() if p.ndim == 4}
    assert [shapes[f"pyramid.{level}.0.weight"] for level in range(4)] == [(512, 2048, 1, 1)] * 4
    assert shapes["fuse.0.weight"] == (512, 4096, 3, 3)
    assert shapes["classifier.weight"] == (2, 512, 1, 1) and head.dropout.p == 0.1
    assert head.classifier.bias is not None and head.fuse[0].bias is None


def test_pspnet_says_why_it_cannot_train_on_one_image():
    head = PSPNet(PSPNetConfig(), [16, 32], [4, 8], 2).train()
    with pytest.raises(UserError, match="PSPNet cannot train on one image"):
        head([torch.randn(1, 16, 8, 8), torch.randn(1, 32, 4, 4)])
    assert head.eval()([torch.randn(1, 16, 8, 8), torch.randn(1, 32, 4, 4)]).shape == (1, 2, 4, 4)
    PSPNet(PSPNetConfig(bins=(2, 3)), [16, 32], [4, 8], 2).train()([None, torch.randn(1, 32, 4, 4)])


@pytest.mark.parametrize("settings", [{"bins": ()}, {"bins": (0, 2)}, {"dropout": 1.0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        PSPNetConfig(**settings)


def test_the_configuration_names_the_head():
    text = "encoder: {name: resnet50s, weights: none, output_stride: 8}\nhead: {name: pspnet, bins: [1, 2]}"
    config = from_text(text, ModelConfig)
    assert config.head == Section("pspnet", PSPNetConfig((1, 2))) and HEADS["pspnet"].cls is PSPNet


def test_a_transformer_reads_both_dates_in_one_pass():
    """It has no batch-norm, so one pass gives what two do."""
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig("test_vit", "none")).double().eval()
    net = BitemporalSegmentor(encoder, LinearHead(LinearHeadConfig(), encoder.channels, encoder.strides, 2))
    image = torch.randn(3, 2, 3, 32, 48, dtype=torch.float64)
    passes = []
    encoder.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    found = net.features(image)
    assert passes == [6]
    first, second = encoder(image[:, 0]), encoder(image[:, 1])
    for level, a, b in zip(found, first, second, strict=True):
        torch.testing.assert_close(level, (a - b).abs(), rtol=0, atol=1e-12)
        assert not torch.equal(a, b)
