"""Make a shard set: from a folder of images and labels (a recipe file), or procedural scenes ("synthetic").

python tools/make_shards.py --recipe shards/recipes/camvid.yaml --source ~/data/camvid --out data/camvid
python tools/make_shards.py --recipe synthetic --out data/scenes --train 400 --val 100
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

from unimatch import config
from unimatch.data import folder, synthetic
from unimatch.data.recipe import Recipe
from unimatch.errors import UserError

SYNTHETIC = "synthetic"


def size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH in pixels, such as 96x128, found {text!r}")
    return int(match[1]), int(match[2])


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--recipe", required=True, help=f"a YAML file (see shards/recipes), or the word {SYNTHETIC}"
    )
    parser.add_argument(
        "--out", required=True, type=Path, help="folder of the shard set; must not exist or be empty"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the shard set in --out once the new one is whole"
    )
    files = parser.add_argument_group("recipe file")
    files.add_argument("--source", type=Path, help="folder that the recipe's paths are relative to")
    files.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a value of the recipe; repeatable",
    )
    cores = min(os.cpu_count() or 1, 16)
    files.add_argument(
        "--workers",
        type=int,
        default=cores,
        help="processes that read and check; the bytes do not depend on it (%(default)s)",
    )
    scenes = parser.add_argument_group(SYNTHETIC)
    default = synthetic.write_synthetic.__kwdefaults__ or {}
    scenes.add_argument("--train", type=int, help=f"images of the subset train ({default['train']})")
    scenes.add_argument("--val", type=int, help=f"images of the subset val ({default['val']})")
    scenes.add_argument(
        "--size", type=size, help=f"HEIGHTxWIDTH in pixels ({default['height']}x{default['width']})"
    )
    scenes.add_argument("--seed", type=int, help=f"another seed, other scenes ({default['seed']})")
    args = parser.parse_args(argv)
    given = {
        name: getattr(args, name)
        for name in ("train", "val", "size", "seed")
        if getattr(args, name) is not None
    }
    if args.recipe == SYNTHETIC and (args.source or args.set):
        parser.error(
            f"--source and --set belong to a recipe file; {SYNTHETIC} has --train, --val, --size, --seed"
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
        if args.recipe == SYNTHETIC:
            made = synthetic.write_synthetic(args.out, overwrite=args.overwrite, **args.scenes)
        else:
            recipe = config.load(args.recipe, Recipe, args.set)
            made = folder.pack(recipe, args.source, args.out, args.workers, args.overwrite)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for reason, count in made.notes.items():
        print(f"{count} images were encoded anew: {reason}")
    subsets = ", ".join(
        f"{name} {samples} ({labeled} with a mask)" for name, (samples, labeled) in made.subsets.items()
    )
    total = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"{args.out}: {subsets}; {total / 2**20:.1f} MiB in {len(list(args.out.glob('*.tar')))} shards")
    return 0


if __name__ == "__main__":
    sys.exit(main())
