"""Whether the launch file that started a run fits the machine."""

from __future__ import annotations

import os
from pathlib import Path

FOR_GPUS = ("gpu", "nodes", "zero")  # so begin the names of the files in launch/accelerate that are for GPUs


def launch_file() -> Path | None:
    """The launch file that this process's parent was given: `accelerate launch --config_file FILE`, or
    `--launch FILE` of a command of ours. None if unknown.
    """
    try:
        text = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return None
    words = text.rstrip("\0").split("\0")
    for word, following in zip(words, words[1:], strict=False):
        for option in ("--config_file", "--launch"):
            if word == option:
                return Path(following)
            if following.startswith(f"{option}="):
                return Path(following.partition("=")[2])
    return None


def misfit(file: Path | None, has_gpu: bool, world: int) -> str | None:
    """The line to tell where a launch file for GPUs starts a run on CPUs, else None."""
    if has_gpu or file is None or not file.name.startswith(FOR_GPUS):
        return None
    better = "launch/cpu1" if world == 1 else "launch/cpu2"
    count = f" --num_processes {world}" if world > 2 else ""
    return (
        f"warning: {file.name} is for GPUs, and PyTorch finds none here: the run goes on on CPUs, in {world} "
        f'process(es). What fits is --config_file "$(unimatch where {better})"{count}'
    )
