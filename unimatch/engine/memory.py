"""Whether an image fits into memory when it is predicted in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from unimatch.cores import CGROUP
from unimatch.errors import DataError

PROBE = 256  # pixels a side of the image that the need is measured on
FLOAT_BYTES = 4


def refuse_too_large(net: nn.Module, shape: tuple[int, ...], device: torch.device) -> None:
    """DataError if an image of a batch [B, ..., H, W, C] needs more memory in one pass than is free."""
    *axes, height, width, channels = shape[1:]
    need, free = bytes_a_pixel(net, (*axes, channels)) * height * width, free_bytes(device)
    if need > free:
        raise DataError(
            f"{width}x{height} pixels need at least {need / 1e9:.1f} GB of memory in one pass of the "
            f"network, and {free / 1e9:.1f} GB are free; predict it in parts: --mode sliding (in Python: "
            'load(run, mode="sliding"))'
        )


@torch.inference_mode()
def bytes_a_pixel(net: nn.Module, shape: tuple[int, ...]) -> float:
    """A lower bound of the memory of one pass in float32, per pixel of an image [..., C, H, W]: the image and
    what goes into and comes out of its largest layer. `shape` is [..., C]. Leaves `net` in eval mode.
    """
    net.eval()
    device = next(net.parameters()).device
    largest = 0

    def measure(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal largest
        tensors = {id(each): each for each in (*_tensors(inputs), *_tensors(output))}
        largest = max(largest, sum(each.numel() * each.element_size() for each in tensors.values()))

    leaves = [module for module in net.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(measure) for module in [net, *leaves]]
    try:
        image = torch.zeros(1, *shape, PROBE, PROBE, device=device)
        net(image)
    finally:
        for hook in hooks:
            hook.remove()
    return (largest + image.numel() * FLOAT_BYTES) / PROBE**2


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)


def free_bytes(device: torch.device) -> int:
    """Memory that a process may still take, on the device, or on the host within its control group."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((CGROUP / f"memory.{name}").read_text() for name in ("max", "current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no control group, or one without a limit ("max")
        return free
