"""Section 1 of the method's definition as it is commonly written: the baseline of the input benchmark.

A file an image, Pillow, the whole image resized before it is cropped, masks of unlabelled images read too,
float tensors normalised on the CPU, masks of valid pixels and boxes as tensors, torch's DataLoader. Not for
training: `unimatch.data` makes the same views, see docs/input.md.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from unimatch.taxonomy import IGNORE_INDEX

NORMALIZE = transforms.Compose(
    [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
)
JITTER = transforms.ColorJitter(0.5, 0.5, 0.5, 0.25)
GRAY = transforms.RandomGrayscale(p=0.2)


class LiteralImages(Dataset[tuple[Tensor, ...]]):
    """Pairs of files (image, mask). An unlabelled item: weak view, two strong ones, valid mask, two boxes."""

    def __init__(self, pairs: Sequence[tuple[Path, Path]], crop: int, labeled: bool) -> None:
        self.pairs = pairs
        self.crop = crop
        self.labeled = labeled

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        files = Image.open(self.pairs[index][0]).convert("RGB"), Image.open(self.pairs[index][1])
        image, mask = _crop(*_resize(*files), self.crop)
        if random.random() < 0.5:
            image, mask = ImageOps.mirror(image), ImageOps.mirror(mask)
        if self.labeled:
            return NORMALIZE(image), torch.from_numpy(np.array(mask)).long()
        strong = [_strong(image) for _ in range(2)]
        ignored = torch.from_numpy(np.array(mask)).long()
        valid = torch.where(ignored == IGNORE_INDEX, IGNORE_INDEX, torch.zeros_like(ignored))
        boxes = [_box(self.crop) for _ in range(2)]
        return (NORMALIZE(image), *map(NORMALIZE, strong), valid, *boxes)


def _resize(image: Image.Image, mask: Image.Image) -> tuple[Image.Image, Image.Image]:
    width, height = image.size
    long_side = random.randint(int(max(width, height) * 0.5), int(max(width, height) * 2.0))
    scale = long_side / max(width, height)
    size = int(width * scale + 0.5), int(height * scale + 0.5)
    return image.resize(size, Image.Resampling.BILINEAR), mask.resize(size, Image.Resampling.NEAREST)


def _crop(image: Image.Image, mask: Image.Image, crop: int) -> tuple[Image.Image, Image.Image]:
    width, height = image.size
    pad = (0, 0, max(crop - width, 0), max(crop - height, 0))
    image, mask = ImageOps.expand(image, pad, 0), ImageOps.expand(mask, pad, IGNORE_INDEX)
    x, y = random.randint(0, image.size[0] - crop), random.randint(0, image.size[1] - crop)
    box = (x, y, x + crop, y + crop)
    return image.crop(box), mask.crop(box)


def _strong(image: Image.Image) -> Image.Image:
    if random.random() < 0.8:
        image = JITTER(image)
    image = GRAY(image)
    if random.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(np.random.uniform(0.1, 2.0)))
    return image


def _box(crop: int) -> Tensor:
    mask = torch.zeros(crop, crop)
    if random.random() < 0.5:
        return mask
    area = np.random.uniform(0.02, 0.4) * crop * crop
    while True:
        aspect = np.random.uniform(0.3, 1 / 0.3)
        width, height = int(math.sqrt(area / aspect)), int(math.sqrt(area * aspect))
        x, y = random.randint(0, crop - 1), random.randint(0, crop - 1)
        if x + width <= crop and y + height <= crop:
            mask[y : y + height, x : x + width] = 1
            return mask


def literal_epoch(
    pairs: Sequence[tuple[Path, Path]], crop: int, steps: int, unlabeled: int, workers: int
) -> int:
    """Read `steps` steps of 1 labelled and `unlabeled` unlabelled images; the number of unlabelled ones.

    workers: of torch's DataLoader; 0: everything in this process, without any transport.
    """
    samples = (list(pairs) * (1 + steps * unlabeled // len(pairs)))[: steps * unlabeled]
    loaders = [
        DataLoader(LiteralImages(samples[:steps], crop, True), 1, num_workers=workers),
        DataLoader(LiteralImages(samples, crop, False), unlabeled, num_workers=workers, shuffle=True),
    ]
    for _ in zip(*loaders, strict=True):
        pass
    return steps * unlabeled
