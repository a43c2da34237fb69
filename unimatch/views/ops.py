"""Image operations of the views, on uint8 [H, W, 3] RGB arrays and uint8 [H, W] label arrays.

Nothing here draws a random number: every function is told exactly what to do, and returns its result, which
is `out` where that is given. The definitions are those of PIL (which torchvision calls for PIL images),
because the published numbers were made with them; OpenCV does the work because it is several times faster. No
function changes its input.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from PIL import Image

from unimatch.codecs import compiled
from unimatch.codecs.part import Part, Rect, as_part
from unimatch.views import resize

Out = np.ndarray | None  # where to write the result, of its shape and type: not the input

# PIL's blends truncate, OpenCV rounds. A little less than a half, so that an integer result stays what it is.
TRUNCATE = -0.499
BOXES = 3  # box filters that Pillow blurs with


def resized_size(width: int, height: int, long_side: int) -> tuple[int, int]:
    """(width, height) with the long side as asked and the short side rounded half up, at least 1."""
    if height > width:
        return max(int(1.0 * width * long_side / height + 0.5), 1), long_side
    return long_side, max(int(1.0 * height * long_side / width + 0.5), 1)


def _span(start: int, stop: int, step: float, size: int) -> tuple[int, int]:
    """The source pixels that output pixels [start, stop) can touch, one to spare on each side."""
    reach = max(step, 1.0) + 1.0
    return max(math.floor(start * step - reach), 0), min(math.ceil(stop * step + reach), size)


def source(width: int, height: int, size: tuple[int, int], region: Rect) -> Rect:
    """The pixels of a width x height image that `region` of it resized to `size` = (width, height) is made
    of, and one more on each side.
    """
    left, right = _span(region[0], region[2], width / size[0], width)
    top, bottom = _span(region[1], region[3], height / size[1], height)
    return left, top, right, bottom


def crop_into(
    out: np.ndarray, image: Part | np.ndarray, size: tuple[int, int], region: Rect, flip: bool
) -> None:
    """Fill uint8 [S, S, 3] with `region` of `image` resized to `size`, at the top left, and 0 elsewhere; then
    mirror it if asked. By `resize.resize_into` where it is compiled, else by `resize_crop`: both are at most
    one level off from Pillow.
    """
    part = as_part(image)
    if not compiled.AVAILABLE:
        out[...] = pad_flip(resize_crop(part, size, region), out.shape[1], 0, flip)
        return
    width, height = region[2] - region[0], region[3] - region[1]
    if (height, width) != out.shape[:2]:
        out[...] = 0
    whole = part.width, part.height
    resize.resize_into(out, part.pixels, (part.left, part.top), whole, size, region, flip)


def resize_crop(image: Part | np.ndarray, size: tuple[int, int], region: Rect) -> np.ndarray:
    """uint8 [y1-y0, x1-x0, 3]: `region` of `image` resized to `size` = (width, height), at most one level off
    from PIL's bilinear resize of the whole image followed by the crop.

    Only the source pixels under the region are read. PIL's bilinear filter widens when it shrinks
    (antialiasing), and its `box` takes fractions, so that the taps are those of the full resize. When no axis
    shrinks the filter is plain bilinear interpolation, which OpenCV 5 computes at exact positions in half the
    time (OpenCV 4 rounds positions to 1/32 pixel; cv2.INTER_AREA is another filter).
    """
    part = as_part(image)
    x0, y0, x1, y1 = region
    step_x, step_y = part.width / size[0], part.height / size[1]
    left, top, right, bottom = rect = source(part.width, part.height, size, region)
    assert part.covers(rect), "the part does not hold what the region needs"
    pixels = part.pixels[top - part.top : bottom - part.top, left - part.left : right - part.left]
    if step_x <= 1.0 and step_y <= 1.0:
        to_source = np.array(
            [[step_x, 0.0, (x0 + 0.5) * step_x - 0.5 - left], [0.0, step_y, (y0 + 0.5) * step_y - 0.5 - top]]
        )
        return cv2.warpAffine(
            pixels,
            to_source,
            (x1 - x0, y1 - y0),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
            hint=cv2.ALGO_HINT_ACCURATE,
        )
    box = (
        x0 * step_x - left,
        y0 * step_y - top,
        min(x1 * step_x - left, float(right - left)),
        min(y1 * step_y - top, float(bottom - top)),
    )
    resized = Image.fromarray(pixels).resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized)


def _nearest(in_size: int, out_size: int, start: int, stop: int) -> np.ndarray:
    """int64 [stop-start]: the source index of each output pixel; PIL adds up the step, and so do we."""
    step = in_size / out_size
    positions = np.full(stop, step)
    positions[0] = 0.5 * step
    return np.minimum(np.cumsum(positions)[start:].astype(np.int64), in_size - 1)


def resize_crop_nearest(label: np.ndarray, size: tuple[int, int], region: Rect) -> np.ndarray:
    """uint8 [y1-y0, x1-x0]: exactly PIL's nearest resize of the whole label to `size`, then the crop."""
    x0, y0, x1, y1 = region
    rows = _nearest(label.shape[0], size[1], y0, y1)
    columns = _nearest(label.shape[1], size[0], x0, x1)
    return label[rows][:, columns]


def pad_flip(array: np.ndarray, crop: int, fill: int, flip: bool) -> np.ndarray:
    """uint8 [crop, crop, ...]: a new array: `array` at the top left, `fill` elsewhere, mirrored if asked."""
    padded = np.full((crop, crop, *array.shape[2:]), fill, np.uint8)
    padded[: array.shape[0], : array.shape[1]] = array
    return cv2.flip(padded, 1) if flip else padded


def adjust_brightness(image: np.ndarray, factor: float, out: Out = None) -> np.ndarray:
    """Blend with black: factor * image, clipped."""
    return cv2.addWeighted(image, factor, image, 0.0, TRUNCATE, out)


def adjust_contrast(image: np.ndarray, factor: float, out: Out = None) -> np.ndarray:
    """Blend with the rounded mean of the grey image."""
    mean = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return cv2.addWeighted(image, factor, image, 0.0, (1.0 - factor) * mean + TRUNCATE, out)


def adjust_saturation(image: np.ndarray, factor: float, out: Out = None) -> np.ndarray:
    """Blend with the grey image."""
    return cv2.addWeighted(image, factor, grayscale(image), 1.0 - factor, TRUNCATE, out)


def adjust_hue(image: np.ndarray, shift: float, out: Out = None) -> np.ndarray:
    """Hue turned by `shift` of a full circle, in 8-bit HSV with 256 hues; grey pixels stay as they are."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(shift * 256) % 256)  # wraps around
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL, out)


JITTER = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}


def grayscale(image: np.ndarray, out: Out = None) -> np.ndarray:
    """uint8 [H, W, 3]: luma (0.299, 0.587, 0.114) three times."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB, out)


def box_radius(sigma: float) -> float:
    """Half the length of a box filter with fractions of a pixel at its ends, whose variance is sigma**2 / 3.

    Gwosdek et al., Theoretical foundations of Gaussian convolution by extended box filtering, 2011.
    """
    variance = sigma**2 / BOXES
    whole = math.floor((math.sqrt(12.0 * variance + 1.0) - 1.0) / 2.0)
    rest = (2 * whole + 1) * (whole * (whole + 1) - 3.0 * variance) / (6.0 * (variance - (whole + 1) ** 2))
    return whole + rest


def blur_kernel(sigma: float) -> np.ndarray:
    """float32 [2r+1]: the published blur, Pillow's GaussianBlur: three box filters, here as one, of variance
    sigma**2 together; in steps of 1/256 and with sum 1.

    A Gaussian of this variance keeps up to 15 % more of a photograph's gradients. OpenCV rounds the taps of
    an 8-bit filter to 1/256 each; rounded here, with the rest given to the centre, they keep their sum.
    """
    radius = box_radius(sigma)
    places = np.abs(np.arange(-math.floor(radius) - 1, math.floor(radius) + 2))
    box = np.minimum(1.0, radius + 1.0 - places) / (2.0 * radius + 1.0)
    whole = np.convolve(np.convolve(box, box), box)
    side = np.rint(256.0 * whole[len(whole) // 2 + 1 :])
    side = side[: np.count_nonzero(side)]  # taps fall monotonically
    kernel = np.concatenate([side[::-1], [256.0 - 2.0 * side.sum()], side])
    return (kernel / 256.0).astype(np.float32)


def gaussian_blur(image: np.ndarray, sigma: float, out: Out = None) -> np.ndarray:
    """Pillow's GaussianBlur, but for its rounding after each box. Border pixels are repeated outwards."""
    kernel = blur_kernel(sigma)
    return cv2.sepFilter2D(image, -1, kernel, kernel, out, borderType=cv2.BORDER_REPLICATE)
