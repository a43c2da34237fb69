"""Draw labelled keys from a subset of a shard set and write labeled.txt and unlabeled.txt, one key a line.

python tools/make_splits.py --shards data/camvid --count 23 --method stratified --out splits/1_16
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from unimatch.data.splits import METHODS, list_hash, statistics, write_split
from unimatch.errors import UserError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", required=True, type=Path, help="folder of the shard set")
    parser.add_argument("--subset", default="train", help="subset to divide (%(default)s)")
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--count", type=int, help="number of labelled images")
    amount.add_argument(
        "--fraction", type=float, help="labelled part of the subset's images, in (0, 1]; rounded"
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="plain",
        help="plain: uniform draw; stratified: classes occur as often as in the subset (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, another draw (%(default)s)")
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="SUBSET",
        help="add this subset to the unlabelled list; repeatable",
    )
    parser.add_argument(
        "--out", required=True, type=Path, help="folder of the two lists; existing lists are replaced"
    )
    args = parser.parse_args(argv)
    try:
        split = write_split(
            args.shards,
            args.subset,
            args.out,
            count=args.count,
            fraction=args.fraction,
            method=args.method,
            seed=args.seed,
            also_unlabeled=args.also,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(statistics(split))
    for name, keys in (("labeled", split.labeled), ("unlabeled", split.unlabeled)):
        print(f"{args.out / name}.txt: {len(keys)} keys, hash {list_hash(keys)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
