"""Looks through millions of images for those that are worth training on: none twice, none that is evaluated,
and, with --encoder, how far each lies from the labelled ones.

    unimatch curate data/web --out curated                                       # val and test are its own
    unimatch curate data/web --reference data/my --labeled my/labeled.txt --out curated
    unimatch curate data/web ... --encoder resnet50 --weights hub --count 1000 --out curated

OUT/keep.txt     a key list of what is left, as data.unlabeled takes it
OUT/dropped.csv  what is not, with the reason and the image that it repeats
OUT/unlike.csv   with --encoder: these and their distance from the nearest labelled image, farthest first
OUT/unlike.txt   with --count: a key list of the farthest

Started again with the same --out it goes on where it was. docs/curation.md has the rules, memory and cost.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from unimatch.curation.doubles import Doubles, doubles
from unimatch.curation.prints import UNREADABLE, fingerprints
from unimatch.curation.unlike import Embedding, unlike
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.runtime import Runtime
from unimatch.errors import UserError
from unimatch.inspection.duplicates import MAX_DISTANCE
from unimatch.models.encoders import EncoderConfig, build_encoder
from unimatch.packing.rasters import HELD_OUT
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.key_list import list_hash, write_keys


def arguments(args: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="unimatch curate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", metavar="SHARDS", help="the set to look through, folder or URL")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="of the results")
    parser.add_argument(
        "--pool", metavar="NAME", help="subset or key list (default: subsets that are not held out)"
    )
    parser.add_argument(
        "--reference",
        metavar="SHARDS",
        help="the set of --held-out and --labeled, if it is another one",
    )
    parser.add_argument(
        "--held-out",
        nargs="+",
        metavar="NAME",
        help="subsets or key lists that must not be trained on (default: subsets whose names start with val "
        "or test)",
    )
    parser.add_argument(
        "--labeled", metavar="NAME", help="subset or key list: what is labelled, and stays out of the pool"
    )
    parser.add_argument(
        "--distance",
        type=int,
        default=2,
        choices=range(MAX_DISTANCE + 1),
        metavar="BITS",
        help="images are alike whose 64-bit perceptual hashes differ in at most so many bits (default: 2)",
    )
    far = parser.add_argument_group("images unlike the labelled ones")
    far.add_argument("--encoder", metavar="NAME", help="of timm, such as resnet50")
    far.add_argument("--weights", default="hub", help="hub, package, file:PATH or none (default: hub)")
    far.add_argument("--side", type=int, default=224, help="images are resized to (default: 224)")
    far.add_argument("--count", type=int, default=0, metavar="N", help="a key list of the N farthest")
    options = parser.parse_args(args)
    if options.encoder is not None and options.labeled is None:
        parser.error("--encoder measures distances from what is labelled: give --labeled")
    if options.encoder is None and options.count:
        parser.error("--count is for --encoder: without it nothing is ranked")
    if options.side < 1 or options.count < 0:
        parser.error("--side must be at least 1, --count at least 0")
    return options


def main(args: list[str]) -> None:
    options = arguments(args)
    shards = ShardSet.open(options.shards)
    reference = shards if options.reference is None else ShardSet.open(options.reference)
    names = options.held_out or [name for name in reference.subsets if HELD_OUT.match(name)]
    held = np.unique(np.concatenate([np.empty(0, np.int64), *(reference.rows(name) for name in names)]))
    labeled = np.empty(0, np.int64) if options.labeled is None else reference.rows(options.labeled)
    both = np.intersect1d(held, labeled)
    if len(both):
        raise UserError(
            f"{len(both)} samples of --labeled are held out too, such as {reference.keys(both[:1])[0]}: what "
            "is evaluated must not be trained on"
        )
    pool = _pool(shards, options.pool, names if reference is shards else [])
    if reference is shards:
        pool = np.setdiff1d(pool, np.concatenate([held, labeled]))
    if not len(pool):
        raise UserError(f"nothing of {shards.root} is left to look through: name samples with --pool")
    embedding = None if options.encoder is None else _embedding(options)
    options.out.mkdir(parents=True, exist_ok=True)
    own = fingerprints(shards, options.out)
    theirs = own if reference is shards else fingerprints(reference, options.out)
    known = np.concatenate([theirs[held], theirs[labeled]])
    prints = np.concatenate([known, own[pool]])
    found = doubles(prints, len(known), options.distance)
    kinds = np.repeat(["held out", "labelled", "pool"], [len(held), len(labeled), len(pool)])
    unreadable = prints[:, 0] == UNREADABLE
    dropped = (found.of >= 0) | unreadable
    places = np.flatnonzero(dropped)
    rows = np.concatenate([held, labeled, pool])

    def keys(some: np.ndarray) -> list[str]:
        first = some < len(known)
        named = np.empty(len(some), object)
        named[first], named[~first] = reference.keys(rows[some[first]]), shards.keys(rows[some[~first]])
        return [str(name) for name in named]

    told = zip(places.tolist(), keys(places), keys(np.maximum(found.of[places], 0)), strict=True)
    _write_dropped(options.out / "dropped.csv", found, unreadable, kinds, told)
    left = pool[~dropped[len(known) :]]
    _write_list(options.out / "keep.txt", shards.keys(left))
    _tell(found, unreadable, kinds, names)
    if embedding is not None and len(left):
        _write_unlike(options, shards, left, unlike(shards, left, reference, labeled, embedding, options.out))


def _pool(shards: ShardSet, name: str | None, held_out: list[str]) -> np.ndarray:
    if name is not None:
        return shards.rows(name)
    names = [one for one in shards.subsets if one not in held_out and not HELD_OUT.match(one)]
    return shards.rows("+".join(names)) if names else np.empty(0, np.int64)


def _embedding(options: argparse.Namespace) -> Embedding:
    encoder = build_encoder(EncoderConfig(options.encoder, options.weights))
    return Embedding(encoder, f"{options.encoder} {encoder.loaded}", options.side, Runtime().device)


def _write_list(path: Path, keys: list[str]) -> None:
    write_keys(path, keys)
    print(f"{path}: {len(keys)} keys, hash {list_hash(keys)}")


def _write_dropped(
    path: Path,
    found: Doubles,
    unreadable: np.ndarray,
    kinds: np.ndarray,
    told: Iterable[tuple[int, str, str]],
) -> None:
    """told: the place of each such image, its key and that of the image that it repeats."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["key", "from", "reason", "bits", "repeats", "which is from"])
        for place, key, other in told:
            if unreadable[place]:
                table.writerow([key, kinds[place], "unreadable", "", "", ""])
                continue
            reason = "equal" if found.equal[place] else "alike"
            bits, of = int(found.bits[place]), kinds[found.of[place]]
            table.writerow([key, kinds[place], reason, bits, other, of])


def _tell(found: Doubles, unreadable: np.ndarray, kinds: np.ndarray, names: list[str]) -> None:
    if not names:
        print("note: nothing is held out, so leaks were not looked for: name subsets with --held-out")
    pairs = Counter[tuple[str, str, str]]()
    for place in np.flatnonzero((found.of >= 0) & ~unreadable).tolist():
        word = "equal" if found.equal[place] else "resemble"
        pairs[str(kinds[place]), word, str(kinds[found.of[place]])] += 1
    for (kind, word, other), count in sorted(pairs.items()):
        fate = "left out" if kind == "pool" else "kept, and to be looked at"
        where = "in the pool" if other == "pool" else other
        print(f"{count} images ({kind}) {word} one that is {where}: {fate}")
    if unreadable.any():
        print(f"{int(unreadable.sum())} images cannot be read: `unimatch check` says why")
    if found.open:
        print(f"{found.open} images in long rows of similar ones were kept undecided")


def _write_unlike(
    options: argparse.Namespace, shards: ShardSet, rows: np.ndarray, distance: np.ndarray
) -> None:
    order = np.argsort(-distance, kind="stable")
    keys = shards.keys(rows[order])
    with open(options.out / "unlike.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["key", "distance"])
        table.writerows(zip(keys, (f"{value:.6g}" for value in distance[order]), strict=True))
    parts = np.quantile(distance, (0.05, 0.5, 0.95))
    print(
        f"{options.out / 'unlike.csv'}: {len(keys)} images; distance from the nearest labelled one: median "
        f"{parts[1]:.3f}, of 90 % from {parts[0]:.3f} to {parts[2]:.3f}"
    )
    if options.count:
        _write_list(options.out / "unlike.txt", keys[: options.count])


if __name__ == "__main__":
    sys.exit(run_entry(main))
