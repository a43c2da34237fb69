"""Runs in this process: a trainer from a configuration, and what it told."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from tests.support import tiny_encoder
from unimatch import config as config_io
from unimatch.config import Section
from unimatch.engine.build import build_trainer
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import open_data
from unimatch.engine.run_folder import start_run_folder
from unimatch.engine.runtime import Runtime
from unimatch.engine.trainer import Trainer

# A step of a tiny network takes hundredths of a second, and nothing but steps happens.
BARE = (
    "data.workers=0",
    "data.val=null",
    "log.every_steps=1",
    "log.pictures_every_steps=0",
    f"model.encoder.name={tiny_encoder.NAME}",
    "model.head={name: linear}",
)
SUPERVISED = "method={name: supervised}"


class Log:
    """Takes what a run tells."""

    problem = None
    active = True

    def __init__(self) -> None:
        self.said: list[str] = []
        self.records: list[dict[str, Any]] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def record(self, kind: str, step: int, values: dict[str, Any], *_: Any) -> None:
        self.records.append({"kind": kind, "step": step, **values})

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def bare(path: Path, *overrides: str) -> RunConfig:
    """The configuration of a file without workers, evaluation and pictures, logged in every step."""
    return config_io.load(path, RunConfig, [*BARE, *overrides])


def built(config: RunConfig, resume: bool = False, runtime: Runtime | None = None) -> Trainer:
    """The trainer of a configuration."""
    runtime = runtime or Runtime()
    return build_trainer(config, open_data(config), runtime, resume)[0]


def trained(trainer: Trainer, resume: bool = False) -> list[dict[str, Any]]:
    """Runs to the end and gives the logged training lines."""
    start_run_folder(trainer.config, resume)
    log = Log()
    trainer.train(log)  # type: ignore[arg-type]
    return [line for line in log.records if line["kind"] == "train"]


def changed(config: RunConfig, name: str) -> RunConfig:
    """A copy in which one setting is something else; nothing checks that it makes sense."""
    result = copy.deepcopy(config)
    *path, last = name.split(".")
    owner: Any = result
    for part in path:
        owner = getattr(owner.config if isinstance(owner, Section) else owner, part)
    if isinstance(owner, Section) and last != "name":
        owner = owner.config
    object.__setattr__(owner, last, _other(getattr(owner, last)))  # some are frozen
    return result


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, tuple | list):
        return type(value)([*value, 1])
    return value / "moved" if isinstance(value, Path) else f"{value}x"
