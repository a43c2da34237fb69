"""Our network against the published one, written as plain functions of a state dict with the released names.

The tensors are random, with the names of a released ResNet-50 checkpoint and an eighth of its channels:
nothing is downloaded.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.narrow import narrow_networks
from unimatch.config import Section
from unimatch.models import weights
from unimatch.models.encoders import EncoderConfig
from unimatch.models.heads.deeplabv3plus import DeepLabV3PlusConfig
from unimatch.models.segmentor import ModelConfig, Segmentor, build_segmentor

NUM_CLASSES = 5
BLOCKS = (3, 4, 6, 3)
RATES = (6, 12, 18)
State = dict[str, Tensor]


def make_released_state() -> State:
    """Random fp64 tensors, named as the published training script saves them; no norm is an identity."""
    generator = torch.Generator().manual_seed(0)
    state: State = {}

    def conv(name: str, out_channels: int, in_channels: int, kernel: int) -> None:
        shape = (out_channels, in_channels, kernel, kernel)
        scale = (2.0 / (in_channels * kernel * kernel)) ** 0.5
        state[f"{name}.weight"] = scale * torch.randn(shape, generator=generator, dtype=torch.float64)

    def norm(name: str, channels: int) -> None:
        for key, low, high in (("weight", 0.5, 1.0), ("bias", -0.2, 0.2), ("running_mean", -0.2, 0.2)):
            values = torch.rand(channels, generator=generator, dtype=torch.float64)
            state[f"{name}.{key}"] = low + (high - low) * values
        state[f"{name}.running_var"] = 0.5 + torch.rand(channels, generator=generator, dtype=torch.float64)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    for index, (out_channels, in_channels) in {0: (64, 3), 3: (64, 64), 6: (128, 64)}.items():
        conv(f"backbone.conv1.{index}", out_channels, in_channels, 3)
    norm("backbone.conv1.1", 64)
    norm("backbone.conv1.4", 64)
    norm("backbone.bn1", 128)
    in_channels = 128
    for stage, blocks in enumerate(BLOCKS):
        width = 8 * 2**stage
        for block in range(blocks):
            name = f"backbone.layer{stage + 1}.{block}"
            conv(f"{name}.conv1", width, in_channels, 1)
            conv(f"{name}.conv2", width, width, 3)
            conv(f"{name}.conv3", 4 * width, width, 1)
            norm(f"{name}.bn1", width)
            norm(f"{name}.bn2", width)
            norm(f"{name}.bn3", 4 * width)
            if block == 0:
                conv(f"{name}.downsample.0", 4 * width, in_channels, 1)
                norm(f"{name}.downsample.1", 4 * width)
            in_channels = 4 * width
    for branch, kernel in (
        ("head.b0.0", 1),
        ("head.b1.0", 3),
        ("head.b2.0", 3),
        ("head.b3.0", 3),
        ("head.b4.gap.1", 1),
    ):
        conv(branch, 32, 256, kernel)
    for name in ("head.b0.1", "head.b1.1", "head.b2.1", "head.b3.1", "head.b4.gap.2", "head.project.1"):
        norm(name, 32)
    conv("head.project.0", 32, 5 * 32, 1)
    conv("reduce.0", 48, 32, 1)
    norm("reduce.1", 48)
    conv("fuse.0", 256, 32 + 48, 3)
    norm("fuse.1", 256)
    conv("fuse.3", 256, 256, 3)
    norm("fuse.4", 256)
    conv("classifier", NUM_CLASSES, 256, 1)
    state["classifier.bias"] = torch.linspace(-1, 1, NUM_CLASSES, dtype=torch.float64)
    return state


class Published:
    """The published network as functions of its state dict; in training, norms use the batch's statistics."""

    def __init__(self, state: State, training: bool) -> None:
        self.state = state
        self.training = training

    def norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        else:
            mean, var = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        scale = weight / (var + 1e-5).sqrt()
        return x * scale[:, None, None] + (bias - mean * scale)[:, None, None]

    def conv(self, x: Tensor, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
        kernel = self.state[f"{name}.weight"]
        padding = dilation if kernel.shape[-1] == 3 else 0
        bias = self.state.get(f"{name}.bias")
        return F.conv2d(x, kernel, bias, stride=stride, padding=padding, dilation=dilation)

    def unit(self, x: Tensor, conv: str, norm: str, stride: int = 1, dilation: int = 1) -> Tensor:
        return F.relu(self.norm(self.conv(x, conv, stride, dilation), norm))

    def features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.unit(image, "backbone.conv1.0", "backbone.conv1.1", stride=2)
        x = self.unit(x, "backbone.conv1.3", "backbone.conv1.4")
        x = self.unit(x, "backbone.conv1.6", "backbone.bn1")
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        outputs = []
        for stage, blocks in enumerate(BLOCKS):
            for block in range(blocks):
                name = f"backbone.layer{stage + 1}.{block}"
                # Output stride 16: the last stage keeps its size; all but its first block are dilated by 2.
                stride = 2 if block == 0 and stage in (1, 2) else 1
                dilation = 2 if block > 0 and stage == 3 else 1
                y = self.unit(x, f"{name}.conv1", f"{name}.bn1")
                y = self.unit(y, f"{name}.conv2", f"{name}.bn2", stride, dilation)
                y = self.norm(self.conv(y, f"{name}.conv3"), f"{name}.bn3")
                if block == 0:
                    x = self.norm(self.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
                x = F.relu(x + y)
            outputs.append(x)
        return outputs[0], outputs[3]

    def decode(self, low: Tensor, high: Tensor) -> Tensor:
        branches = [self.unit(high, "head.b0.0", "head.b0.1")]
        for index, rate in enumerate(RATES, start=1):
            branches.append(self.unit(high, f"head.b{index}.0", f"head.b{index}.1", dilation=rate))
        pooled = self.unit(F.adaptive_avg_pool2d(high, 1), "head.b4.gap.1", "head.b4.gap.2")
        branches.append(resize(pooled, high.shape[-2:]))
        high = resize(self.unit(torch.cat(branches, 1), "head.project.0", "head.project.1"), low.shape[-2:])
        x = torch.cat((self.unit(low, "reduce.0", "reduce.1"), high), 1)
        x = self.unit(self.unit(x, "fuse.0", "fuse.1"), "fuse.3", "fuse.4")
        return self.conv(x, "classifier")


def resize(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


@pytest.fixture(scope="module")
def released() -> State:
    return make_released_state()


@pytest.fixture(scope="module")
def net(released: State, tmp_path_factory: pytest.TempPathFactory) -> Segmentor:
    path: Path = tmp_path_factory.mktemp("released") / "resnet50.pth"
    torch.save({"model": {f"module.{key}": value for key, value in released.items()}}, path)
    config = ModelConfig(
        EncoderConfig("resnet50s", "none", output_stride=16), Section("deeplabv3plus", DeepLabV3PlusConfig())
    )
    with pytest.MonkeyPatch.context() as patch:
        narrow_networks(patch)
        net = build_segmentor(config, NUM_CLASSES).double()
    assert "tensors)" in weights.load_segmentor(net, path, "resnet50s", "deeplabv3plus")
    return net


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_logits_equal_the_published_network(net: Segmentor, released: State, training: bool) -> None:
    image = torch.randn(2, 3, 65, 49, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    saved = {key: value.clone() for key, value in net.state_dict().items()}
    with torch.no_grad():
        ours = net.train(training)(image)["logits"]
        published = Published(released, training)
        theirs = resize(published.decode(*published.features(image)), image.shape[-2:])
    net.load_state_dict(saved)
    assert ours.shape == (2, NUM_CLASSES, 65, 49)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_perturbed_features_share_one_decoder_batch(net: Segmentor, released: State) -> None:
    """METHODS of UniMatch: cat(clean, dropped) features through the head at once, in train mode."""
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(2, 3, 49, 65, dtype=torch.float64, generator=generator)
    masks = [2.0 * torch.randint(0, 2, (2, channels, 1, 1), generator=generator) for channels in (32, 256)]
    with_dropped: Callable[[Tensor, Tensor], Tensor] = lambda x, mask: torch.cat((x, x * mask))  # noqa: E731
    saved = {key: value.clone() for key, value in net.state_dict().items()}
    with torch.no_grad():
        ours = net.train()(image, lambda fs: [with_dropped(f, m) for f, m in zip(fs, masks, strict=True)])[
            "logits"
        ]
        published = Published(released, training=True)
        low, high = published.features(image)
        theirs = published.decode(with_dropped(low, masks[0]), with_dropped(high, masks[1]))
        alone = published.decode(low, high)
    net.load_state_dict(saved)
    assert ours.shape == (4, NUM_CLASSES, 49, 65)
    torch.testing.assert_close(ours, resize(theirs, image.shape[-2:]), rtol=1e-9, atol=1e-9)
    # Batch statistics are those of clean and dropped features together: the clean half is not a pass alone.
    assert (theirs[:2] - alone).abs().max() > 1e-3
