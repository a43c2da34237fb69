"""Strong views of a whole batch by plain torch operations, on whatever device holds it.

They follow the definition of views.ops to the rounding: values stay on whole grey levels after every
operation, weights and taps are the same integers, and every sum of integers stays below 2**24, where fp32 is
exact. So a pixel differs from the CPU path's only where fp32 rounds a near tie to the other side: by one
level, at about one pixel in a million, which a hue turn behind it can stretch to a few levels.

Every image has its own operations in its own order, but no shape depends on them: blends are one formula
with coefficients of each image, three before the hue turn and three after it, those not used being 1 and 0.
Nothing waits for the device.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from unimatch.views import bands
from unimatch.views.colors import JITTER_CODES, NO_JITTER
from unimatch.views.ops import BOXES, TRUNCATE, blur_kernel

PLACES = len(JITTER_CODES)
LUMA = (9798, 19235, 3735)  # 0.299, 0.587, 0.114 in units of 2**-15, as OpenCV has them
# OpenCV's 8-bit HSV divides by tables of reciprocals in units of 2**-12.
HSV_UNIT = 4096
HUES = 256  # on the way to HSV; on the way back a full circle is 255 of them


@torch.no_grad()
def strong_views(weak: Tensor, colors: Tensor, radius: int) -> tuple[Tensor, ...]:
    """V of float32 [B, C, H, W], whole numbers from 0: `weak` with the colours of each view.

    weak: uint8 RGB [B, H, W, 3], or bands [B, H, W, C] of 8 or 16 bits, see views.bands; colors: float64
    [B, V, COLOR_ROW] on the same device, see Colors.row; radius: `blur_radius` of the largest sigma that can
    come, so that shapes are always the same. fp32 under autocast too.
    """
    batch, num_views = colors.shape[:2]
    if not num_views:
        return ()
    rows = colors.transpose(0, 1).flatten(0, 1)  # view after view
    with torch.autocast(weak.device.type, enabled=False):
        planes = weak.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        repeated = planes.repeat(num_views, 1, 1, 1)
        if bands.is_rgb(planes.shape[1], weak.dtype):
            image = _recolored(repeated, rows)
        else:
            names, white = JITTER_CODES, 255 if weak.dtype == torch.uint8 else 65535
            codes, factors = rows[:, :PLACES], rows[:, PLACES : 2 * PLACES]
            image = bands.blended(repeated, codes, factors, names["brightness"], names["contrast"], white)
        if radius:
            image = blurred(image, blur_kernels(rows[:, -1], radius))
    return image.unflatten(0, (num_views, batch)).unbind(0)


def _recolored(image: Tensor, rows: Tensor) -> Tensor:
    """Jitter and grayscale of images [N, 3, H, W], which are overwritten."""
    codes, factors = rows[:, :PLACES], rows[:, PLACES : 2 * PLACES]
    is_hue = codes == JITTER_CODES["hue"]
    behind = is_hue.cumsum(1) > 0
    before = torch.where(behind, NO_JITTER, codes)
    after = torch.where(behind & ~is_hue, codes, NO_JITTER)
    # With a hue turn among four, three others can stand before it or after it.
    image = _blended(image, before[:, :-1], factors[:, :-1])
    steps = torch.round((factors * is_hue).sum(1) * HUES)
    turned = hue_turned(image, steps.float().view(-1, 1, 1))
    image = torch.where(is_hue.any(1).view(-1, 1, 1, 1), turned, image)
    image = _blended(image, after[:, 1:], factors[:, 1:])
    part = rows[:, -2].float().view(-1, 1, 1, 1)  # 0 or 1
    gray = luma(image).mul_(part)
    return image.mul_(1.0 - part).add_(gray)


def _blended(image: Tensor, codes: Tensor, factors: Tensor) -> Tensor:
    """`image` after some blends, one after another, in place. codes, factors: float64 [N, blends].

    Brightness, contrast and saturation are all factor * image + (1 - factor) * other, where the other image
    is black, the mean of the grey image, or the grey image.
    """
    used = codes != NO_JITTER
    own = torch.where(used, factors, 1.0)
    rest = 1.0 - own
    to_mean = rest * (codes == JITTER_CODES["contrast"])
    to_gray = rest * (codes == JITTER_CODES["saturation"])
    constant = TRUNCATE * used.double()
    for k in range(codes.shape[1]):
        gray = luma(image)
        mean = torch.floor(gray.mean((1, 2, 3), dtype=torch.float64) + 0.5)
        shift = (to_mean[:, k] * mean + constant[:, k]).float().view(-1, 1, 1, 1)
        gray = gray.mul_(to_gray[:, k].float().view(-1, 1, 1, 1)).add_(shift)
        image = image.mul_(own[:, k].float().view(-1, 1, 1, 1)).add_(gray).round_().clamp_(0.0, 255.0)
    return image


def luma(image: Tensor) -> Tensor:
    """float32 [N, 1, H, W], whole numbers: the grey image, rounded half up."""
    red, green, blue = image.split(1, dim=1)
    gray = (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
    return gray.add_(2.0**14).mul_(2.0**-15).floor_()


def hue_turned(image: Tensor, steps: Tensor) -> Tensor:
    """`image` with its hues, in steps of 1/256 turn, moved on by whole numbers [N, 1, 1].

    To 8-bit HSV and back. The way back is one formula for the three channels in place of six cases: with the
    hue in sixths of a circle, a channel is V - V * S * w, where w is a trapezoid 0 .. 1 of the hue's distance
    from the channel's own.
    """
    red, green, blue = image.unbind(1)
    value = image.amax(1)
    chroma = value - image.amin(1)

    def over(number: int, by: Tensor) -> Tensor:
        return torch.round(number / by.clamp(min=1.0))

    def whole(units: Tensor) -> Tensor:
        return units.add_(HSV_UNIT / 2).mul_(1.0 / HSV_UNIT).floor_()

    saturation = whole(over(255 * HSV_UNIT, value).mul_(chroma))
    sixths = torch.where(
        value == red,
        green - blue,
        torch.where(value == green, blue - red + 2.0 * chroma, red - green + 4.0 * chroma),
    )
    hue = whole(sixths.mul_(over(HUES * HSV_UNIT, 6.0 * chroma)))
    hue = torch.remainder(hue.add_(steps), HUES).mul_(6.0 / (HUES - 1))
    own = torch.arange(5, 0, -2, device=image.device, dtype=torch.float32)  # of red, green and blue
    weight = torch.remainder(hue.unsqueeze(1) + own.view(3, 1, 1), 6.0)
    weight = torch.minimum(weight, 4.0 - weight).clamp_(0.0, 1.0)
    lost = (value * saturation).mul_(1.0 / 255.0)
    return value.unsqueeze(1).sub(weight.mul_(lost.unsqueeze(1))).round_()


def blur_radius(max_sigma: float) -> int:
    """The radius in pixels of the widest kernel, hence of all: taps fall below 1/512 further out."""
    return len(blur_kernel(max_sigma)) // 2


def blur_kernels(sigma: Tensor, radius: int) -> Tensor:
    """float32 [N, 2 * radius + 1], whole numbers with sum 256: views.ops.blur_kernel for each sigma [N].

    By the same formula; the boxes together have the power of one's Fourier transform, which is written as a
    product with a matrix of cosines.
    """
    length = 8 * radius + 32  # of the period, so that no tap reaches into the next one
    variance = sigma.double()[:, None] ** 2 / BOXES
    whole = ((12.0 * variance + 1.0).sqrt() / 2.0 - 0.5).floor()
    rest = (2 * whole + 1) * (whole * (whole + 1) - 3.0 * variance) / (6.0 * (variance - (whole + 1) ** 2))
    half = whole + rest
    places = torch.arange(radius + 2, device=sigma.device, dtype=torch.float64)
    box = (half + 1.0 - places).clamp(0.0, 1.0) / (2.0 * half + 1.0)
    box[:, 1:] *= 2.0  # both sides
    steps = torch.arange(length, device=sigma.device, dtype=torch.float64).mul_(2.0 * math.pi / length)
    cosines = torch.cos(steps[:, None] * places)
    spectrum = (box @ cosines.T) ** BOXES
    side = torch.round(256.0 / length * (spectrum @ cosines[:, 1 : radius + 1]))
    centre = 256.0 - 2.0 * side.sum(1, keepdim=True)
    return torch.cat([side.flip(1), centre, side], dim=1).float()


def blurred(image: Tensor, kernels: Tensor) -> Tensor:
    """Images [N, C, H, W] blurred along both axes, each with its own kernel in units of 1/256.

    The border is repeated outwards. Of 8 bits, values are below 2**16 after the first axis, after the second
    below 2**24; rounding comes last, as in OpenCV's 8-bit filters, half to even. Of 16 bits fp32 rounds sums.
    """
    count, channels, height, width = image.shape
    radius = kernels.shape[1] // 2
    planes = image.view(1, count * channels, height, width)
    taps = kernels.repeat_interleave(channels, dim=0)[:, None, None]
    planes = F.conv2d(F.pad(planes, (radius, radius, 0, 0), mode="replicate"), taps, groups=len(taps))
    planes = F.pad(planes, (0, 0, radius, radius), mode="replicate")
    planes = F.conv2d(planes, taps.transpose(2, 3), groups=len(taps))
    return planes.mul_(2.0**-16).round_().view_as(image)
