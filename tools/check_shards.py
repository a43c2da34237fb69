"""Check a shard set: sizes and hashes, every image and label, label values, keys; print what it holds.

Exit code 1, with every problem on a line, if something is wrong.

    python tools/check_shards.py data/camvid --picture sheet.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from unimatch.data.archive import ShardSet
from unimatch.data.check import check_set, contact_sheet, histogram
from unimatch.data.pack import png
from unimatch.errors import UserError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path, help="folder of the shard set")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="write images beside their overlays")
    parser.add_argument("--count", type=int, default=24, help="images in the picture (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of these images (%(default)s)")
    args = parser.parse_args(argv)
    if args.count < 1:
        parser.error(f"--count must be at least 1, found {args.count}")
    report = check_set(args.shards)
    print(histogram(report))
    for problem in report.problems:
        print(f"problem: {problem}", file=sys.stderr)
    if report.problems:
        print(f"{args.shards}: {len(report.problems)} problem(s)", file=sys.stderr)
        return 1
    if args.picture:
        try:
            args.picture.write_bytes(png(contact_sheet(ShardSet.open(args.shards), args.count, args.seed)))
        except (UserError, OSError) as error:
            print(f"error: {args.picture}: {error}", file=sys.stderr)
            return 1
        print(f"picture: {args.picture}")
    samples = sum(subset.samples for subset in report.subsets.values())
    print(f"{args.shards}: {samples} samples, {report.size_bytes / 2**20:.1f} MiB, sound")
    return 0


if __name__ == "__main__":
    sys.exit(main())
