"""How far images lie from the labelled ones among an encoder's features, as `rank` measures it."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from unimatch.codecs.decode import decode_image
from unimatch.curation.appended import appended
from unimatch.errors import UserError
from unimatch.models.base import Encoder
from unimatch.predicting.looks import unit_length
from unimatch.predicting.ranking import distances
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.key_list import list_hash

BATCH, CPU_BATCH = 64, 4  # on a CPU few: their features stay in the caches, and memory is not asked for anew


class Embedding:
    """Features of whole images: each resized to `side` x `side` pixels, the mean of the encoder's deepest
    feature, of length 1. name: of the encoder and its weights, for the names of files.
    """

    def __init__(self, encoder: Encoder, name: str, side: int, device: torch.device) -> None:
        if side % encoder.patch:
            raise UserError(
                f"--side must be a multiple of {encoder.patch}, the encoder's patch, found {side}"
            )
        self.encoder, self.name, self.side, self.device = encoder.to(device).eval(), name, side, device
        self.batch = CPU_BATCH if device.type == "cpu" else BATCH
        self._mean = torch.tensor(encoder.mean, device=device).view(-1, 1, 1) * 255
        self._std = torch.tensor(encoder.std, device=device).view(-1, 1, 1) * 255

    def features(self, shards: ShardSet, rows: np.ndarray, pool: ThreadPoolExecutor) -> np.ndarray:
        """float32 [n, C] of samples."""
        found = []
        for start in range(0, len(rows), self.batch):
            some = rows[start : start + self.batch].tolist()
            images = list(pool.map(partial(self._image, shards), some))
            batch = torch.from_numpy(np.stack(images)).to(self.device).permute(0, 3, 1, 2).float()
            with torch.inference_mode():
                deepest = self.encoder((batch - self._mean) / self._std)[-1].float().mean((-2, -1))
            found.append(unit_length(deepest.cpu().numpy()))
        return np.concatenate(found)

    def _image(self, shards: ShardSet, row: int) -> np.ndarray:
        """uint8 [side, side, 3]."""
        record = shards.read(row)
        image = decode_image(record.image, record.where)
        if image.dtype != np.uint8 or image.shape[2:] != (3,):
            raise UserError(f"{record.where}: --encoder is for colour images of 8 bits a channel")
        return cv2.resize(image, (self.side, self.side), interpolation=cv2.INTER_AREA)


def unlike(
    shards: ShardSet,
    rows: np.ndarray,
    reference: ShardSet,
    labeled: np.ndarray,
    embedding: Embedding,
    folder: Path,
) -> np.ndarray:
    """float32 [n]: the distance of each of the `rows` from the nearest labelled sample of `reference`, 0 to
    2. They lie in a file of the folder, which goes on where it was.
    """
    told = [one.info["index"]["sha256"] for one in (shards, reference)]
    told += [embedding.name, str(embedding.side)]
    told += [list_hash(one.keys(some)) for one, some in ((shards, rows), (reference, labeled))]
    path = folder / f"distances-{hashlib.sha256(' '.join(told).encode()).hexdigest()[:16]}.bin"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        known = embedding.features(reference, labeled, pool)

        def made(places: np.ndarray) -> np.ndarray:
            found = embedding.features(shards, rows[places], pool)
            return np.array([distances(known, one).min() for one in found], np.float32)

        return appended(path, len(rows), 1, np.float32, made, "distances")[:, 0]
