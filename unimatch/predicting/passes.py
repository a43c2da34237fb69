"""Images of one size on their way through a network: as many at a time as the memory bears."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from unimatch.engine.memory import refuse_too_large

LARGE = 3 << 22  # numbers of an image that is predicted alone, and only if it fits into memory
IMAGES_PER_PASS = 8  # bounds the memory; the result does not depend on it


def passes(
    network: nn.Module, batch: np.ndarray, in_one_pass: bool, per_pass: int = IMAGES_PER_PASS
) -> Iterator[Tensor]:
    """Parts of a batch [B, ..., H, W, C] of images as decoded, on the network's device.

    in_one_pass: the network sees whole images. DataError: they are too large for the memory then.
    """
    device = next(network.parameters()).device
    if batch[0].size > LARGE:
        per_pass = 1
        if in_one_pass:
            refuse_too_large(network, batch.shape, device)
    for start in range(0, len(batch), per_pass):
        yield torch.from_numpy(batch[start : start + per_pass]).to(device)
