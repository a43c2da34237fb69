"""Encoders, reduced to what a head needs: a list of features, their channels and their strides.

All are timm's but `unet` and `xception65_released` (models.unet, models.xception), which are built here and
have the same attributes.
"""

import difflib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from unimatch.errors import ConfigError, UserError
from unimatch.models import unet, xception
from unimatch.models import weights as weight_files
from unimatch.models.base import Encoder
from unimatch.models.unet import UNetEncoder
from unimatch.models.vit import Positions, ViTEncoder, create_vit, is_vit
from unimatch.models.vit_weights import load_vit_weights
from unimatch.models.xception import XceptionEncoder

LOW_STRIDE = 4
OUTPUT_STRIDES = (8, 16, 32)
DEFAULT_STRIDE = 16
PROBE_SIZE = (65, 97)  # no multiples of a stride, as whole images in evaluation
DILATABLE = "resnet*, regnet*, convnext*, efficientnet*, tf_efficientnet_lite*, mobilenetv3_*, xception65"


@dataclass
class EncoderConfig:
    """Which network reads the image, and where its first weights come from."""

    name: str
    """A timm model, such as resnet50s (the published ResNet-50), tf_efficientnet_lite0 (fit for a CPU) or
    vit_base_patch14_dinov2 (UniMatch V2's, for the head dpt); or unet, the small network of the published
    medical runs, for the head unet; or xception65_released, that of the published COCO runs, which timm's
    xception65 is not in six details."""

    weights: str
    """none (random), file:PATH, package (an installed efficientnet-lite package) or hub (timm downloads).
    Of a file with a student and its moving average: file:PATH#model or file:PATH#model_ema."""

    output_stride: int | None = None
    """Image pixels per pixel of the deepest feature: 8, 16 (the default) or 32. Smaller is finer and slower.
    A vision transformer's is its patch."""

    in_channels: int = 3
    """Channels of the image. A pretrained first layer is adapted by timm's rule: summed for 1, repeated (and
    divided by as much) for more than 3, so a fourth band begins with the weights of the first."""

    freeze: bool = False
    """Keep the first weights: features without a graph, in eval mode; the head alone is trained."""

    drop_path: float = 0.0
    """Probability with which the last block is skipped for an image in training, less for earlier ones."""

    positions: Positions = "released"
    """How a vision transformer's positions are brought to another image size than that of its pretraining:
    as in DINOv2's and UniMatch V2's own code, or as in timm."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.drop_path < 1.0:
            raise ConfigError(f"encoder drop_path must lie in [0, 1), found {self.drop_path}")
        if self.name == unet.NAME and (self.freeze or self.drop_path):
            raise ConfigError(
                "encoder unet starts at random and has no paths to drop: leave out freeze, drop_path"
            )
        if is_vit(self.name):
            if self.output_stride is not None:
                raise ConfigError(
                    f"encoder output_stride is {self.output_stride}, but the stride of {self.name} is its "
                    "patch; leave it out"
                )
        elif self.positions != "released":
            raise ConfigError(f"encoder positions is {self.positions!r}, but {self.name} has no positions")
        elif self.output_stride is None:
            self.output_stride = DEFAULT_STRIDE
        if self.output_stride not in (*OUTPUT_STRIDES, None):
            raise ConfigError(f"encoder output_stride is {self.output_stride}; choose 8, 16 or 32")
        if self.in_channels < 1:
            raise ConfigError(f"encoder in_channels is {self.in_channels}; it must be at least 1")
        weight_files.check_source(self.weights)
        if self.name == unet.NAME and self.weights != "none":
            raise ConfigError(f"encoder weights is {self.weights!r}; unet starts at random, choose none")
        if self.name == unet.NAME and self.output_stride != unet.DEEPEST_STRIDE:
            raise ConfigError(
                f"encoder output_stride is {self.output_stride}; unet's is {unet.DEEPEST_STRIDE}"
            )
        if self.name == xception.NAME:
            xception.check(self.output_stride, self.weights, self.in_channels, self.drop_path)


class TimmEncoder(Encoder):
    """Features of an image, finest first: the one at stride 4 and the deepest one, or all from stride 4 on.

    timm's Xception-65 is not the released one, which is models.xception: docs/parity.md has the differences.
    """

    def __init__(self, net: nn.Module, in_channels: int, loaded: str) -> None:
        super().__init__()
        self.net = net
        info: Any = net.feature_info
        self.channels = list(info.channels())
        self.strides = list(info.reduction())
        config: Any = net.pretrained_cfg
        self.mean = _per_channel(config["mean"], in_channels)
        self.std = _per_channel(config["std"], in_channels)
        self.loaded = loaded

    def forward(self, image: Tensor) -> list[Tensor]:
        """image [B, C, H, W] -> features [B, channels[i], H / strides[i], W / strides[i]], rounded."""
        return list(self.net(image))


def build_encoder(config: EncoderConfig, levels: int = 2) -> Encoder:
    """The encoder that `config` asks for, with its first weights; UserError if it cannot do what is asked.

    levels: how many features of a pyramid the head reads, see TimmEncoder.
    Random weights come from torch's global generator: seed it before.
    """
    encoder = _built(config, levels)
    if config.freeze:
        encoder.freeze()
    return encoder


def _built(config: EncoderConfig, levels: int) -> Encoder:
    if config.name == unet.NAME:
        return UNetEncoder(config.in_channels)
    if config.name == xception.NAME:
        return _xception(config)
    if is_vit(config.name):
        return _vit(config)
    options = {
        "in_chans": config.in_channels,
        "out_indices": _probe(config, levels),
        **_create_options(config),
    }
    net: Any
    if config.weights == "none":
        net = timm.create_model(config.name, **options)
        return TimmEncoder(net, config.in_channels, "random initialisation")
    if config.weights == "hub":
        with weight_files.hub_errors(config.name), _quiet_timm():
            net = timm.create_model(config.name, pretrained=True, **options)
        return TimmEncoder(net, config.in_channels, _hub_report(config.name, net))
    source = weight_files.read_encoder_weights(config.weights, config.name)
    if source.names == "ours":
        encoder = TimmEncoder(timm.create_model(config.name, **options), config.in_channels, source.report)
        state = _first_layer(source.state, encoder.state_dict(), config.in_channels)
        weight_files.load_strictly(encoder, state, source.report)
        return encoder
    # timm loads into the classification model before it cuts the features out, and adapts the first layer.
    overlay = {"state_dict": dict(source.state)}
    with _quiet_timm():
        net = timm.create_model(config.name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    # timm keeps the settings that it built from; they would carry a second copy of the weights.
    net.pretrained_cfg = {key: value for key, value in net.pretrained_cfg.items() if key != "state_dict"}
    net.default_cfg = net.pretrained_cfg
    return TimmEncoder(net, config.in_channels, source.report)


def _xception(config: EncoderConfig) -> XceptionEncoder:
    if config.weights == "none":
        return XceptionEncoder(config.in_channels)
    source = weight_files.read_encoder_weights(config.weights, config.name)
    encoder = XceptionEncoder(config.in_channels, source.report)
    weight_files.load_strictly(encoder, source.state, source.report)
    return encoder


def _vit(config: EncoderConfig) -> ViTEncoder:
    name, channels = config.name, config.in_channels
    if config.weights == "package":
        raise UserError(f"encoder weights 'package': there is none for {name!r}; use file:PATH, hub or none")
    if config.weights == "hub":
        with weight_files.hub_errors(name), _quiet_timm():
            net = create_vit(name, channels, config.drop_path, pretrained=True)
        report = _hub_report(name, net)
    else:
        net, report = create_vit(name, channels, config.drop_path), "random initialisation"
        if config.weights != "none":
            report = load_vit_weights(net, config.weights, name, channels)
    cfg: Any = net.pretrained_cfg
    statistics = (_per_channel(cfg["mean"], channels), _per_channel(cfg["std"], channels))
    encoder = ViTEncoder(net, statistics, config.positions, report)
    if config.weights != "none":
        encoder.licence = cfg.get("license")
    return encoder


def _hub_report(name: str, net: Any) -> str:
    tag, digest = net.pretrained_cfg.get("tag") or "default", weight_files.tensors_digest(net)
    return f"timm hub {name}, tag {tag} (sha256 of the tensors {digest[:12]})"


def _create_options(config: EncoderConfig) -> dict[str, Any]:
    # 32 is what models do by themselves, and many of them take no such argument; nor one for paths to drop.
    stride = {} if config.output_stride == 32 else {"output_stride": config.output_stride}
    paths = {"drop_path_rate": config.drop_path} if config.drop_path else {}
    return {"features_only": True, **stride, **paths}


def _probe(config: EncoderConfig, levels: int) -> tuple[int, ...]:
    """Which of the model's features have stride 4 and the output stride, with those between if there are more
    than two levels; UserError if there are none.

    What the model says about its features is checked, and one that cannot serve costs no memory.
    """
    if not timm.is_model(config.name):
        near = difflib.get_close_matches(config.name, timm.list_models(), n=4, cutoff=0.3)
        raise ConfigError(
            f"timm has no model {config.name!r}; the nearest names: {', '.join(near) or 'none'}"
        )
    refusal = f"encoder {config.name!r} cannot be used with output_stride={config.output_stride}"
    advice = f"models that can: {DILATABLE}"
    try:
        options = {"in_chans": config.in_channels, **_create_options(config)}
        channels, strides, shapes = _features(timm.create_model, config.name, tuple(options.items()))
    except Exception as error:  # Models fail in their own ways: TypeError, AssertionError, ...
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{refusal} ({reason}); {advice}") from error
    low = [index for index, stride in enumerate(strides) if stride == LOW_STRIDE]
    deepest = len(strides) - 1
    if not low or strides[deepest] != config.output_stride:
        raise UserError(f"{refusal}: its features have strides {', '.join(map(str, strides))}; {advice}")
    taken = (low[-1], deepest) if levels == 2 else tuple(range(deepest + 1 - levels, deepest + 1))
    if taken[0] != low[-1]:
        raise UserError(
            f"{refusal}: the head reads {levels} features, from stride 4 on, and this encoder's have strides "
            f"{', '.join(map(str, strides))}"
        )
    for index in taken:
        exact = (2, channels[index], *(size / strides[index] for size in PROBE_SIZE))
        found = shapes[index]
        if len(found) != 4 or any(abs(a - b) >= 1 for a, b in zip(found, exact, strict=True)):
            raise UserError(f"{refusal}: a feature has the shape {found}; {advice}")
    return taken


@functools.cache
def _features(
    create: Callable[..., Any], name: str, options: tuple[tuple[str, Any], ...]
) -> tuple[list[int], list[int], list[tuple[int, ...]]]:
    """Channels and strides of a model's features as it states them, and the shapes that it gives for two
    images of PROBE_SIZE. It is built without memory, on torch's meta device: a tenth of a second and more.
    """
    with torch.device("meta"):
        net = create(name, **dict(options)).eval()
        shapes = [tuple(one.shape) for one in net(torch.zeros(2, dict(options)["in_chans"], *PROBE_SIZE))]
    return net.feature_info.channels(), net.feature_info.reduction(), shapes


def _first_layer(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], channels: int
) -> dict[str, Tensor]:
    """`state` with its convolution of 3 channels, where `wanted` has another number, adapted by timm's rule:
    summed for 1 channel; for others repeated, and divided so that equal channels give what they gave.
    """

    def fits(value: Tensor, target: Tensor | None) -> bool:
        return (
            target is not None
            and value.ndim == target.ndim == 4
            and value.shape[1] == 3
            and target.shape == (len(value), channels, *value.shape[2:])
        )

    return {
        key: adapt_input_conv(channels, value) if channels != 3 and fits(value, wanted.get(key)) else value
        for key, value in state.items()
    }


@contextmanager
def _quiet_timm() -> Iterator[None]:
    """Silences timm's warning about the classifier's tensors, which features do not use."""
    logger = logging.getLogger("timm.models._builder")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _per_channel(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    """RGB statistics for any number of channels, the way in which the first layer's weights are adapted."""
    if count == 1:
        return (sum(values) / len(values),)
    return tuple(values[index % len(values)] for index in range(count))
