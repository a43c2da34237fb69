"""Made-up scenes of bands, as GeoTIFF, and masks on their grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

rasterio = pytest.importorskip("rasterio", reason="rasters of bands need pip install unimatch[geo]")

ORIGIN = (500000.0, 5200000.0)
METRES = 10.0
# Of each class the value in four bands; the fourth tells class 2 from 1, which look alike in the others.
LEVELS = np.array([[900, 800, 700, 400], [400, 700, 500, 3500], [400, 700, 500, 600]])


def scene(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint16 [4, height, width], and uint8 [height, width] of the classes 0 to 2 that it shows."""
    random = np.random.default_rng(seed)
    rough = random.random((max(height // 24, 2), max(width // 24, 2))).astype(np.float32)
    smooth = cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
    label = np.digitize(smooth, np.quantile(smooth, [0.4, 0.7])).astype(np.uint8)
    noise = random.normal(0, 60, (4, height, width))
    return np.clip(np.moveaxis(LEVELS[label], -1, 0) + noise, 1, 10000).astype(np.uint16), label


def write(
    path: Path,
    values: np.ndarray,
    *,
    crs: str | None = "EPSG:32632",
    origin: tuple[float, float] = ORIGIN,
    metres: float = METRES,
    **options: Any,
) -> Path:
    """[bands, H, W] or [H, W] as GeoTIFF; without `crs` it has no place on earth."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = values[None] if values.ndim == 2 else values
    transform = rasterio.Affine(metres, 0, origin[0], 0, -metres, origin[1])
    place = {} if crs is None else {"crs": crs, "transform": transform}
    names = options.pop("names", None)
    with rasterio.open(
        path, "w", driver="GTiff", count=len(bands), height=bands.shape[1], width=bands.shape[2],
        dtype=bands.dtype, **place, **options,
    ) as file:  # fmt: skip
        file.write(bands)
        if names:
            file.descriptions = names
    return path


def write_scenes(root: Path, sizes: dict[str, tuple[int, int]]) -> Path:
    """scenes/NAME.tif and labels/NAME.tif of each name and (height, width)."""
    for seed, (name, size) in enumerate(sizes.items()):
        values, label = scene(*size, seed)
        write(root / "scenes" / f"{name}.tif", values)
        write(root / "labels" / f"{name}.tif", label)
    return root
