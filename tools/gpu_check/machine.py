"""What the figures are measured on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
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
CUDA, PROBLEM = "cuda", "problem"
ASK_S = 120.0  # the first import of torch on a machine reads gigabytes


def ask() -> dict[str, str]:
    """Names and versions, as text; CUDA among them where there is a GPU, PROBLEM if torch cannot be used.

    Asked by another process: this one is to hold none of the GPU's memory.
    """
    command = [sys.executable, "-m", __spec__.name]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=ASK_S)
        found: dict[str, str] = json.loads(ended.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return {PROBLEM: f" ({type(error).__name__}: {error})"}
    return found


def describe() -> dict[str, str]:
    found = {"cpu": f"{_cpu()}, {len(os.sched_getaffinity(0))} cores", "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    try:
        import torch
    except Exception as error:  # whatever is wrong with it, a report says so
        return {**found, PROBLEM: f" (torch cannot be imported: {error})"}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        memory = f"{card.total_memory / 2**30:.1f} GiB"
        found["gpu"] = f"{card.name}, {memory}, {card.multi_processor_count} processors"
        found[CUDA] = f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return found


def _cpu() -> str:
    """As Linux tells: some processors have no name, but a family and a model."""
    facts: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    name = facts.get("model name", platform.machine())
    return f"{name} (family {facts.get('cpu family')}, model {facts.get('model')})"


if __name__ == "__main__":
    print(json.dumps(describe()))
