from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from unimatch.config import Section, from_text
from unimatch.errors import ConfigError, UserError
from unimatch.models import weights
from unimatch.models.encoders import EncoderConfig, build_encoder
from unimatch.models.heads import HEADS
from unimatch.models.heads.deeplabv3plus import DeepLabV3Plus, DeepLabV3PlusConfig
from unimatch.models.segmentor import ModelConfig, Segmentor, build_segmentor

ENCODER = "mobilenetv3_small_050"


def make_net(num_classes: int = 4) -> Segmentor:
    torch.manual_seed(0)
    config = ModelConfig(
        EncoderConfig(ENCODER, "none", output_stride=32),
        Section("deeplabv3plus", DeepLabV3PlusConfig(rates=(1, 2, 3), channels=16)),
    )
    return build_segmentor(config, num_classes)


def double(features: list[Tensor]) -> list[Tensor]:
    return [torch.cat((feature, 0.5 * feature)) for feature in features]


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (33, 50)])
def test_logits_have_the_size_of_the_image(size: tuple[int, int]) -> None:
    net = make_net().eval()
    with torch.no_grad():
        assert net(torch.randn(2, 3, *size))["logits"].shape == (2, 4, *size)


def test_perturbation_sees_the_features_of_the_head_and_may_lengthen_the_batch() -> None:
    net = make_net().eval()
    image = torch.randn(2, 3, 64, 64)
    seen: list[tuple[int, ...]] = []

    def perturb(features: list[Tensor]) -> list[Tensor]:
        seen.extend(tuple(feature.shape) for feature in features)
        return double(features)

    with torch.no_grad():
        both = net(image, perturb)["logits"]
        clean = net(image)["logits"]
        halved = net(image, lambda features: [0.5 * feature for feature in features])["logits"]
    assert seen == [(2, net.encoder.channels[0], 16, 16), (2, net.encoder.channels[1], 2, 2)]
    # In eval mode images do not see each other, so the joint batch is the two passes one after the other.
    torch.testing.assert_close(both, torch.cat((clean, halved)))
    assert not torch.allclose(clean, halved, atol=1e-3)


def test_every_parameter_gets_a_gradient() -> None:
    net = make_net().train()
    logits = net(torch.randn(3, 3, 64, 64), double)["logits"]
    (logits * torch.randn_like(logits)).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    names = {name.split(".")[0] for name, _ in net.named_parameters()}
    assert names == {"encoder", "head"}


def test_channels_last_changes_nothing_but_rounding() -> None:
    net = make_net().eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        plain = net(image)["logits"]
        last = net.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))[
            "logits"
        ]
    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-5)


def test_all_norms_can_be_synchronised() -> None:
    norms = [m for m in make_net().modules() if "norm" in type(m).__name__.lower()]
    assert len(norms) > 30
    assert all(isinstance(norm, nn.BatchNorm2d) for norm in norms)


def test_training_on_one_image_is_refused_in_words() -> None:
    net = make_net()
    image = torch.randn(1, 3, 64, 64)
    with pytest.raises(UserError, match="two images or more per process"):
        net.train()(image)
    assert torch.isfinite(net.eval()(image)["logits"]).all()


def test_a_synchronised_norm_decides_about_one_image_itself() -> None:
    class OtherNorm(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return x

    head = DeepLabV3Plus(DeepLabV3PlusConfig(), [8, 16], [4, 16], 2).train()
    head.aspp.pool[1] = OtherNorm(32)
    assert head([torch.randn(1, 8, 8, 8), torch.randn(1, 16, 2, 2)]).shape == (1, 2, 8, 8)


@pytest.mark.parametrize(("channels", "width"), [(2048, 256), (512, 64), (320, 40), (160, 32)])
def test_pyramid_width_follows_the_encoder(channels: int, width: int) -> None:
    head = DeepLabV3Plus(DeepLabV3PlusConfig(), [24, channels], [4, 16], 2)
    assert head.aspp.project[0].weight.shape == (width, 5 * width, 1, 1)
    assert head.state_dict()["fuse.0.0.weight"].shape == (256, 48 + width, 3, 3)


def test_wrong_head_settings() -> None:
    with pytest.raises(ConfigError, match="rates"):
        DeepLabV3PlusConfig(rates=(0, 1, 2))
    with pytest.raises(ConfigError, match="low_channels and channels are 0 and 256"):
        DeepLabV3PlusConfig(low_channels=0)
    with pytest.raises(ConfigError, match="found stride 8"):
        DeepLabV3Plus(DeepLabV3PlusConfig(), [24, 320], [8, 16], 2)


def test_configuration_text_builds_the_network() -> None:
    text = f"""
        encoder: {{name: {ENCODER}, weights: none, output_stride: 32}}
        head: {{name: deeplabv3plus, rates: [1, 2, 3], channels: 16}}
    """
    config = from_text(text, ModelConfig)
    assert "deeplabv3plus" in HEADS
    assert isinstance(build_segmentor(config, 3).head, DeepLabV3Plus)
    with pytest.raises(ConfigError, match="weights"):
        from_text(text.replace("weights: none,", ""), ModelConfig)


def test_own_checkpoint_loads_whole_or_as_an_encoder(tmp_path: Path) -> None:
    first, path = make_net(), tmp_path / "model.pth"
    torch.save(first.state_dict(), path)
    second = make_net()
    with torch.no_grad():
        for value in second.parameters():
            value.add_(1)
    report = weights.load_segmentor(second, path, ENCODER, "deeplabv3plus")
    assert all(torch.equal(value, first.state_dict()[key]) for key, value in second.state_dict().items())
    assert f"{len(first.state_dict())} tensors" in report

    torch.manual_seed(9)
    encoder = build_encoder(EncoderConfig(ENCODER, f"file:{path}", 32))
    assert all(
        torch.equal(value, first.encoder.state_dict()[key]) for key, value in encoder.state_dict().items()
    )
    assert "encoder of a checkpoint" in encoder.loaded
    with pytest.raises(UserError, match="of another shape: head.classifier.weight"):
        weights.load_segmentor(make_net(num_classes=7), path, ENCODER, "deeplabv3plus")
    with pytest.raises(UserError, match="missing"):
        build_encoder(EncoderConfig("resnet10t", f"file:{path}", 32))


def test_encoder_of_a_released_checkpoint(tmp_path: Path) -> None:
    donor = build_encoder(EncoderConfig("resnet10t", "none"))
    state = {f"module.backbone.{key}": value for key, value in donor.net.state_dict().items()}
    state["module.classifier.bias"] = torch.zeros(21)
    torch.save({"model": state}, tmp_path / "released.pth")
    encoder = build_encoder(EncoderConfig("resnet10t", f"file:{tmp_path / 'released.pth'}"))
    assert all(torch.equal(value, donor.state_dict()[key]) for key, value in encoder.state_dict().items())
    assert "released segmentation checkpoint" in encoder.loaded
