"""The medical UNet against a version written with functions alone, from the published description."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatch.errors import ConfigError, UserError
from unimatch.methods.ops import channel_dropout, twin_dropout
from unimatch.models.encoders import EncoderConfig, build_encoder
from unimatch.models.heads import HEADS
from unimatch.models.heads.unet import UNetHead, UNetHeadConfig
from unimatch.models.recompute import recompute_activations
from unimatch.models.segmentor import Segmentor
from unimatch.models.unet import UNetEncoder

UPSAMPLE = ("bilinear", "transposed")


def make_net(upsample: str = "bilinear", num_classes: int = 4) -> Segmentor:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig("unet", "none", in_channels=1))
    entry = HEADS["unet"]
    config = entry.config(upsample=upsample)
    return Segmentor(encoder, entry.cls(config, encoder.channels, encoder.strides, num_classes))


def literal(net: Segmentor, image: Tensor) -> Tensor:
    """The forward pass in eval mode, level by level, from the tensors alone."""
    state = net.state_dict()

    def layer(x: Tensor, name: str, conv: int) -> Tensor:
        x = F.conv2d(x, state[f"{name}.{conv}.weight"], state[f"{name}.{conv}.bias"], padding=1)
        norm = f"{name}.{conv + 1}"
        mean, var = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        x = x * state[f"{norm}.weight"][:, None, None] + state[f"{norm}.bias"][:, None, None]
        return torch.where(x > 0, x, 0.01 * x)

    def double(x: Tensor, name: str) -> Tensor:
        return layer(layer(x, f"{name}.layers", 0), f"{name}.layers", 4)

    skips = [double(image, "encoder.levels.0")]
    for level in range(1, 5):
        skips.append(double(F.max_pool2d(skips[-1], 2), f"encoder.levels.{level}"))
    x = skips.pop()
    for level in range(4):
        weight, bias = state[f"head.ups.{level}.weight"], state[f"head.ups.{level}.bias"]
        if weight.shape[-1] == 2:
            x = F.conv_transpose2d(x, weight, bias, stride=2)
        else:
            x = F.interpolate(F.conv2d(x, weight, bias), scale_factor=2, mode="bilinear", align_corners=True)
        x = double(torch.cat([skips.pop(), x], dim=1), f"head.fuses.{level}")
    return F.conv2d(x, state["head.classifier.weight"], state["head.classifier.bias"], padding=1)


def with_statistics(net: Segmentor) -> Segmentor:
    """Norms that do something in eval mode."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5)
    return net


@pytest.mark.parametrize("upsample", UPSAMPLE)
def test_equals_the_literal_network(upsample: str) -> None:
    net = with_statistics(make_net(upsample)).eval()
    image = torch.rand(2, 1, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(net(image)["logits"], literal(net, image))


@pytest.mark.parametrize(("upsample", "kernel", "millions"), [("bilinear", 1, 1.8), ("transposed", 4, 1.9)])
def test_size_of_the_published_network(upsample: str, kernel: int, millions: float) -> None:
    """The published training log says 1.8 M; counted by hand from the widths."""
    widths = (16, 32, 64, 128, 256)

    def double(inputs: int, outputs: int) -> int:
        return 9 * inputs * outputs + 9 * outputs * outputs + 2 * (outputs + 2 * outputs)

    down = sum(double(a, b) for a, b in zip((1, *widths[:-1]), widths, strict=True))
    up = sum(kernel * 2 * w * w + w + double(2 * w, w) for w in widths[:-1])
    expected = down + up + 9 * 16 * 4 + 4
    assert sum(p.numel() for p in make_net(upsample).parameters()) == expected
    assert round(expected / 1e6, 1) == millions


def test_features_of_the_encoder_and_its_dropout() -> None:
    encoder = build_encoder(EncoderConfig("unet", "none", in_channels=3))
    assert isinstance(encoder, UNetEncoder)
    assert (encoder.channels, encoder.strides) == ([16, 32, 64, 128, 256], [1, 2, 4, 8, 16])
    assert (encoder.mean, encoder.std, encoder.loaded) == ((0.0,) * 3, (1.0,) * 3, "random initialisation")
    shapes = [tuple(f.shape) for f in encoder(torch.rand(2, 3, 32, 64))]
    assert shapes == [(2, 16 << k, 32 >> k, 64 >> k) for k in range(5)]
    dropouts = [m.p for m in encoder.modules() if isinstance(m, nn.Dropout)]
    assert dropouts == [0.05, 0.1, 0.2, 0.3, 0.5]


def test_training_drops_by_torchs_generator() -> None:
    net = make_net().train()
    image = torch.rand(2, 1, 32, 32)
    torch.manual_seed(1)
    first = net(image)["logits"]
    assert not torch.allclose(first, net(image)["logits"], atol=1e-4)
    torch.manual_seed(1)
    torch.testing.assert_close(first, net(image)["logits"])


@pytest.mark.parametrize("upsample", UPSAMPLE)
@pytest.mark.parametrize("size", [(16, 16), (33, 47), (50, 31)])
def test_any_side_of_16_or_more(size: tuple[int, int], upsample: str) -> None:
    net = make_net(upsample).eval()
    with torch.no_grad():
        logits = net(torch.rand(1, 1, *size))["logits"]
    assert logits.shape == (1, 4, *size) and bool(logits.isfinite().all())


def test_smaller_images_are_refused_in_words() -> None:
    with pytest.raises(UserError, match="15x40 pixels.*16 a side or more"):
        make_net()(torch.rand(2, 1, 15, 40))


def test_channel_dropout_acts_on_all_five_levels() -> None:
    net = make_net().eval()
    image = torch.rand(2, 1, 32, 32)
    keys = torch.tensor([3, 4])
    with torch.no_grad():
        logits = net(image, twin_dropout(keys, 0.5))["logits"]
        features = net.encoder(image)
        dropped = channel_dropout(features, keys, 0.5)
        expected = torch.cat([net.head(features), net.head(dropped)])
    torch.testing.assert_close(logits, expected)
    for level, feature in zip(dropped, features, strict=True):
        zeros = (level == 0).all(-1).all(-1) & (feature != 0).any(-1).any(-1)
        assert 0 < zeros.sum() < zeros.numel()


def test_every_parameter_gets_a_gradient() -> None:
    net = make_net().train()
    logits = net(torch.rand(3, 1, 32, 32), lambda fs: [torch.cat((f, 0.5 * f)) for f in fs])["logits"]
    (logits * torch.randn_like(logits)).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_recomputation_takes_whole_levels_and_changes_no_gradient() -> None:
    image = torch.rand(2, 1, 32, 32)
    grads = []
    for recomputed in (False, True):
        net = make_net().train()
        if recomputed:
            assert len(net.encoder.recomputed_parts()) == 5
            recompute_activations(net.encoder.recomputed_parts())
        torch.manual_seed(3)
        net(image)["logits"].square().mean().backward()
        grads.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(grads[0], grads[1])


def test_wrong_combinations_name_the_way_out() -> None:
    with pytest.raises(ConfigError, match="strides 1, 2, 4 ..., found 4, 16: use it with encoder unet"):
        UNetHead(UNetHeadConfig(), [24, 320], [4, 16], 4)
    with pytest.raises(ConfigError, match="unet starts at random, choose none"):
        EncoderConfig("unet", "hub")
    with pytest.raises(ConfigError, match="output_stride is 8; unet's is 16"):
        EncoderConfig("unet", "none", output_stride=8)
    deeplab = HEADS["deeplabv3plus"]
    with pytest.raises(ConfigError, match="needs a first feature of stride 4, found stride 1"):
        deeplab.cls(deeplab.config(), [16, 32, 64, 128, 256], [1, 2, 4, 8, 16], 4)
