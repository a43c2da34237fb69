"""Checkpoints of a network of one tensor, written by one process or by several that are threads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from unimatch.engine import checkpoint
from unimatch.engine.parts import Part, Piece, whole
from unimatch.engine.saver import Held, Saver
from unimatch.errors import UserError

TIMEOUT_S = 20.0


def state(step: int) -> checkpoint.TrainerState:
    return checkpoint.TrainerState(
        step=step,
        headline="miou",
        best=0.5,
        best_step=1,
        taxonomy={"names": ["a", "b"]},
        splits={"labeled": "00"},
        world=2,
    )


class Apart:
    """One of `world` processes that are threads: what a Saver asks of a runtime."""

    device = torch.device("cpu")

    def __init__(self, rank: int, world: int, shared: dict[str, Any]) -> None:
        self.rank, self.world, self._shared = rank, world, shared
        self.is_main = rank == 0

    def _gather(self, channel: str, value: Any) -> list[Any]:
        barrier, values = self._shared[channel]
        values[self.rank] = value
        barrier.wait(TIMEOUT_S)
        found = list(values)
        barrier.wait(TIMEOUT_S)
        return found

    def gather_beside(self, value: Any) -> list[Any]:
        try:
            return self._gather("beside", value)
        except threading.BrokenBarrierError:
            raise RuntimeError("connection closed by peer") from None

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        problem = None
        try:
            yield
        except UserError as error:
            problem = str(error)
        told = [f"rank {rank}: {one}" for rank, one in enumerate(self._gather("main", problem)) if one]
        if told:
            raise UserError("\n".join(told))


def processes(world: int) -> list[Any]:
    """Runtimes of as many threads."""
    shared = {name: (threading.Barrier(world), [None] * world) for name in ("main", "beside")}
    return [Apart(rank, world, shared) for rank in range(world)]


def on_all(world: int, work: Callable[[int], Any]) -> list[Any]:
    """The result, or the UserError, of each process's `work(rank)`."""

    def tried(rank: int) -> Any:
        try:
            return work(rank)
        except UserError as error:
            return error

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(tried, range(world)))


def saver(run: Path, runtime: Any = None, background: bool = False, keep: int = 2) -> Saver:
    return Saver(runtime or processes(1)[0], run, keep, (), background)


def held(value: float, rank: int = 0, world: int = 0) -> Held:
    """What a process has of a state whose values are all `value`. world: in parts over so many, if not 0."""
    weights = {"w": torch.full((4, 3), value), "n": torch.tensor(4)}
    moments = {"0.momentum": torch.full((4, 3), value)}
    engine = {"optimizer": {"state": {0: {"step": 5}}, "param_groups": []}, "scaler": {}, "method": {}}
    if not world:
        return Held({"model": Part(whole(weights), True)}, Part(whole(moments), True), engine)
    part = slice(rank * 12 // world, (rank + 1) * 12 // world)

    def cut(name: str, tensor: torch.Tensor) -> dict[str, Piece]:
        return {name: Piece(tensor.view(-1)[part], part.start, tuple(tensor.shape))}

    own = cut("w", weights["w"]) | (whole({"n": weights["n"]}) if rank == 0 else {})
    return Held({"model": Part(own, False)}, Part(cut("0.momentum", moments["0.momentum"]), False), engine)


def save(run: Path, step: int, value: float = 1.0, keep: int = 2) -> Path:
    """A checkpoint by one process."""
    saver(run, keep=keep).save(state(step), held(value), whole=True, best=False)
    return checkpoint.step_folder(run, step)


def save_best(run: Path, step: int, value: float) -> None:
    saver(run).save(state(step), held(value), whole=False, best=True)


def values(folder: Path) -> set[float]:
    """All values of a checkpoint, which must be complete."""
    found = set(checkpoint.load_network(folder)["w"].flatten().tolist())
    if folder.name != "best":
        engine = checkpoint.load_engine(folder)["optimizer"]["state"][0]
        assert engine["step"] == 5
        found |= set(engine["momentum"].flatten().tolist())
    checkpoint.load_state(folder)
    return found
