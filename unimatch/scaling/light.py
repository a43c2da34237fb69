"""A network whose encoder computes nothing: it knows what its passes would take, and gives features of the
right shapes. The methods of an experiment share their encoders, which are nearly all of what is counted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from unimatch import config as config_io
from unimatch.engine.run_config import RunConfig
from unimatch.models.base import Encoder
from unimatch.models.segmentor import Segmentor
from unimatch.scaling.footprint import block_sizes, flop_counter, on_cpu, shape_only

IMAGES = 2  # of the pass that is counted, which norms need


@dataclass(frozen=True)
class EncoderCost:
    """Of one image: the shapes of its features, and the operations of a pass and of going back."""

    shapes: list[torch.Size]
    forward: float
    backward: float


class Tally:
    """Operations that nobody made; one for a network and all copies of it."""

    def __init__(self) -> None:
        self.operations = 0.0

    def __deepcopy__(self, memo: object) -> Tally:
        return self


class LightEncoder(Encoder):
    """Features without values, on torch's meta device, and their cost in `tally`."""

    def __init__(self, encoder: Encoder, cost: EncoderCost) -> None:
        super().__init__()
        self.channels, self.strides, self.patch = encoder.channels, encoder.strides, encoder.patch
        self.mean, self.std = encoder.mean, encoder.std
        self.cost, self.tally = cost, Tally()
        self.scale = nn.Parameter(torch.ones((), device="meta"), requires_grad=cost.backward > 0)

    def forward(self, image: Tensor) -> list[Tensor]:
        going_back = torch.is_grad_enabled() and self.scale.requires_grad
        each = self.cost.forward + (self.cost.backward if going_back else 0.0)
        self.tally.operations += len(image) * each
        return [self.scale * image.new_empty(len(image), *shape) for shape in self.cost.shapes]


@dataclass(frozen=True)
class LightNetwork:
    """The network for crops of one size; all else is of the whole one. blocks: of the encoder, which FSDP
    gathers one by one. rest: parameters that lie in none.
    """

    net: Segmentor
    tally: Tally
    parameters: int
    norms: int
    blocks: int
    rest: int


class LightNetworks:
    """Each network once, whatever the method, the lists and the length of the runs."""

    def __init__(self) -> None:
        self._known: dict[str, LightNetwork] = {}

    def of(self, config: RunConfig, num_classes: int, dates: int) -> LightNetwork:
        """The network of a run."""
        crop, recompute = config.task.config.views.crop, config.activation_checkpointing
        key = json.dumps([config_io.plain(config.model), num_classes, dates, crop, recompute])
        if key not in self._known:
            net = shape_only(config.model, num_classes, recompute, dates)
            parameters = sum(p.numel() for p in net.parameters())
            norms = sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())
            blocks = block_sizes(net)
            rest = parameters - sum(blocks)
            shape = (config.model.encoder.in_channels, crop, crop)
            net.encoder = encoder = LightEncoder(net.encoder, cost_of(net.encoder, shape))
            self._known[key] = LightNetwork(net, encoder.tally, parameters, norms, max(1, len(blocks)), rest)
        return self._known[key]


def cost_of(encoder: Encoder, shape: Sequence[int]) -> EncoderCost:
    """The cost of an encoder, of images [C, H, W] in training.

    encoder: on the meta device; it is left with parameters that have no values.
    """
    with FakeTensorMode(), flop_counter() as counter:
        on_cpu(encoder.train())
        features: list[Tensor] = encoder(torch.empty(IMAGES, *shape, memory_format=torch.channels_last))
        forward = counter.get_total_flops()
        trained = [feature.sum() for feature in features if feature.requires_grad]
        if trained:
            torch.stack(trained).sum().backward()
    backward = counter.get_total_flops() - forward
    return EncoderCost([feature.shape[1:] for feature in features], forward / IMAGES, backward / IMAGES)
