"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "torch",
    "torchvision",
    "accelerate",
    "timm",
    "deepspeed",
    "numpy",
    "opencv-python-headless",
    "numba",
)


def has_gpu() -> bool:
    import torch  # seconds: not before the arguments are known to be right

    return torch.cuda.is_available()


def describe() -> dict[str, str]:
    """Names and versions, as text."""
    import torch

    found = {"cpu": f"{_cpu()}, {len(os.sched_getaffinity(0))} cores", "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found["gpu"] = (
            f"{card.name}, {card.total_memory / 2**30:.1f} GiB, {card.multi_processor_count} processors"
        )
        found["cuda"] = f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    else:
        found["gpu"] = "none: a rehearsal on the CPU"
    return found


def _cpu() -> str:
    """As Linux tells: some processors have no name, but a family and a model."""
    facts: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    name = facts.get("model name", platform.machine())
    return f"{name} (family {facts.get('cpu family')}, model {facts.get('model')})"
