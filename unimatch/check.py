"""Check a shard set: hashes, every image and label, label values, keys, duplicates; print what it holds.

Exit code 1, with every problem on a line, if something is wrong. Warnings leave it at 0.

    unimatch check data/camvid --picture sheet.png
    unimatch check data/camvid --splits splits/23/labeled.txt splits/23/unlabeled.txt
    unimatch check predicted --of data/camvid  # a label set, and the images that it goes with
    unimatch check --foreign data/other    # tars of other programs: what is in them
    unimatch check --foreign data/other --classes road,tree,car --label-ext seg.png  # index
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from unimatch.codecs.encode import png
from unimatch.errors import UserError
from unimatch.inspection.check import Report, check_set, contact_sheet, table
from unimatch.inspection.check_labels import check_labels, holds_labels
from unimatch.inspection.duplicates import MAX_DISTANCE
from unimatch.inspection.foreign import advice, describe, survey, taxonomy_of
from unimatch.packing.coverage import missing_classes
from unimatch.shardset.archive import ShardSet, index_tars


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="unimatch check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path, help="folder of the shard set, or of the tars with --foreign")
    parser.add_argument(
        "--picture", type=Path, metavar="PLACE", help="images beside their overlays: a .png, or a folder"
    )
    parser.add_argument("--count", type=int, default=24, help="images in the picture (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of these images (%(default)s)")
    parser.add_argument("--of", type=Path, metavar="SHARDS", help="of a label set: the images that it labels")
    same = parser.add_argument_group("images that occur twice")
    same.add_argument(
        "--splits",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="key lists that are trained on or evaluated; without them the subsets are compared",
    )
    same.add_argument(
        "--held-out",
        nargs="+",
        default=[],
        metavar="NAME",
        help="subsets and lists (file names without extension) that must not be trained on; default: those "
        "whose names start with val or test",
    )
    same.add_argument(
        "--distance",
        type=int,
        default=2,
        choices=range(MAX_DISTANCE + 1),
        metavar="BITS",
        help="images are alike whose 64-bit perceptual hashes differ in at most so many bits; 0: only those "
        "with equal hashes (%(default)s)",
    )
    foreign = parser.add_argument_group("tars of other programs")
    foreign.add_argument("--foreign", action="store_true", help="say what they hold and what training lacks")
    foreign.add_argument(
        "--classes",
        metavar="NAMES|FILE",
        help="index them: class names as a,b,c, or a text file with lines 'id name' or 'id name R G B'",
    )
    foreign.add_argument("--label-ext", metavar="EXT", help="what label members end on, such as seg.png")
    args = parser.parse_args(argv)
    if args.count < 1:
        parser.error(f"--count must be at least 1, found {args.count}")
    if not args.foreign and (args.classes or args.label_ext):
        parser.error("--classes and --label-ext belong to --foreign")
    if args.label_ext and not args.classes:
        parser.error("--label-ext needs --classes: labels are indexed together with the class names")
    return args


def check(args: argparse.Namespace) -> int:
    labels = holds_labels(args.shards)
    if labels and (args.picture or args.splits):
        raise UserError(f"{args.shards} is a label set: --picture and --splits are for sets of images")
    if args.of is not None and not labels:
        raise UserError(f"--of is for label sets, and {args.shards} is none")
    place = picture_file(args.picture, args.shards) if args.picture else None
    if labels:
        report = check_labels(args.shards, args.of)
    else:
        report = check_set(args.shards, args.splits, args.held_out, args.distance)
    print(table(report))
    for warning in [*report.warnings, *uncovered(report)]:
        print(f"warning: {warning}", file=sys.stderr)
    for problem in report.problems:
        print(f"problem: {problem}", file=sys.stderr)
    if report.problems:
        print(f"{args.shards}: {len(report.problems)} problem(s)", file=sys.stderr)
        return 1
    if place is not None:
        place.write_bytes(png(contact_sheet(ShardSet.open(args.shards), args.count, args.seed)))
        print(f"picture: {place}")
    samples = sum(subset.samples for subset in report.subsets.values())
    print(f"{args.shards}: {samples} samples, {report.size_bytes / 2**20:.1f} MiB, sound")
    return 0


def picture_file(place: Path, shards: Path) -> Path:
    """The file for --picture: in a folder it is called as the shard set; folders that are missing are made.

    UserError: no name of a PNG file.
    """
    if place.suffix.lower() == ".png" and not place.is_dir():
        file = place
    elif place.suffix and not place.is_dir():
        raise UserError(f"--picture {place}: the picture is a PNG file; name one, or a folder for it")
    else:
        file = place / f"{shards.resolve().name}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def uncovered(report: Report) -> Iterator[str]:
    """A warning for each subset whose masks have no pixel of some class."""
    if report.taxonomy is None:
        return
    for name, subset in report.subsets.items():
        text = missing_classes(report.taxonomy.names, name, subset.class_pixels, subset.ignored_pixels)
        if text and subset.labeled:
            yield text


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        if args.foreign:
            found = survey(args.shards)
            print(describe(found))
            if not args.classes:
                print(advice(found))
                return 0
            index_tars(args.shards, taxonomy_of(args.classes), args.label_ext)
            print(f"{args.shards}: indexed; now everything in it is checked")
        return check(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {args.picture}: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
