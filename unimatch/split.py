"""Choose the labelled samples of a shard set; write labeled.txt and unlabeled.txt, one key a line.

Or cut it into folds, each with val.txt and train.txt.

unimatch split --shards data/camvid --count 23 --method stratified --out splits/23
unimatch split --shards data/camvid --fraction 1/16 1/8 --out splits  # 1_16 lies inside 1_8
unimatch split --shards data/scans --count 5 --group-by volume --out splits/5    # 5 volumes, all their slices
unimatch split --shards data/my --folds 5 --group-by "building(\\d+)" --out folds
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
from unimatch.packing.groups import NONE, SCENE, default_rule, groups_by, groups_of_file, volume_of
from unimatch.packing.published import KeyMatcher, Matched
from unimatch.packing.splits import (
    METHODS,
    Split,
    draw_splits,
    split_of_rows,
    statistics,
    write_folds,
    write_split,
)
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


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unimatch split", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", required=True, help="folder of the shard set")
    parser.add_argument("--subset", default="train", help="subset, or key-list file, to divide (%(default)s)")
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--count", type=int, nargs="+", metavar="N", help="labelled images, or groups")
    amount.add_argument(
        "--fraction",
        type=fraction,
        nargs="+",
        metavar="F",
        help="labelled part of the subset's images, in (0, 1], such as 1/16 or 0.25; rounded",
    )
    amount.add_argument(
        "--folds", type=int, metavar="K", help="K parts, each once val.txt and otherwise in train.txt"
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
    add_draw(parser)
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
    return parser


def add_draw(parser: argparse.ArgumentParser) -> None:
    """How samples are drawn, where they are not listed."""
    parser.add_argument("--seed", type=int, default=0, help="another seed, another draw (%(default)s)")
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--group-by",
        metavar="RULE",
        help="samples of a group stay on one side: `volume` (slices VOLUME/000 ...), `folder`, `scene` "
        "(tiles of a raster, where it is the default), `none`, or a regular expression for the path, such as "
        '"patient(\\d+)"',
    )
    group.add_argument(
        "--group-file", type=Path, metavar="FILE", help="the same by lines `image, group` of a text file"
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.list is not None and (args.group_by or args.group_file):
        parser.error("--group-by and --group-file are for drawn splits, not for --list")
    if args.folds is not None and args.also:
        parser.error("--also belongs to a split into labelled and unlabelled samples, not to --folds")
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


def sample_groups(shards: ShardSet, args: argparse.Namespace) -> np.ndarray | None:
    """The group of each sample, if groups are asked for."""
    if args.group_file is not None:
        return groups_of_file(shards, args.group_file, args.subset)
    rule = args.group_by or default_rule(shards)
    if rule == SCENE and not args.group_by:
        print("tiles of a scene stay on one side: counts are those of scenes (--group-by none: of tiles)")
    return None if rule == NONE else groups_by(shards, rule)


def drawn_splits(shards: ShardSet, args: argparse.Namespace) -> dict[Path, Split]:
    """The splits of the counts or fractions that were asked for, by their folder."""
    amounts = list(dict.fromkeys(args.count or args.fraction))
    groups = sample_groups(shards, args)
    drawn = draw_splits(
        shards,
        args.subset,
        amounts,
        method=args.method,
        seed=args.seed,
        also_unlabeled=args.also,
        groups=groups,
    )
    slices = [volume_of(key) for key in shards.keys(shards.rows(args.subset))]
    if groups is None and None not in slices and len(set(slices)) < len(slices):
        print(
            f"note: these {len(slices)} samples are slices of {len(set(slices))} volumes, which may stand on "
            "both sides; --group-by volume counts and keeps whole volumes"
        )
    names = [str(amount).replace("/", "_") for amount in amounts]
    folders = [args.out / name for name in names] if len(amounts) > 1 else [args.out]
    return dict(zip(folders, drawn, strict=True))


def fold_lists(shards: ShardSet, args: argparse.Namespace) -> list[str]:
    """Write the folds; a line for each."""
    groups = sample_groups(shards, args)
    sizes = write_folds(
        shards, args.subset, args.folds, args.out, method=args.method, seed=args.seed, groups=groups
    )
    return [
        f"{args.out / str(number)}: train.txt {train} keys, val.txt {val} keys"
        for number, (train, val) in enumerate(sizes, 1)
    ]


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        shards = ShardSet.open(args.shards)
        if args.folds is not None:
            for line in fold_lists(shards, args):
                print(line)
            return 0
        splits = drawn_splits(shards, args) if args.list is None else {args.out: listed_split(shards, args)}
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
