"""How whole images are predicted, where evaluate and predict are asked for another way than the run's."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from unimatch.engine.run_config import RunConfig
from unimatch.errors import UserError
from unimatch.tasks.prediction import BORDERS, MODES, EvaluateConfig

NAMES = ("mode", "window", "stride", "border")


def add_options(parser: argparse.ArgumentParser) -> None:
    """--mode, --window, --stride and --border, called as in the configuration."""
    parser.add_argument(
        "--mode",
        choices=MODES,
        help="how an image is predicted: in one pass, by windows that slide over it (for large pictures), or "
        "its middle alone (default: the run's task.evaluate)",
    )
    parser.add_argument(
        "--window", type=int, metavar="PIXELS", help="side of the windows (default: the crop)"
    )
    parser.add_argument(
        "--stride", type=int, metavar="PIXELS", help="from one window to the next (default: 2/3 of a window)"
    )
    parser.add_argument(
        "--border",
        choices=BORDERS,
        help="windows at the right or lower border: cut off, or moved inside as a vision transformer needs",
    )


def given(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked for."""
    return {name: getattr(options, name) for name in NAMES if getattr(options, name) is not None}


def set_mode(config: RunConfig, changes: Mapping[str, Any]) -> None:
    """Gives a run's configuration another mode, window or stride. UserError: they make no sense for it."""
    if not changes:
        return
    settings = config.task.config.evaluate
    if not isinstance(settings, EvaluateConfig):
        raise UserError(
            f"{', '.join(changes)}: task {config.task.name} resizes images to the crop and predicts them in "
            "one pass; leave it out"
        )
    config.task.config.evaluate = settings.changed(**changes)


def in_one_pass(config: RunConfig) -> bool:
    """Whether the network sees whole images, in their own size."""
    settings = config.task.config.evaluate
    return isinstance(settings, EvaluateConfig) and settings.mode == "whole"
