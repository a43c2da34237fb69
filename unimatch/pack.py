"""Make a shard set: from a folder of images and labels (a recipe file), or procedural scenes ("synthetic").

unimatch pack --recipe camvid --source ~/data/camvid --out data/camvid
unimatch pack --recipe my.yaml --source photos --out data/my
unimatch pack --guess photos --out my.yaml    # writes a recipe to start from
unimatch pack --recipe synthetic --out data/scenes --train 400 --val 100

A run that was stopped or killed is continued by the same command: finished shards wait in OUT.partial.

Many machines that share the folders, as tasks of a Slurm array (or --engine ray on a Ray cluster):

unimatch pack --recipe my.yaml --source photos --out data/my --part 3/8    # each of 1/8 to 8/8, in any order
unimatch pack --recipe my.yaml --source photos --out data/my --join 8     # then: checks and writes the set
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

from unimatch import config, shipped
from unimatch.codecs import compiled
from unimatch.codecs.encode import KEPT
from unimatch.errors import UserError, of_system
from unimatch.inspection.guess import guess_recipe, recipe_text
from unimatch.packing import folder, synthetic
from unimatch.packing.pack import Packed
from unimatch.packing.pieces import Join, OnRay, Part
from unimatch.packing.recipe import Recipe
from unimatch.registry import nearest

SYNTHETIC = "synthetic"


def size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH in pixels, such as 96x128, found {text!r}")
    return int(match[1]), int(match[2])


def workers(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of processes from 1, found {text!r}")
    return int(text)


def part(text: str) -> Part:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"expected NUMBER/OF, such as 3/8, from 1/8 to 8/8; found {text!r}")
    return Part(int(match[1]), int(match[2]))


def join(text: str) -> Join:
    return Join(workers(text))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unimatch pack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--guess",
        type=Path,
        metavar="FOLDER",
        help="look at a folder and write a recipe for it, to the file --out or to the screen; packs nothing",
    )
    parser.add_argument(
        "--recipe",
        help="a YAML file; or, where there is no such file, a recipe that came with unimatch, such as camvid "
        f"(`unimatch where` lists them); or the word {SYNTHETIC}",
    )
    parser.add_argument(
        "--out", type=Path, help="folder of the shard set; must not exist or be empty (with --guess a file)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the shard set in --out once the new one is whole"
    )
    parser.add_argument(
        "--workers",
        type=workers,
        default=min(os.cpu_count() or 1, 16),
        help="processes that read, check and encode; the bytes do not depend on it (%(default)s)",
    )
    _add_files(parser)
    scenes = parser.add_argument_group(SYNTHETIC)
    default = synthetic.write_synthetic.__kwdefaults__ or {}
    scenes.add_argument("--train", type=int, help=f"images of the subset train ({default['train']})")
    scenes.add_argument("--val", type=int, help=f"images of the subset val ({default['val']})")
    scenes.add_argument(
        "--size", type=size, help=f"HEIGHTxWIDTH in pixels ({default['height']}x{default['width']})"
    )
    scenes.add_argument("--seed", type=int, help=f"another seed, other scenes ({default['seed']})")
    return parser


def _add_files(parser: argparse.ArgumentParser) -> None:
    """What belongs to a recipe file."""
    files = parser.add_argument_group("recipe file")
    files.add_argument("--source", type=Path, help="folder that the recipe's paths are relative to")
    files.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a value of the recipe; repeatable",
    )
    files.add_argument(
        "--trust-images",
        action="store_true",
        help="check images by header and end only, not by decoding them: much faster for JPEG; the bytes are "
        "the same, and `unimatch check` finds what is damaged",
    )
    files.add_argument(
        "--fast-decode",
        action="store_true",
        help="store images, without a change to any pixel, so that training can decode the parts it needs: "
        "JPEG with restart markers, PNG as TIFF with tiles (the recipe's fast_decode: true)",
    )
    across = files.add_mutually_exclusive_group()
    across.add_argument(
        "--part", type=part, metavar="NUMBER/OF", help="convert one of so many parts, and write no shard"
    )
    across.add_argument(
        "--join", type=join, metavar="OF", help="write the set that so many parts have converted"
    )
    across.add_argument(
        "--engine",
        choices=["processes", "ray"],
        default="processes",
        help="who converts: --workers processes of this machine, or a Ray cluster (%(default)s)",
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, checked against each other; those of synthetic scenes that were given are `scenes`."""
    parser = build_parser()
    args = parser.parse_args(argv)
    given = {
        name: getattr(args, name)
        for name in ("train", "val", "size", "seed")
        if getattr(args, name) is not None
    }
    if args.guess is not None:
        return args
    if args.recipe is None or args.out is None:
        parser.error("--recipe and --out are needed (or --guess FOLDER)")
    args.across = args.part or args.join or (OnRay() if args.engine == "ray" else None)
    of_files = args.source or args.set or args.trust_images or args.fast_decode or args.across
    if args.recipe == SYNTHETIC and of_files:
        parser.error(
            "--source, --set, --trust-images, --fast-decode, --part, --join and --engine belong to a "
            f"recipe file; {SYNTHETIC} has --train, --val, --size, --seed"
        )
    if args.recipe != SYNTHETIC and given:
        parser.error(
            f"--{next(iter(given))} belongs to the recipe {SYNTHETIC}; change a recipe file with --set"
        )
    if args.recipe != SYNTHETIC and args.source is None:
        parser.error("--source is needed: the folder that the recipe's paths are relative to")
    if args.size is not None:
        del given["size"]
        given["height"], given["width"] = args.size
    args.scenes = given
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        if args.guess is not None:
            return guess(args)
        made = make(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on behind the shards that are finished", file=sys.stderr)
        return 130
    for reason, count in made.notes.items():
        kept = reason.startswith(KEPT)
        print(f"{count} images {'stay' if kept else 'were not stored'} as they are: {reason}")
    for text in made.told:
        print(f"note: {text}")
    for text in made.warnings:
        print(f"warning: {text}", file=sys.stderr)
    if args.part:
        return 0
    for name, (samples, labeled) in made.subsets.items():
        print(f"{name}: {samples} images, {labeled} with a mask")
    tars = list(args.out.glob("*.tar"))
    size_bytes = sum(path.stat().st_size for path in tars)
    print(f"{args.out}: {made.num_samples} images, {size_bytes / 2**20:.1f} MiB in {len(tars)} shards")
    return 0


def guess(args: argparse.Namespace) -> int:
    """Write a guessed recipe, and say what is unsure."""
    found = guess_recipe(args.guess)
    text = recipe_text(found, args.guess, str(args.out or "my.yaml"))
    if args.out is None:
        print(text, end="")
        return 0
    if args.out.exists():
        raise UserError(f"{args.out} exists; choose another --out, or remove it")
    try:
        args.out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {of_system(error)}") from error
    unsure = "1 thing is" if len(found.unsure) == 1 else f"{len(found.unsure)} things are"
    print(f"{args.out}: {found.kind}; {unsure} unsure, see the comments in it")
    return 0


def make(args: argparse.Namespace) -> Packed:
    if args.recipe == SYNTHETIC:
        return synthetic.write_synthetic(
            args.out, workers=args.workers, overwrite=args.overwrite, **args.scenes
        )
    path = shipped.found(args.recipe, "recipes")
    if not path.exists():
        beside = [other.name for other in path.parent.glob("*.yaml")]
        told = nearest(path.name, [*beside, *shipped.of_kind("recipes"), SYNTHETIC])
        raise UserError(f"--recipe {args.recipe}: no such file, nor a recipe of unimatch; {told}")
    recipe = config.load(path, Recipe, [*args.set, *(["fast_decode=true"] if args.fast_decode else [])])
    if recipe.fast_decode and not compiled.AVAILABLE:
        told = "restart markers take a second and more a photograph without numba: pip install unimatch[fast]"
        print(told, file=sys.stderr)
    return folder.pack(
        recipe,
        args.source,
        args.out,
        args.workers,
        args.overwrite,
        args.trust_images,
        args.across,
    )


if __name__ == "__main__":
    sys.exit(main())
