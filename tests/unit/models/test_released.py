"""Released checkpoints: the names of every published network, written out, against ours; both ways."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.support.narrow import narrow_networks
from unimatch.config import from_text
from unimatch.errors import ConfigError, UserError
from unimatch.models import released
from unimatch.models.encoders import EncoderConfig, build_encoder
from unimatch.models.segmentor import ModelConfig, Segmentor, build_segmentor

DEEPLAB = "head: {name: deeplabv3plus}"
# Of each published network: the model, its classes and dates.
NETWORKS = {
    "natural R50": (f"encoder: {{name: resnet50s, weights: none}}\n{DEEPLAB}", 21, 1),
    "natural R101": (f"encoder: {{name: resnet101s, weights: none}}\n{DEEPLAB}", 19, 1),
    "natural Xception-65": (f"encoder: {{name: xception65_released, weights: none}}\n{DEEPLAB}", 81, 1),
    "change DeepLabv3+ R50": (f"encoder: {{name: resnet50s, weights: none}}\n{DEEPLAB}", 2, 2),
    "change DeepLabv3+ R101": (f"encoder: {{name: resnet101s, weights: none}}\n{DEEPLAB}", 2, 2),
    "change PSPNet R50": (
        "encoder: {name: resnet50s, weights: none, output_stride: 8}\nhead: {name: pspnet}",
        2,
        2,
    ),
    "medical UNet": ("encoder: {name: unet, weights: none, in_channels: 1}\nhead: {name: unet}", 4, 1),
}


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow_networks(monkeypatch)


NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def resnet(blocks: tuple[int, ...]) -> list[str]:
    """Names of a deep-stem ResNet's tensors, behind `backbone.`."""
    found = [f"conv1.{n}.weight" for n in (0, 3, 6)]
    norms = ["conv1.1", "conv1.4", "bn1"]
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            place = f"layer{stage}.{block}"
            found += [f"{place}.conv{n}.weight" for n in (1, 2, 3)]
            norms += [f"{place}.bn{n}" for n in (1, 2, 3)]
            if block == 0:
                found.append(f"{place}.downsample.0.weight")
                norms.append(f"{place}.downsample.1")
    return found + [f"{norm}.{name}" for norm in norms for name in NORM]


def xception() -> list[str]:
    found, norms = ["conv1.weight", "conv2.weight"], ["bn1", "bn2"]
    separable = [f"block{n}.sepconv{m}" for n in range(1, 21) for m in (1, 2, 3)]
    for place in [*separable, "conv3", "conv4", "conv5"]:
        found += [f"{place}.depthwise.weight", f"{place}.pointwise.weight"]
        norms += [f"{place}.bn1", f"{place}.bn2"]
    for block in (1, 2, 3, 20):
        found.append(f"block{block}.skip.weight")
        norms.append(f"block{block}.skipbn")
    return found + [f"{norm}.{name}" for norm in norms for name in NORM]


def units(*places: tuple[str, str], bias: bool = False) -> list[str]:
    """Names of convolutions and of the norms behind them."""
    found = []
    for conv, norm in places:
        found += [f"{conv}.weight", *([f"{conv}.bias"] if bias else []), *(f"{norm}.{name}" for name in NORM)]
    return found


def deeplab() -> list[str]:
    places = [(f"head.b{n}.0", f"head.b{n}.1") for n in range(4)]
    places += [("head.b4.gap.1", "head.b4.gap.2"), ("head.project.0", "head.project.1")]
    places += [("reduce.0", "reduce.1"), ("fuse.0", "fuse.1"), ("fuse.3", "fuse.4")]
    return [*units(*places), "classifier.weight", "classifier.bias"]


def pspnet() -> list[str]:
    places = [(f"head.conv5.0.conv{n}.0", f"head.conv5.0.conv{n}.1") for n in range(1, 5)]
    return [*units(*places, ("head.conv5.1", "head.conv5.2")), "head.conv5.5.weight", "head.conv5.5.bias"]


def unet() -> list[str]:
    places = [
        "encoder.in_conv.conv_conv",
        *(f"encoder.down{n}.maxpool_conv.1.conv_conv" for n in range(1, 5)),
    ]
    places += [f"decoder.up{n}.conv.conv_conv" for n in range(1, 5)]
    found = units(*((f"{p}.{n}", f"{p}.{n + 1}") for p in places for n in (0, 4)), bias=True)
    found += [f"decoder.up{n}.conv1x1.{name}" for n in range(1, 5) for name in ("weight", "bias")]
    return [*found, "decoder.out_conv.weight", "decoder.out_conv.bias"]


def released_names(network: str) -> list[str]:
    if network == "medical UNet":
        return unet()
    encoder = xception() if "Xception" in network else resnet((3, 4, 23 if "R101" in network else 6, 3))
    return [f"backbone.{name}" for name in encoder] + (pspnet() if "PSPNet" in network else deeplab())


def build(network: str, *changes: str) -> Segmentor:
    text, classes, dates = NETWORKS[network]
    return build_segmentor(from_text(text, ModelConfig, changes), classes, dates)


def hollow(network: str) -> Segmentor:
    """The network without values, which are seconds of work."""
    with torch.device("meta"):
        return build(network)


def parts(network: str) -> tuple[str, str]:
    """The names of its encoder and head."""
    encoder, head = re.findall(r"name: (\w+)", NETWORKS[network][0])
    return encoder, head


def random_state(net: Segmentor) -> dict[str, Tensor]:
    """Tensors of the network's shapes, also of one without values, of which no two are alike.

    They are as large as training makes them: what the network computes is finite and depends on the image.
    """
    generator = torch.Generator().manual_seed(3)
    state = {}
    for number, (key, value) in enumerate(net.state_dict().items()):
        normal = torch.randn(value.shape, generator=generator)
        if not value.is_floating_point():
            state[key] = torch.tensor(number)
        elif value.ndim > 1:
            state[key] = normal * (2 / value[0].numel()) ** 0.5
        elif key.endswith(("weight", "running_var")):
            state[key] = 0.5 * torch.exp(normal / 4)
        else:
            state[key] = normal / 10
    return state


@pytest.mark.parametrize("network", NETWORKS)
def test_names_are_the_published_ones_and_the_round_trip_is_equal(network: str) -> None:
    state = random_state(hollow(network))
    theirs = released.to_released(state, *parts(network))
    assert sorted(theirs) == sorted(released_names(network)) and released.is_released(theirs)
    back = released.from_released(theirs, *parts(network))
    assert back.keys() == state.keys() and all(back[key] is state[key] for key in state)


@pytest.mark.parametrize(
    ("network", "theirs", "ours"),
    [
        ("change PSPNet R50", "head.conv5.0.conv1.0.weight", "head.pyramid.0.0.weight"),
        ("change PSPNet R50", "head.conv5.0.conv4.1.bias", "head.pyramid.3.1.bias"),
        ("natural R50", "head.b1.0.weight", "head.aspp.atrous.0.0.weight"),
        ("natural R50", "fuse.4.running_var", "head.fuse.1.1.running_var"),
        ("natural Xception-65", "backbone.block11.sepconv3.bn2.bias", "encoder.blocks.10.sepconv3.bn2.bias"),
        ("medical UNet", "encoder.down2.maxpool_conv.1.conv_conv.4.bias", "encoder.levels.2.layers.4.bias"),
        ("medical UNet", "decoder.up1.conv1x1.weight", "head.ups.0.weight"),
    ],
)
def test_what_is_of_one_shape_keeps_its_order(network: str, theirs: str, ours: str) -> None:
    """Written out: no shape tells these from their neighbours."""
    assert hollow(network).state_dict().keys() >= {ours}
    value = torch.zeros(1)
    assert released.from_released({theirs: value}, *parts(network)) == {ours: value}
    assert released.to_released({ours: value}, *parts(network)) == {theirs: value}


def test_a_plain_stem_is_not_the_deep_one() -> None:
    state = {
        "backbone.layer3.5.conv1.weight": torch.zeros(1),
        "backbone.conv1.weight": torch.zeros(8, 3, 7, 7),
    }
    assert released.contents(state).encoder == "resnet50"
    state["backbone.conv1.0.weight"] = state.pop("backbone.conv1.weight")
    assert released.contents(state).encoder == "resnet50s"


@pytest.mark.parametrize("network", NETWORKS)
def test_a_file_says_what_it_holds(network: str) -> None:
    text, classes, _ = NETWORKS[network]
    theirs = released.to_released(hollow(network).state_dict(), *parts(network))
    channels = 1 if "in_channels: 1" in text else 3
    assert released.contents(theirs) == released.Contents(*parts(network), classes, channels)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_whole_released_network_is_loaded_from_every_layout(network: str, tmp_path: Path) -> None:
    state = random_state(hollow(network))
    theirs = released.to_released(state, *parts(network))
    wrapped = {f"module.{key}": value for key, value in theirs.items()}
    path = tmp_path / "w.pth"
    for content in (theirs, {"model": wrapped, "epoch": 79, "previous_best": np.float64(75.2)}):
        torch.save(content, path)
        net = build(network, f"weights=file:{path}")
        assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
        assert net.encoder.loaded.startswith("whole network: ") and "w.pth (sha256 " in net.encoder.loaded


def test_a_pspnet_without_dropout_is_read_too() -> None:
    network = "change PSPNet R50"
    state = hollow(network).state_dict()
    theirs = released.to_released(state, *parts(network))
    theirs = {key.replace("conv5.5.", "conv5.4."): value for key, value in theirs.items()}
    assert released.contents(theirs).classes == 2
    assert released.from_released(theirs, *parts(network)).keys() == state.keys()


@pytest.mark.parametrize(
    ("holds", "wants", "told"),
    [
        ("natural R101", "natural R50", "encoder resnet101s, .* describes encoder resnet50s"),
        ("change DeepLabv3+ R50", "natural R50", "2 classes.* describes .*21 classes"),
        ("change DeepLabv3+ R50", "change PSPNet R50", "head deeplabv3plus.* describes .*head pspnet"),
        ("medical UNet", "natural R50", "encoder unet, head unet, 4 classes, images of 1 channel"),
        ("natural R50", "medical UNet", "encoder resnet50s.* describes encoder unet"),
        ("natural Xception-65", "natural R101", "set model.encoder.name, model.head.name, the task"),
    ],
)
def test_another_network_is_named(holds: str, wants: str, told: str, tmp_path: Path) -> None:
    torch.save(released.to_released(build(holds).state_dict(), *parts(holds)), tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"w\.pth is a released checkpoint with .*{told}"):
        build(wants, f"weights=file:{tmp_path / 'w.pth'}")


def test_half_of_the_tensors_are_not_a_network(tmp_path: Path) -> None:
    theirs = released.to_released(build("natural R50").state_dict(), "resnet50s", "deeplabv3plus")
    torch.save(dict(list(theirs.items())[::2]), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"wrong tensors \(\d+ missing: "):
        build("natural R50", f"weights=file:{tmp_path / 'w.pth'}")


@pytest.mark.parametrize("weights", ["hub", "file:", "none"])
def test_weights_of_a_network_come_from_a_file(weights: str) -> None:
    with pytest.raises(ConfigError, match="weights must be file:PATH"):
        from_text(NETWORKS["natural R50"][0], ModelConfig, [f"weights='{weights}'"])


# Encoders.


def published_classifier(name: str, path: Path) -> dict[str, Tensor]:
    """A file as the released code's pretrained/*.pth: the encoder's names, and fc."""
    if name == "xception65_released":
        state: Any = build_encoder(EncoderConfig(name, "none")).state_dict()
        ours = {f"encoder.{key}": value for key, value in state.items()}
        theirs = released.to_released(ours, name, "deeplabv3plus")
        state = {key.removeprefix("backbone."): value for key, value in theirs.items()}
        state |= {"fc.weight": torch.zeros(1000, 256), "fc.bias": torch.zeros(1000)}
    else:
        state = timm.create_model(name).state_dict()
    torch.save(state, path)
    return state


@pytest.mark.parametrize(
    ("name", "first"), [("resnet50s", "conv1.0.weight"), ("xception65_released", "conv1.weight")]
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_an_imagenet_file_gives_the_encoder_and_fc_is_left(
    name: str, first: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"w.{suffix}"
    state = published_classifier(name, path)
    if suffix == "safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    encoder = build_encoder(EncoderConfig(name, f"file:{path}"))
    found = {key.removeprefix("net."): value for key, value in encoder.state_dict().items()}
    assert torch.equal(found[first], state[first]) and len(found) == len(state) - 2
    torch.save({key: value for key, value in state.items() if key != first}, path.with_suffix(".pth"))
    with pytest.raises(UserError, match=f"1 missing: .*{first}"):
        build_encoder(EncoderConfig(name, f"file:{path.with_suffix('.pth')}"))
    torch.save({**state, "layer9.weight": torch.zeros(1)}, path.with_suffix(".pth"))
    with pytest.raises(UserError, match="1 unexpected"):
        build_encoder(EncoderConfig(name, f"file:{path.with_suffix('.pth')}"))


def test_files_of_torchvision_fit_the_plain_stem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    monkeypatch.undo()  # at full width
    state = models.resnet50(weights=None).state_dict()
    torch.save(state, tmp_path / "w.pth")
    found = build_encoder(EncoderConfig("resnet50", f"file:{tmp_path / 'w.pth'}")).state_dict()
    assert all(
        torch.equal(found[f"net.{key}"], value) for key, value in state.items() if not key.startswith("fc.")
    )
    with pytest.raises(UserError, match="missing"):
        build_encoder(EncoderConfig("resnet50s", f"file:{tmp_path / 'w.pth'}"))


@pytest.mark.parametrize("network", ["natural R50", "natural Xception-65"])
def test_the_encoder_of_a_released_network(network: str, tmp_path: Path) -> None:
    state = random_state(hollow(network))
    name = parts(network)[0]
    torch.save(released.to_released(state, *parts(network)), tmp_path / "w.pth")
    encoder = build_encoder(EncoderConfig(name, f"file:{tmp_path / 'w.pth'}"))
    assert all(torch.equal(value, state[f"encoder.{key}"]) for key, value in encoder.state_dict().items())
    torch.save(state, tmp_path / "ours.pth")
    again = build_encoder(EncoderConfig(name, f"file:{tmp_path / 'ours.pth'}"))
    assert all(torch.equal(value, encoder.state_dict()[key]) for key, value in again.state_dict().items())
    with pytest.raises(
        UserError, match=f"holds encoder {name}, not resnet101s: set model.encoder.name={name}"
    ):
        build_encoder(EncoderConfig("resnet101s", f"file:{tmp_path / 'w.pth'}"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"output_stride": 8}, "output_stride is 8; xception65_released has 16"),
        ({"weights": "hub"}, r"weights is 'hub'; .* takes file:PATH \(the published xception.pth"),
        ({"weights": "package"}, "weights is 'package'"),
        ({"weights": "file:x.pth", "in_channels": 4}, "in_channels is 4; weights of .* have 3"),
        ({"drop_path": 0.1}, "drop_path is 0.1; .* has no paths to drop"),
    ],
)
def test_what_the_released_xception_cannot_be(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=f"^encoder {told}"):
        EncoderConfig(**{"name": "xception65_released", "weights": "none", **changes})
