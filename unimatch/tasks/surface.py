"""Distances between the surfaces of two structures, in voxels.

The figures of MedPy, with which published tables are made, on SciPy's exact distance transform: MedPy itself
is GPL, and MONAI's HD95 is another figure, the larger of two percentiles.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage


class SurfaceDistances(NamedTuple):
    """Figures of one structure in one volume, in voxels: steps of the grid, whatever their millimetres."""

    hd95: float  # 95th percentile of the distances from each surface to the other, both directions together
    asd: float  # mean distance from the predicted surface to the true one


def surface_distances(prediction: np.ndarray, truth: np.ndarray) -> SurfaceDistances | None:
    """Distances of two bool arrays [D, H, W] (or [H, W]); None if one of them is empty.

    A structure's surface are its voxels with a face neighbour outside of it; beyond the border is outside. A
    single slice is taken as an image of two dimensions: in three all of its voxels would be surface.
    """
    if not prediction.any() or not truth.any():
        return None
    if prediction.ndim == 3 and len(prediction) == 1:
        prediction, truth = prediction[0], truth[0]
    # Nothing nearer lies beyond the box around both, and an organ is a fraction of the scan.
    (box,) = ndimage.find_objects((prediction | truth).astype(np.uint8))
    predicted, true = _surface(prediction[box]), _surface(truth[box])
    to_truth = ndimage.distance_transform_edt(~true)[predicted]
    to_prediction = ndimage.distance_transform_edt(~predicted)[true]
    hd95 = np.percentile(np.concatenate([to_truth, to_prediction]), 95)
    return SurfaceDistances(float(hd95), float(to_truth.mean()))


def _surface(mask: np.ndarray) -> np.ndarray:
    faces = ndimage.generate_binary_structure(mask.ndim, 1)
    return mask & ~ndimage.binary_erosion(mask, faces)
