"""Choose the labelled samples of a shard set; write labeled.txt and unlabeled.txt, one key a line.

unimatch split --shards data/camvid --count 23 --method stratified --out splits/23
unimatch split --shards data/camvid --fraction 1/16 1/8 --out splits  # 1_16 lies inside 1_8
unimatch split --shards data/voc --list labeled.txt --unlabeled-list unlabeled.txt --out splits
"""

from __future__ import annotations

import argparse
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np

from unimatch import shipped
from unimatch.errors import DataError, UserError
from unimatch.packing.coverage import missing_classes
from unimatch.packing.published import KeyMatcher, Matched
from unimatch.packing.splits import METHODS, Split, draw_splits, split_of_rows, statistics, write_split
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.key_list import list_hash

SHOWN = 20  # lines of a list that were not matched; all of them go into UNMATCHED
UNMATCHED = "unmatched.txt"


def fraction(text: str) -> Fraction:
    try:
        return Fraction(text.replace("_", "/"))
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(
            f"expected a fraction such as 1/16 or 0.25, found {text!r}"
        ) from error


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="unimatch split", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", required=True, help="folder of the shard set")
    parser.add_argument("--subset", default="train", help="subset, or key-list file, to divide (%(default)s)")
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--count", type=int, nargs="+", metavar="N", help="number of labelled images")
    amount.add_argument(
        "--fraction",
        type=fraction,
        nargs="+",
        metavar="F",
        help="labelled part of the subset's images, in (0, 1], such as 1/16 or 0.25; rounded",
    )
    amount.add_argument(
        "--list",
        type=Path,
        metavar="FILE",
        help="the labelled images of a published list, a line each: image path, optionally mask path; "
        "or the name of a split that came with unimatch, such as pascal/92",
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
        "--unlabeled-list",
        type=Path,
        metavar="FILE",
        help="the unlabelled images of a published list (without it: the rest of the subset)",
    )
    parser.add_argument(
        "--allow-unmatched",
        action="store_true",
        help=f"leave out lines of a list that match no sample instead of stopping; see OUT/{UNMATCHED}",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        help="folder of the two lists; existing lists are replaced. With several counts or fractions a "
        "folder for each in it, nested: the larger contain the smaller",
    )
    args = parser.parse_args(argv)
    if args.list is None and (args.unlabeled_list or args.allow_unmatched):
        parser.error("--unlabeled-list and --allow-unmatched belong to --list")
    return args


def listed_split(shards: ShardSet, args: argparse.Namespace) -> Split:
    """The split of published lists. DataError where lines match nothing, unless that is allowed."""
    matcher = KeyMatcher(shards, args.subset)
    labeled = matcher.match(shipped.found(str(args.list), "splits"), needs_mask=True)
    if args.unlabeled_list:
        unlabeled = matcher.match(args.unlabeled_list, needs_mask=False)
        report([labeled, unlabeled], args)
        rest = unlabeled.rows
    else:
        report([labeled], args)
        rest = np.setdiff1d(shards.rows(args.subset), labeled.rows)
    both = np.intersect1d(labeled.rows, rest)
    if len(both):
        print(f"{len(both)} samples are in both lists, as labelled and as unlabelled ones")
    also = [shards.rows(name) for name in args.also]
    return split_of_rows(shards, args.subset, labeled.rows, np.concatenate([rest, *also]))


def report(found: list[Matched], args: argparse.Namespace) -> None:
    """Say what was not matched, and write it down. DataError if that is not allowed, or nothing matched."""
    unmatched = [text for matched in found for text in matched.unmatched]
    path = args.out / UNMATCHED
    try:
        path.unlink(missing_ok=True)  # of an earlier run
        if unmatched:
            args.out.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{text}\n" for text in unmatched), encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
    for matched in found:
        if matched.by_name:
            print(
                f"{matched.path}: {matched.by_name} of {matched.lines} lines were matched by the file name "
                "alone, in other folders than the list says"
            )
    shown = [f"  {text}" for text in unmatched[:SHOWN]]
    if len(unmatched) > SHOWN:
        shown.append(f"  ... and {len(unmatched) - SHOWN} more")
    if unmatched:
        shown.append(f"  all of them: {path}")
    tail = "\n".join(["", *shown])
    for matched in found:
        if not len(matched.rows):
            raise DataError(
                f"{matched.path}: none of its {matched.lines} lines matches a sample of {args.shards}; is it "
                f"a list of these images?{tail}"
            )
    lines = sum(matched.lines for matched in found)
    head = f"{len(unmatched)} of {lines} lines match no sample of {args.shards}"
    if unmatched and not args.allow_unmatched:
        raise DataError(f"{head}; pack these images too, or leave them out with --allow-unmatched{tail}")
    if unmatched:
        print(f"{head} and are left out{tail}")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        shards = ShardSet.open(args.shards)
        if args.list is not None:
            splits = {args.out: listed_split(shards, args)}
        else:
            amounts = list(dict.fromkeys(args.count or args.fraction))
            drawn = draw_splits(
                shards,
                args.subset,
                amounts,
                method=args.method,
                seed=args.seed,
                also_unlabeled=args.also,
            )
            names = [str(amount).replace("/", "_") for amount in amounts]
            folders = [args.out / name for name in names] if len(amounts) > 1 else [args.out]
            splits = dict(zip(folders, drawn, strict=True))
        for folder, split in splits.items():
            write_split(split, folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    pool = next(iter(splits.values()))
    warning = missing_classes(pool.taxonomy.names, args.subset, pool.pool_pixels)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    for folder, split in splits.items():
        print(statistics(split))
        for name, keys in (("labeled", split.labeled), ("unlabeled", split.unlabeled)):
            print(f"{folder / name}.txt: {len(keys)} keys, hash {list_hash(keys)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
