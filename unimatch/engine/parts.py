"""A run's state in parts: what a process has of it, who writes what, and how parts become whole again.

A part is a file of tensors, each of them some values of a larger one which follow each other when that is
flat: so ZeRO gives them to a process, and so a tensor is cut along its first axis.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

OPTIMIZER = "optimizer"


@dataclass(frozen=True)
class Piece:
    """Values of a tensor. They may be the training's own, which change with the next update."""

    values: Tensor  # of any shape
    start: int  # place of the first one in the flattened tensor
    shape: tuple[int, ...]  # of the whole tensor


Pieces = dict[str, Piece]


@dataclass(frozen=True)
class Part:
    """What a process has of a network's or an optimiser's tensors, by name.

    shared: all processes have the same, whole; otherwise each value is one process's to write.
    """

    pieces: Pieces
    shared: bool


def whole(tensors: Mapping[str, Tensor]) -> Pieces:
    """Tensors with all their values."""
    return {name: Piece(value.detach(), 0, tuple(value.shape)) for name, value in tensors.items()}


def settled(net: nn.Module) -> dict[str, Tensor]:
    """The state of a network that holds until the next update: its own parameters, and copies of buffers,
    which forward passes change.
    """
    state = net.state_dict(keep_vars=True)
    return {key: value if isinstance(value, nn.Parameter) else value.clone() for key, value in state.items()}


def on_host(value: Any) -> Any:
    """A copy of nested dicts and lists with their tensors on the CPU."""
    if torch.is_tensor(value):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: on_host(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(on_host(each) for each in value)
    return value


def without_tensors(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An optimiser's state_dict less the tensors that have axes, and those as NUMBER.NAME."""
    small: dict[int, dict[str, Any]] = {}
    large: dict[str, Tensor] = {}
    for number, values in state["state"].items():
        large |= {f"{number}.{name}": value for name, value in values.items() if _is_large(value)}
        small[number] = {name: value for name, value in values.items() if not _is_large(value)}
    return {**state, "state": small}, large


def _is_large(value: Any) -> bool:
    return torch.is_tensor(value) and value.dim() > 0


def with_tensors(state: dict[str, Any], large: Mapping[str, Tensor]) -> None:
    """Puts the tensors of `without_tensors` back into its state."""
    for key, value in large.items():
        number, name = key.split(".", 1)
        state["state"][int(number)][name] = value


def deal(networks: Mapping[str, Part], optimizer: Part | None, rank: int, world: int) -> dict[str, Pieces]:
    """The files of a checkpoint that this process writes, by their path in it.

    What all have is dealt out so that all write about as much: a network in one file, of the optimiser each
    tensor to somebody. Of the rest everybody writes its own: NAME/RANK.safetensors.
    """
    own = {name: f"{name}/{rank:05d}.safetensors" for name in (*networks, OPTIMIZER)}
    files = {own[name]: part.pieces for name, part in networks.items() if not part.shared}
    units = [(f"{name}.safetensors", part.pieces) for name, part in networks.items() if part.shared]
    if optimizer is not None:
        files[own[OPTIMIZER]] = {} if optimizer.shared else optimizer.pieces
        if optimizer.shared:
            units += [(own[OPTIMIZER], {key: piece}) for key, piece in optimizer.pieces.items()]
    loads = [0] * world
    for file, pieces in sorted(units, key=lambda unit: -size_bytes(unit[1])):
        owner = loads.index(min(loads))
        loads[owner] += size_bytes(pieces)
        if owner == rank:
            files[file] = {**files.get(file, {}), **pieces}
    return {file: pieces for file, pieces in files.items() if pieces}


def size_bytes(pieces: Pieces) -> int:
    """Of the values."""
    return sum(piece.values.nbytes for piece in pieces.values())


def write(folder: Path, file: str, pieces: Pieces) -> Path:
    """Writes a file of `deal`, from contiguous values on the CPU; its path."""
    path = folder / file
    metadata = {"format": "pt"}
    if path.parent != folder:  # a part
        path.parent.mkdir(exist_ok=True)
        metadata["places"] = json.dumps({name: [piece.start, *piece.shape] for name, piece in pieces.items()})
    save_file({name: piece.values for name, piece in pieces.items()}, path, metadata)
    return path


def join(paths: Iterable[Path]) -> dict[str, Tensor]:
    """The whole tensors of files in parts. ValueError: one is damaged, or values are in none of them."""
    found: dict[str, Tensor] = {}
    lacking: dict[str, int] = {}
    for path in paths:
        try:
            with safe_open(path, "pt") as file:
                for name, (start, *shape) in json.loads(file.metadata()["places"]).items():
                    values = file.get_tensor(name)
                    if name not in found:
                        found[name] = values.new_empty(shape)
                        lacking[name] = found[name].numel()
                    found[name].view(-1)[start : start + values.numel()] = values.flatten()
                    lacking[name] -= values.numel()
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path.name}: {error}") from None
    incomplete = [name for name, count in lacking.items() if count]
    if incomplete:
        raise ValueError(f"values of {', '.join(incomplete[:3])} are in none of its parts")
    return found
