"""Options that several commands have, each declared once."""

from __future__ import annotations

import argparse

TIMEOUT_S = 600.0
REPLACE = "replace one value, for instance --set optimizer.lr=0.01; may be repeated"


def add_overrides(parser: argparse.ArgumentParser, told: str = REPLACE) -> None:
    """--set, as `overrides` for `config.load`."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help=told
    )


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """--timeout of a training."""
    parser.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT_S,
        metavar="SECONDS",
        help="a process that lets the others wait this long ends the run (default: %(default)g)",
    )


def add_which_weights(parser: argparse.ArgumentParser) -> None:
    """--checkpoint and --network of a run, for `restore`."""
    parser.add_argument(
        "--checkpoint", default="last", metavar="WHICH", help="last, best or a step (default: last)"
    )
    parser.add_argument(
        "--network", metavar="NAME", help="which network of the checkpoint (default: the headline one)"
    )
