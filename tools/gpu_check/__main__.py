"""Runs the checks; see docs/gpu.md. `bash tools/gpu_check.sh` starts it with what was carried."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from . import machine
from .orchestra import play
from .parts import PARTS, TOTAL_S, chosen
from .results import FILE, Teller

NO_GPU = (
    "error: no CUDA device was found, so there is nothing to check. On a machine without one, --rehearse "
    "runs the same code on tiny shapes; its figures say nothing about GPUs"
)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bash tools/gpu_check.sh", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for report.json, report.md and log.txt")
    parser.add_argument(
        "--parts",
        nargs="+",
        default=[],
        choices=[part.name for part in PARTS],
        metavar="PART",
        help="only these: " + ", ".join(part.name for part in PARTS),
    )
    parser.add_argument("--rehearse", action="store_true", help="all of it on the CPU, with tiny shapes")
    parser.add_argument("--seconds", type=float, default=TOTAL_S, help="for all parts (%(default)g)")
    parser.add_argument("--inside", help=argparse.SUPPRESS)  # the process of one part
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        part = next(part for part in PARTS if part.name == options.inside)
        part.run(Teller(part.name, options.out, options.rehearse, options.until))
        return 0
    if options.rehearse:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # also where there is one
    found = machine.ask()
    if not options.rehearse and machine.CUDA not in found:
        print(NO_GPU + found.get(machine.PROBLEM, ""), file=sys.stderr)
        return 2
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / FILE).unlink(missing_ok=True)
    began = time.monotonic()
    good = play(
        chosen(options.parts, options.rehearse), options.out, options.rehearse, options.seconds, found
    )
    print(f"{options.out / 'report.md'}: written after {time.monotonic() - began:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main(sys.argv[1:]))
