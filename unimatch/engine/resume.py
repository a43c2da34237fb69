"""A run goes on where its last checkpoint left it, if it would compute what it would have computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from unimatch.codecs.bands import Bands
from unimatch.codecs.prepared import Preparation
from unimatch.engine import checkpoint
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_folder import longer, refuse_changes
from unimatch.errors import UserError
from unimatch.methods.base import Method
from unimatch.models.weights import load_strictly


def resume_from(
    last: Path,
    config: RunConfig,
    net: nn.Module,
    method: Method,
    now: checkpoint.TrainerState,
    total_steps: int,
) -> tuple[checkpoint.TrainerState, dict[str, Any]]:
    """The state of a checkpoint, and its optimiser's; networks and method hold what it saved.

    now: the state of the same run at step 0. UserError if other settings, classes or samples trained it, or
    if there is no step left.
    """
    refuse_changes(config)
    state = checkpoint.load_state(last)
    engine = checkpoint.load_engine(last)
    _check_same(state, now, last)
    for name, saved in checkpoint.modules(net, method).items():
        load_strictly(saved, checkpoint.load_network(last, name), str(last))
    method.load_state_dict(engine["method"])
    if state.step >= total_steps:
        raise UserError(
            f"{config.out} is already at its last step, {state.step} of {total_steps}: nothing to resume; "
            f"{longer(config.out)}"
        )
    if state.splits.get("val") != now.splits.get("val"):
        state.best = state.best_step = None  # of other samples
        state.best_over = ""
    state.splits, state.world, state.total = now.splits, now.world, now.total
    state.prepared = now.prepared
    return state, engine


def _check_same(saved: checkpoint.TrainerState, now: checkpoint.TrainerState, folder: Path) -> None:
    checkpoint.check_taxonomy(saved, now.taxonomy, folder)
    _check_prepared(saved.prepared, now.prepared, folder)
    checkpoint.check_bands(saved, None if now.bands is None else Bands.from_json(now.bands), folder)
    if now.splits.get("pseudo") != saved.splits.get("pseudo"):
        raise UserError(
            f"{folder} was trained with other pseudo-labels (hash {saved.splits.get('pseudo')}, now "
            f"{now.splits.get('pseudo')}); restore data.pseudo, or start a new run with another `out`"
        )
    for name, value in now.splits.items():
        if name != "val" and saved.splits.get(name) != value:
            raise UserError(
                f"{folder} was trained with another {name} list (hash {saved.splits.get(name)}, now "
                f"{value}); restore data.{name}, or start a new run with another `out`"
            )


def _check_prepared(saved: dict[str, Any] | None, now: dict[str, Any] | None, folder: Path) -> None:
    """UserError if the shards were packed again with other changes to the images, as with another
    `downscale`. Checkpoints and shards of older versions do not say what was done."""
    if saved is None or now is None:
        return
    before, after = Preparation.of(saved).to_json(), Preparation.of(now).to_json()
    other = [f"{name}: {before[name]}, now {after[name]}" for name in before if before[name] != after[name]]
    if other:
        raise UserError(
            f"{folder} was trained on images that packing had prepared otherwise ({'; '.join(other)}); pack "
            "them as they were, or start a new run with another `out`"
        )
