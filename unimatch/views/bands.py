"""What views do to images of any number of channels, of 8 or 16 bits: the resize of a crop, and those changes
of colour that mean something for any band.

Brightness and contrast change all bands by one factor, contrast about the mean of each band by itself. Hue,
saturation and grey are of RGB, and are passed over here: what is drawn for them is drawn all the same.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unimatch.codecs.part import Part, Rect
from unimatch.views import ops

RGB = 3


def is_rgb(channels: int, dtype: object) -> bool:
    """Whether an image is taken as a photograph."""
    return channels == RGB and dtype in (np.uint8, torch.uint8)


def crop_into(out: np.ndarray, part: Part, size: tuple[int, int], region: Rect, flip: bool) -> None:
    """As ops.crop_into for [S, S, C]: channels of 8 bits three at a time by the same functions, of 16 bits by
    Pillow in floats.
    """
    channels = part.pixels.shape[-1]
    if out.dtype == np.uint8:
        made = np.empty((*out.shape[:2], RGB), np.uint8)
        for start in range(0, channels, RGB):
            places = [min(start + k, channels - 1) for k in range(RGB)]
            three = Part(part.pixels[..., places], part.left, part.top, part.width, part.height)
            ops.crop_into(made, three, size, region, flip)
            out[..., start : start + RGB] = made[..., : min(RGB, channels - start)]
        return
    x0, y0, x1, y1 = region
    step_x, step_y = part.width / size[0], part.height / size[1]
    left, top, right, bottom = rect = ops.source(part.width, part.height, size, region)
    pixels = part.cut(rect).pixels[: bottom - top, : right - left]
    box = (
        x0 * step_x - left,
        y0 * step_y - top,
        min(x1 * step_x - left, float(right - left)),
        min(y1 * step_y - top, float(bottom - top)),
    )
    out[...] = 0
    for channel in range(channels):
        plane = Image.fromarray(pixels[..., channel].astype(np.float32))
        resized = np.asarray(plane.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=box))
        out[: y1 - y0, : x1 - x0, channel] = np.rint(resized)
    if flip:
        out[...] = out[:, ::-1].copy()


def recolored(image: np.ndarray, jitter: Iterable[tuple[str, float]], sigma: float | None) -> np.ndarray:
    """[H, W, C] of the same type, changed in this order and then blurred; `image` itself if nothing is."""
    steps = [(name, factor) for name, factor in jitter if name in ("brightness", "contrast")]
    if not steps and sigma is None:
        return image
    planes = []
    for plane in cv2.split(image):
        for name, factor in steps:
            rest = (1.0 - factor) * cv2.mean(plane)[0] if name == "contrast" else 0.0
            plane = cv2.addWeighted(plane, factor, plane, 0.0, rest)
        planes.append(plane if sigma is None else ops.gaussian_blur(plane, sigma))
    return np.stack(planes, axis=-1)


def blended(
    image: Tensor, codes: Tensor, factors: Tensor, brightness: int, contrast: int, white: int
) -> Tensor:
    """Brightness and contrast of `recolored` on a device: float32 [N, C, H, W] of whole numbers.

    codes, factors: float64 [N, operations]; brightness, contrast: their codes.
    """
    for k in range(codes.shape[1]):
        to_mean = codes[:, k] == contrast
        own = torch.where((codes[:, k] == brightness) | to_mean, factors[:, k], 1.0)
        mean = image.mean((2, 3), dtype=torch.float64)
        shift = ((1.0 - own) * to_mean)[:, None] * mean
        image = image * own.float().view(-1, 1, 1, 1) + shift.float()[..., None, None]
        image = image.clamp_(0, white).round_()
    return image
