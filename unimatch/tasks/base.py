"""What every task offers: the views of its samples, its losses, its predictions and its metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from unimatch.codecs.bands import Bands
from unimatch.codecs.part import Part, Rect
from unimatch.codecs.picture import as_rgb, overlay
from unimatch.codecs.sheet import class_legend
from unimatch.data.sample import Batch
from unimatch.losses import PseudoLabels
from unimatch.metrics import Metric
from unimatch.registry import Registry
from unimatch.shardset.archive import Record
from unimatch.taxonomy import Taxonomy

TASKS = Registry("task")

RawMicro = Mapping[str, Any]
"""A micro-batch as the loader stacks it: {"labeled": {name: tensor}, "unlabeled": {name: tensor} or None}."""


class Needs(Protocol):
    """The part of a method's needs that a transform must know."""

    @property
    def num_strong(self) -> int: ...

    @property
    def partner(self) -> Any: ...

    @property
    def ops(self) -> str | None: ...

    @property
    def boxes(self) -> str | None: ...

    @property
    def areas(self) -> tuple[tuple[str, str], ...]: ...

    @property
    def labeled_areas(self) -> tuple[tuple[str, str], ...]: ...

    @property
    def strong_labeled(self) -> bool: ...


class Task(ABC):
    """One kind of data. It knows no method, no optimiser and no process."""

    taxonomy: Taxonomy
    headline: str
    """The metric's figure by which runs are compared: a fraction, of which more is better."""

    units: ClassVar[Mapping[str, str]] = {}
    """The unit of each figure that is no fraction; all others are shown in percent."""

    mean: Tensor
    std: Tensor
    """[C, 1, 1]: what `normalize` subtracts from images, and divides them by, in their own values."""

    channels: int = 3
    """Channels of the images, which the encoder must take."""

    bands: Bands | None = None
    """What the channels are, of images that are no ordinary pictures."""

    dates: ClassVar[int] = 1
    """Images a sample: 2 for pairs, which need a network for pairs."""

    background: ClassVar[int | None] = None
    """The class id over which overlays leave the picture as it is; None: all classes are coloured."""

    @staticmethod
    @abstractmethod
    def decode(record: Record, rect: Rect | None = None) -> Part:
        """Pixels [h, w, C], or [dates, h, w, C] of more than one date: at least those of `rect` of a sample's
        image, without it all; see data.images.

        DataError if the sample is of another kind.
        """

    def unit(self, key: str) -> str:
        """What a sample is evaluated with: samples of one unit are given to one metric, on one process."""
        return key

    def blank(self, height: int, width: int) -> np.ndarray:
        """A black image, as `decode` gives it."""
        shape = (height, width, self.channels)
        dtype = np.dtype(np.uint8) if self.bands is None else self.bands.dtype
        return np.zeros(shape if self.dates == 1 else (self.dates, *shape), dtype)

    def show(self, image: np.ndarray) -> list[np.ndarray]:
        """uint8 [H, W, 3]: each date of an image as decoded, for people."""
        shown = as_rgb if self.bands is None else self.bands.picture
        return [shown(date) for date in (image if self.dates > 1 else [image])]

    def paint(self, picture: np.ndarray, label: np.ndarray, alpha: float = 0.5) -> np.ndarray:
        """uint8 [H, W, 3]: class ids [h, w] over a picture, stretched to its size if they have another."""
        return overlay(picture, label, self.taxonomy.colors, alpha, self.background)

    def legend(self, ignored: str = "not labelled") -> list[tuple[str, np.ndarray]]:
        """What `paint` draws: (name, swatch) of each class and of pixels of none, see codecs.sheet."""
        return class_legend(self.taxonomy.names, self.taxonomy.colors, self.background, ignored)

    def part_of_image(self, width: int, height: int) -> float:
        """The share of an image of this size that a training crop shows, at scale 1."""
        return 1.0

    def without_effect(self) -> list[str]:
        """Settings of the task that do nothing as they stand, a sentence each."""
        return []

    def views_on_device(self, has_accelerator: bool) -> bool:
        """Whether the configuration leaves strong views to `to_device`, in a run on an accelerator or not."""
        return False

    @abstractmethod
    def transform(self, needs: Needs, on_device: bool = False) -> Any:
        """The picklable object that turns decoded samples into the arrays that `to_device` takes.

        on_device: as `views_on_device` said; False for a task that cannot.
        """

    @abstractmethod
    def pixel_counts(self, raw: RawMicro) -> list[int]:
        """How many pixels each mean of this micro-batch's losses is taken over."""

    @abstractmethod
    def to_device(self, raw: RawMicro, device: torch.device, shares: Tensor | None = None) -> Batch:
        """The micro-batch that methods see, on `device`.

        shares: float [n], on the CPU, in the order of `pixel_counts`; None: 1 each, so that every micro-batch
        counts the same. With own count / mean count of all micro-batches of a step, the mean of their losses
        is the global mean.
        """

    @abstractmethod
    def supervised_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss over labelled pixels, a scalar."""

    @abstractmethod
    def consistency_loss(self, logits: Tensor, pseudo: PseudoLabels) -> Tensor:
        """The mean loss against pseudo-labels, a scalar."""

    def predict(self, net: nn.Module, image: Tensor) -> Tensor:
        """uint8 [B, H, W]: class ids of images as decoded. Leaves `net` in eval mode."""
        return self.predicted(net, image)[0]

    @abstractmethod
    def predicted(self, net: nn.Module, image: Tensor, sure: bool = False) -> tuple[Tensor, Tensor | None]:
        """What `predict` says; sure: and float32 [B, H, W], the probabilities of these classes."""

    @abstractmethod
    def spread(self, net: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
        """What `predict` says, and float32 [B, K, H, W]: the probabilities of all classes."""

    @abstractmethod
    def metric(self, device: torch.device | str = "cpu") -> Metric:
        """An empty metric for this task's classes."""

    @abstractmethod
    def figures(self, metric: Any) -> dict[str, Any]:
        """What a metric of this task says, for JSON: single figures, `headline` among them, and tables of
        figures by class name, all with the same classes. None: nothing defines it (an absent class).
        """

    @abstractmethod
    def pictures(self, net: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
        """uint8 [H, W, 3] by name: what `net` sees and says of a batch. Leaves `net` in eval mode."""
