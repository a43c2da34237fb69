"""Benchmarks: A and B in one run, as ratios. Results that were kept, with their commands: docs/benchmarks.md.

unimatch bench shards --count 1000
unimatch bench index --samples 1000000
unimatch bench input --settings voc-321
unimatch bench endurance --samples 200000
unimatch bench step --processes 1 2
unimatch bench methods --crop 128
unimatch bench memory --crop 252
unimatch bench checkpoint --processes 1 2
"""

from __future__ import annotations

import argparse
import sys

from unimatch.benchmarks import checkpoint, endurance, index, input, memory, methods, shards, step
from unimatch.errors import UserError

BENCHMARKS = {
    "shards": shards,
    "index": index,
    "input": input,
    "endurance": endurance,
    "step": step,
    "methods": methods,
    "memory": memory,
    "checkpoint": checkpoint,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="unimatch bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for name, module in BENCHMARKS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        module.add_options(commands.add_parser(name, help=summary, description=summary))
    options = parser.parse_args(argv)
    try:
        print(BENCHMARKS[options.benchmark].run(options))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
