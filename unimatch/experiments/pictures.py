"""Pictures of what runs predict, as JPEG strips: the same samples, spread evenly over the evaluation set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from unimatch.codecs.encode import jpeg
from unimatch.codecs.picture import scaled
from unimatch.data.load import load_pair
from unimatch.engine.checkpoint import check_shards
from unimatch.engine.restore import Restored, restore
from unimatch.engine.run_data import open_shards
from unimatch.engine.runtime import Runtime
from unimatch.engine.selection import evenly

SIDE, GAP, QUALITY = 240, 4, 80


class Strips:
    """Of runs that were evaluated on the same samples."""

    def __init__(self, count: int) -> None:
        """count: samples in a strip."""
        self._count = count
        self._runtime = Runtime()
        self._samples: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # decoded, shown, label

    def truth(self, folder: Path) -> bytes:
        """The samples of a run, above their labels."""
        one = self._open(folder)
        shown = [picture for _, picture, _ in self._samples]
        labels = [one.task.paint(picture, label) for _, picture, label in self._samples]
        return jpeg(np.concatenate([_beside(shown), _beside(labels)]), QUALITY)

    def predicted(self, folder: Path) -> bytes:
        """What the last network of a run says of them."""
        one, tiles = self._open(folder), []
        for image, picture, _ in self._samples:
            with torch.inference_mode():
                ids = one.task.predict(one.net, torch.from_numpy(image)[None].to(self._runtime.device))[0]
            tiles.append(one.task.paint(picture, ids.cpu().numpy()))
        return jpeg(_beside(tiles), QUALITY)

    def _open(self, folder: Path) -> Restored:
        one = restore(folder, "last", None, self._runtime)
        if not self._samples:
            data = one.config.data
            shards = open_shards(data.shards, data.cache)
            check_shards(one.state, shards, one.folder)
            for row in evenly(shards.rows(data.val or ""), self._count):
                part, label = load_pair(shards, int(row), shards.taxonomy.num_classes, one.task.decode)
                picture = scaled(one.task.show(part.pixels)[-1], SIDE)
                self._samples.append((part.pixels, picture, label))
        return one


def _beside(tiles: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 [H, W, 3]: pictures side by side on white."""
    height = max(tile.shape[0] for tile in tiles)
    padded = [
        np.pad(tile, ((0, height - tile.shape[0] + GAP), (0, GAP), (0, 0)), constant_values=255)
        for tile in tiles
    ]
    return np.concatenate(padded, axis=1)
