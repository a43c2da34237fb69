"""Checkpoints: written beside and renamed, so that a crash at any moment leaves the previous one valid.

<run>/checkpoints/step_00000100/  model.safetensors  <other modules>.safetensors  trainer.json
                                  optimizer.pt  optimizer/<process>.safetensors
<run>/last -> checkpoints/step_00000100
<run>/best/                       model.safetensors  <other modules>.safetensors  trainer.json
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unimatch.codecs.bands import Bands
from unimatch.engine import parts
from unimatch.engine.checkpoint_folder import point, write_folder
from unimatch.errors import UserError
from unimatch.methods.base import Method
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.index import digest

NETWORK = "model"
PARTS = "parts"  # in optimizer.pt: the files that hold the rest of it
FORMAT = 2  # 1: optimizer.pt held all of the optimiser's state


@dataclass
class TrainerState:
    """What a run needs besides tensors. Data order and randomness follow from `step` alone."""

    step: int  # optimiser steps done
    headline: str  # name of the evaluation figure
    best: float | None  # highest headline figure so far
    best_step: int | None
    taxonomy: dict[str, Any]
    splits: dict[str, str]  # hash of each key list
    world: int  # processes that wrote it; any number can read it
    total: int | None = None  # of the run; None: an older version wrote it
    skipped: int = 0  # unreadable samples replaced so far
    # What packing did to images, see codecs.prepared; None: not known.
    prepared: dict[str, Any] | None = None
    best_over: str = ""  # what the best figure leaves out, as engine.evaluate.over says it
    bands: dict[str, Any] | None = None  # Bands of the images; None: ordinary pictures
    format: int = FORMAT


def modules(net: nn.Module, method: Method) -> dict[str, nn.Module]:
    """What a checkpoint holds as weights, by name of its file: the network, which stays apart from all that
    the method keeps beside it, the networks to evaluate, and the method's own.
    """
    return {NETWORK: net, **method.eval_nets(net), **method.companions()}


def save_networks(folder: Path, networks: Mapping[str, Mapping[str, Tensor]]) -> None:
    """One safetensors file a network, whole and in the network's own names."""
    for name, state in networks.items():
        tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})


def save_state(folder: Path, state: TrainerState) -> None:
    (folder / "trainer.json").write_text(json.dumps(vars(state), indent=1) + "\n")


def step_folder(run: Path, step: int) -> Path:
    """The checkpoint of a step."""
    return run / "checkpoints" / f"step_{step:08d}"


def keep_newest(run: Path, keep: int, always: Collection[int]) -> None:
    """Removes all checkpoints but the newest `keep` and those of the steps `always`."""
    complete = sorted(path for path in (run / "checkpoints").glob("step_*") if path.is_dir())
    for old in complete[:-keep]:
        if int(old.name[5:]) not in always:
            shutil.rmtree(old, ignore_errors=True)


def snapshots(count: int, total: int) -> list[int]:
    """The steps of `count` snapshots, the last one being the last step."""
    return [-(-total * number // count) for number in range(1, count + 1)]


def save_weights(run: Path, state: TrainerState, networks: Mapping[str, Mapping[str, Tensor]]) -> Path:
    """Writes step_<N> without an optimiser, from which no training resumes, and points `last` at it."""
    folder = step_folder(run, state.step)

    def fill(partial: Path) -> None:
        save_networks(partial, networks)
        save_state(partial, state)

    write_folder(folder, fill)
    point(run / "last", Path("checkpoints") / folder.name)
    return folder


def last_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint, also where a crash fell between writing it and moving `last`."""
    complete = sorted(path for path in (run / "checkpoints").glob("step_*") if path.is_dir())
    return complete[-1] if complete else None


def find(run: Path, which: str) -> Path:
    """Folder of a run's checkpoint: "last", "best", or the number of a step."""
    if which == "last":
        folder = last_checkpoint(run)
    else:
        folder = (
            run / "best" if which == "best" else step_folder(run, int(which)) if which.isdigit() else None
        )
    if folder is None or not folder.is_dir():
        steps = (
            ", ".join(str(int(path.name[5:])) for path in sorted((run / "checkpoints").glob("step_*")))
            or "none"
        )
        raise UserError(
            f"{run} has no checkpoint {which!r}; choose last, best or a step; steps there: {steps}"
        )
    return folder


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} is damaged ({reason}); use another checkpoint of the run: evaluate and predict take "
        f"--checkpoint STEP, and --resume takes the newest one left once {path.parent} is removed"
    )


def load_state(folder: Path) -> TrainerState:
    """Raises UserError where trainer.json is missing or not ours."""
    path = folder / "trainer.json"
    try:
        return TrainerState(**json.loads(path.read_text()))
    except FileNotFoundError:
        raise UserError(f"{folder} is not a checkpoint: it has no trainer.json") from None
    except (TypeError, ValueError) as error:
        raise _damaged(path, str(error)) from None


def load_network(folder: Path, name: str = NETWORK) -> dict[str, Tensor]:
    """Weights of one network of a checkpoint, on the CPU."""
    path = folder / f"{name}.safetensors"
    try:
        return load_file(path)
    except FileNotFoundError:
        found = ", ".join(sorted(file.stem for file in folder.glob("*.safetensors"))) or "none"
        raise UserError(f"{folder} has no network {name!r}; networks there: {found}") from None
    except SafetensorError as error:
        raise _damaged(path, str(error)) from None


def weights_hash(folder: Path, name: str = NETWORK) -> str:
    """16 hex digits of the file with one network's weights."""
    with (folder / f"{name}.safetensors").open("rb") as file:
        return digest(file)[:16]


def load_engine(folder: Path) -> dict[str, Any]:
    """Optimiser and loss-scaler state of a checkpoint, whole, on the CPU."""
    path = folder / "optimizer.pt"
    try:
        engine: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(
            f"{folder} holds weights only: training cannot resume from it; start a new run from them with "
            f"model.weights=file:{folder / NETWORK}.safetensors"
        ) from None
    except Exception as error:  # torch raises many kinds for a damaged file
        raise _damaged(path, type(error).__name__) from None
    try:
        tensors = parts.join([folder / file for file in engine.pop(PARTS, ())])
    except ValueError as error:
        raise _damaged(folder / parts.OPTIMIZER, str(error)) from None
    parts.with_tensors(engine["optimizer"], tensors)
    return engine


def save_engine(folder: Path, engine: dict[str, Any], files: Sequence[str]) -> None:
    """engine: as `load_engine` gives it, but for the tensors that these files hold, in parts."""
    torch.save({**engine, PARTS: list(files)}, folder / "optimizer.pt")


def check_shards(saved: TrainerState, shards: ShardSet, folder: Path) -> None:
    """UserError if a checkpoint's classes or channels are not those of the shards."""
    check_taxonomy(saved, shards.taxonomy.to_json(), folder)
    check_bands(saved, shards.bands(), folder)


def check_taxonomy(saved: TrainerState, taxonomy: dict[str, Any], folder: Path) -> None:
    """UserError if a checkpoint's classes are not those of the shards."""
    if saved.taxonomy["hash"] != taxonomy["hash"]:
        raise UserError(
            f"{folder} knows other classes than the shards: it was trained on "
            f"{', '.join(saved.taxonomy['names'])}; the shards have {', '.join(taxonomy['names'])}. "
            f"Use shards with the same classes in the same order, or train a new run"
        )


def check_bands(saved: TrainerState, bands: Bands | None, folder: Path) -> None:
    """UserError if a checkpoint's channels are not those of the shards, or were scaled otherwise."""
    trained = None if saved.bands is None else Bands.from_json(saved.bands)
    if trained is None and bands is None:
        return
    if trained is None or bands is None:
        has, lacks = ("was", "are not") if bands is None else ("was not", "are")
        raise UserError(
            f"{folder} {has} trained on a set that was packed with `bands`, and the shards {lacks} such a "
            "set; evaluate on samples that were packed as those of its training"
        )
    for name in ("order", "depth", "ranges"):
        mine, theirs = getattr(trained, name), getattr(bands, name)
        if mine != theirs:
            raise UserError(
                f"{folder} was trained on {trained.describe()} with the ranges {list(trained.ranges)}, the "
                f"shards have {bands.describe()} with {list(bands.ranges)}; pack them with the same bands, "
                "depth and scaling: {ranges: ...}"
            )
