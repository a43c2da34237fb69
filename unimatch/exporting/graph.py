"""The whole way from stored pixels to class ids as one module, and which of its sizes are free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unimatch.engine.restore import Restored
from unimatch.engine.run_config import RunConfig
from unimatch.errors import UserError
from unimatch.models.same_padding import followed
from unimatch.tasks.base import Task
from unimatch.tasks.prediction import EvaluateConfig


class Graph(nn.Module):
    """Normalisation, a copy of the network and the choice of classes, as the task predicts in evaluation.

    half: the network computes in fp16; normalisation and the softmax stay in fp32.
    """

    def __init__(self, net: nn.Module, task: Task, half: bool = False) -> None:
        super().__init__()
        net = followed(net)
        self.net = Half(net) if half else net
        self.task = task

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image [B, ..., H, W, C] as stored -> class ids uint8 [B, H, W], their probabilities float32."""
        ids, conf = self.task.predicted(self.net, image, sure=True)
        assert conf is not None
        return ids, conf


class Half(nn.Module):
    """A network in fp16 behind fp32 images, whose logits the task takes to fp32; it is changed for good."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.half()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": self.net(image.half())["logits"]}


@dataclass(frozen=True)
class Sizes:
    """shape: of the images that the file is made with, [B, ..., H, W, C]. fixed: why the file takes no other
    height and width; None: it takes any. The number of images is always free.
    """

    shape: tuple[int, ...]
    fixed: str | None

    @property
    def free(self) -> dict[int, str]:
        """The axes that may have any length, by their names."""
        axes = len(self.shape)
        sides = {} if self.fixed else {axes - 3: "height", axes - 2: "width"}
        return {0: "batch", **sides}

    @property
    def taken(self) -> tuple[int, ...] | None:
        """Height and width that the file takes; None: any."""
        return self.shape[-3:-1] if self.fixed else None

    def takes(self, image: np.ndarray) -> bool:
        """Whether the file takes images [B, ..., H, W, C]."""
        return self.taken is None or image.shape[-3:-1] == self.taken

    def describe(self) -> str:
        """For people."""
        if self.fixed is None:
            return "any number of images of any size"
        height, width = self.shape[-3:-1]
        return f"any number of images of {width}x{height} pixels, no other size: {self.fixed}"


def sizes_of(config: RunConfig, patch: int, shape: tuple[int, ...]) -> Sizes:
    """shape: of one batch of images. patch: of the encoder."""
    evaluate = config.task.config.evaluate
    fixed = None
    if isinstance(evaluate, EvaluateConfig):  # medical slices of any size are resized to the crop
        if patch > 1:
            fixed = (
                f"{config.model.encoder.name} adds a position to each patch of {patch} pixels, and positions "
                "for another number of patches are interpolated anew by Python"
            )
        elif evaluate.multiple_of > 1:
            fixed = f"task.evaluate.multiple_of resizes images to multiples of {evaluate.multiple_of} pixels"
    return Sizes((2, *shape[1:]), fixed)  # an axis of length 1 would be taken for one that never has another


def in_one_pass(config: RunConfig, patch: int, asked: bool) -> None:
    """Has images predicted in one pass, if that was `asked` for. UserError: it was not, and is not the run's
    way.
    """
    evaluate = config.task.config.evaluate
    if not isinstance(evaluate, EvaluateConfig) or evaluate.mode == "whole":
        return
    if not asked:
        raise UserError(
            f"task.evaluate.mode of this run is {evaluate.mode}, and a file is one pass of the network: the "
            "windows are cut, and their probabilities summed, by a loop around it. --mode whole exports the "
            "network for images in one pass, and compares with that"
        )
    config.task.config.evaluate = EvaluateConfig(multiple_of=patch)


def example(task: Task, sizes: Sizes) -> Tensor:
    """Black images of the shape that the file is made with."""
    return torch.zeros(sizes.shape, dtype=getattr(torch, task.blank(1, 1).dtype.name))


def description(found: Restored, sizes: Sizes, precision: str) -> dict[str, Any]:
    """What a file says about itself, for JSON: what goes in, what comes out, and what the classes are.

    found: the restored network.
    """
    task = found.task
    layout = ["batch", *(["date"] if task.dates > 1 else []), "height", "width", "channel"]
    return {
        "task": found.config.task.name,
        "classes": list(task.taxonomy.names),
        "colors": [list(color) for color in task.taxonomy.colors],
        "ignored": 255,
        "input": {
            "name": "image",
            "layout": layout,
            "dtype": task.blank(1, 1).dtype.name,
            "channels": task.channels,
            "size": sizes.taken and list(sizes.taken),
            "fixed": sizes.fixed,
            "bands": None if task.bands is None else task.bands.to_json(),
            "preparation": None if found.prepared is None else found.prepared.to_json(),
        },
        "outputs": ["ids", "confidence"],
        "precision": precision,
        "encoder": found.config.model.encoder.name,
        "head": found.config.model.head.name,
        "method": found.config.method.name,
        "network": found.network,
        "step": found.state.step,
    }
