"""Our Xception-65 against the released one, plain functions of a state dict with the released names."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.narrow import narrow_networks
from unimatch.models import released
from unimatch.models.encoders import EncoderConfig, build_encoder
from unimatch.models.xception import NAME, XceptionEncoder

# Blocks 1 to 20: their stride, and whether the shortcut is projected.
STRIDES = {1: 2, 2: 2, 3: 2}
PROJECTED = (1, 2, 3, 20)


class Published:
    """The released encoder on a state dict; float64. Running statistics are collected as it would."""

    def __init__(self, state: dict[str, Tensor], training: bool) -> None:
        self.state = {key: value.clone() for key, value in state.items()}
        self.training = training

    def norm(self, x: Tensor, name: str) -> Tensor:
        kept = [self.state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        if not self.training:
            mean, variance = kept[0], kept[1]
        else:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
            unbiased = x.var((0, 2, 3), correction=1)
            self.state[f"{name}.running_mean"] = (1 - 0.0003) * kept[0] + 0.0003 * mean
            self.state[f"{name}.running_var"] = (1 - 0.0003) * kept[1] + 0.0003 * unbiased
        column = (1, -1, 1, 1)
        scaled = (x - mean.view(column)) / (variance.view(column) + 0.00001).sqrt()
        return scaled * kept[2].view(column) + kept[3].view(column)

    def separable(self, x: Tensor, name: str, stride: int, relu: bool) -> Tensor:
        depthwise = self.state[f"{name}.depthwise.weight"]
        x = F.conv2d(x, depthwise, stride=stride, padding=1, groups=len(depthwise))
        x = self.norm(x, f"{name}.bn1")
        x = F.conv2d(x.clamp(min=0) if relu else x, self.state[f"{name}.pointwise.weight"])
        x = self.norm(x, f"{name}.bn2")
        return x.clamp(min=0) if relu else x

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = F.conv2d(image, self.state["conv1.weight"], stride=2, padding=1)
        x = self.norm(x, "bn1").clamp(min=0)
        x = self.norm(F.conv2d(x, self.state["conv2.weight"], padding=1), "bn2").clamp(min=0)
        low = x
        for number in range(1, 21):
            name, stride = f"block{number}", STRIDES.get(number, 1)
            if number in PROJECTED:
                shortcut = F.conv2d(x, self.state[f"{name}.skip.weight"], stride=stride)
                shortcut = self.norm(shortcut, f"{name}.skipbn")
            else:
                shortcut = x.clamp(min=0)
            y = self.separable(x.clamp(min=0), f"{name}.sepconv1", 1, relu=False)
            y = self.separable(y.clamp(min=0), f"{name}.sepconv2", 1, relu=False)
            if number == 2:
                low = y
            y = self.separable(y.clamp(min=0), f"{name}.sepconv3", stride, relu=False)
            x = y + shortcut
        for number in (3, 4, 5):
            x = self.separable(x, f"conv{number}", 1, relu=True)
        return low, x


@pytest.fixture(scope="module")
def encoder() -> XceptionEncoder:
    """With an eighth of its channels."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        narrow_networks(patch)
        built = build_encoder(EncoderConfig(NAME, "none")).double()
    assert isinstance(built, XceptionEncoder)
    with torch.no_grad():
        for key, value in built.state_dict().items():
            if key.endswith(("bias", "running_mean")):
                value.uniform_(-0.3, 0.3)
            elif "bn" in key and value.is_floating_point():
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point():
                value.mul_(2)
    return built


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_features_and_statistics_equal_the_published_encoder(
    encoder: XceptionEncoder, training: bool
) -> None:
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    theirs = released.to_released({f"encoder.{k}": v for k, v in before.items()}, NAME, "deeplabv3plus")
    published = Published({key.removeprefix("backbone."): value for key, value in theirs.items()}, training)
    image = torch.randn(2, 3, 65, 49, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, expected = encoder.train(training)(image), published(image)
    after = {key: value.clone() for key, value in encoder.state_dict().items()}
    encoder.load_state_dict(before)
    assert [tuple(feature.shape) for feature in ours] == [(2, 32, 17, 13), (2, 256, 5, 4)]
    for feature, other in zip(ours, expected, strict=True):
        assert other.std() > 0.1
        torch.testing.assert_close(feature, other, rtol=1e-9, atol=1e-9)
    assert (ours[0] < 0).any()
    for key, value in released.to_released({f"encoder.{k}": v for k, v in after.items()}, NAME, "").items():
        if "running" in key:
            torch.testing.assert_close(
                value, published.state[key.removeprefix("backbone.")], rtol=1e-9, atol=1e-9
            )


def test_order_and_shapes_are_those_of_timm() -> None:
    with torch.device("meta"):
        encoder, state = (
            build_encoder(EncoderConfig(NAME, "none")),
            timm.create_model("xception65").state_dict(),
        )
    shapes = [value.shape for key, value in state.items() if not key.startswith("head.")]
    assert [value.shape for value in encoder.state_dict().values()] == shapes
    assert (encoder.channels, encoder.strides) == ([256, 2048], [4, 16])
    assert (encoder.mean, encoder.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_timms_own_keeps_its_name_and_is_another_network() -> None:
    with torch.device("meta"):
        timms = build_encoder(EncoderConfig("xception65", "none"))
    assert not isinstance(timms, XceptionEncoder) and timms.mean == (0.5, 0.5, 0.5)
