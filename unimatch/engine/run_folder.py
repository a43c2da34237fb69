"""The run folder: what a run was asked to do and with what software, written before its first step."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import unimatch
from unimatch import config as config_io
from unimatch.durable import replace_file
from unimatch.engine.run_config import FREE_ON_RESUME, RunConfig
from unimatch.errors import UserError, masked

IMPORTED = "imported.json"  # in a folder of imported weights: where they are from


def start_run_folder(config: RunConfig, resume: bool) -> None:
    """Creates the run folder and writes config.yaml and env.json; refuses to mix two runs in one folder."""
    occupied = config.out / "config.yaml"
    if occupied.exists() and not resume:
        raise UserError(
            f"{config.out} already holds a run; continue it with --resume, or choose another folder "
            f"with --set out=FOLDER"
        )
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        # A resumed run writes them again: what a crash leaves must still be resumable.
        replace_file(config.out / "config.yaml", config_io.dump(config).encode())
        replace_file(config.out / "env.json", (json.dumps(_environment(), indent=1) + "\n").encode())
    except OSError as error:
        raise UserError(f"cannot write to the run folder {config.out}: {error.strerror}") from None


@cache
def version(package: str) -> str:
    """What is installed of a package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


@cache  # what later changes in the files is not in this process
def code_commit() -> str | None:
    """The commit of this code, ending in -dirty where files differ from it; none: not a git checkout."""
    try:
        git = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git here
        return None
    return git.stdout.strip() or None


def sources() -> str:
    """16 hex digits of this package's source files: a checkout may be changed without a commit."""
    root = Path(unimatch.__file__).parent
    state = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        state.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return state.hexdigest()[:16]


def machine() -> str:
    """What computes: the GPU's name, else the processor's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    told = {}
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    name = told.get("model name") or platform.processor() or platform.machine()
    family = f", family {told['cpu family']} model {told['model']}" if "cpu family" in told else ""
    return f"{name}{family}, {os.cpu_count()} cores"


def settings_hash(config: RunConfig) -> str:
    """16 hex digits of all settings that decide what a run computes, of which a resume allows no change."""
    settings = flat(config_io.plain(config))
    kept = sorted(f"{name}={value}" for name, value in settings.items() if not within(name, FREE_ON_RESUME))
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:16]


def _environment() -> dict[str, Any]:
    names = (
        "torch",
        "torchvision",
        "accelerate",
        "deepspeed",
        "timm",
        "numpy",
        "opencv-python-headless",
        "webdataset",
    )
    return {
        "unimatch": unimatch.__version__,
        "commit": code_commit() or "unknown",
        "sources": sources(),
        "machine": machine(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": [masked(argument) for argument in sys.argv],
        **{name: version(name) for name in names},
    }


def read_config(run: Path) -> RunConfig:
    """What a run was asked to do. UserError: not a run folder."""
    path = run / "config.yaml"
    if not path.exists():
        raise UserError(f"{run} is not a run folder: it has no config.yaml")
    return config_io.load(path, RunConfig)


def longer(out: Path) -> str:
    """What to do to train a run longer: its learning rate has gone down with its steps and does not rise."""
    return (
        f"to train longer, start a new run from its weights: --set out=FOLDER --set model.weights=file:{out}"
        "/last/model.safetensors, whose schedule begins anew with the steps that you give"
    )


def refuse_changes(config: RunConfig) -> None:
    """A resumed run must compute what the first part computed."""
    saved = read_config(config.out)
    before, now = flat(config_io.plain(saved)), flat(config_io.plain(config))
    changed = []
    for name in sorted(before.keys() | now.keys()):
        if not within(name, FREE_ON_RESUME) and before.get(name) != now.get(name):
            changed.append(f"{name}: was {before.get(name)!r}, now {now.get(name)!r}")
    if changed:
        raise UserError(
            f"{config.out} cannot be resumed with other settings:\n  "
            + "\n  ".join(changed)
            + "\nundo them, or start a new run with another `out`"
            + (f"; {longer(config.out)}" if any("schedule." in line for line in changed) else "")
        )


def within(name: str, sections: Sequence[str]) -> bool:
    """Whether a setting is one of these or lies in one; `a[].b` stands for `a[0].b`, `a[1].b` ..."""
    name = re.sub(r"\[\d+\]", "[]", name)
    return any(name == one or name.startswith(f"{one}.") for one in sections)


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """{"a.b": value} of nested mappings, {"a[0].b": value} of lists of mappings."""
    if isinstance(tree, list) and tree and all(isinstance(item, dict) for item in tree):
        items = [flat(item, f"{path}[{number}]") for number, item in enumerate(tree)]
        return {key: value for item in items for key, value in item.items()}
    if not isinstance(tree, dict):
        return {path: tree}
    return {
        key: value
        for name, inner in tree.items()
        for key, value in flat(inner, f"{path}.{name}".lstrip(".")).items()
    }
