"""Chooses the images to label next, by what a trained run makes of them.

`unimatch rank RUN --images FOLDER --count 50 --out FOLDER` for files; a run of change detection also needs
--second. `unimatch rank RUN --data unlabeled.txt --count 50 --out FOLDER` for samples of the run's shards.

OUT/chosen.txt    the chosen ones: paths, or a key list
OUT/ranking.csv   all images with their scores; the chosen ones first, with reasons
OUT/sheet.png     the chosen ones as the run sees them
OUT/labeled.txt   of the run's own shards: its labelled samples and the chosen ones, for data.labeled
OUT/unlabeled.txt the rest of --data

The scores are explained in docs/label_loop.md. The same run and images give the same files.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from unimatch.codecs.encode import png
from unimatch.codecs.picture import scaled
from unimatch.codecs.sheet import Sample, sheet, tile_side
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.options import add_which_weights
from unimatch.engine.prediction_mode import add_options, given
from unimatch.errors import UserError
from unimatch.interface import Run, load
from unimatch.predicting.candidates import FileCandidates, SampleCandidates
from unimatch.predicting.inputs import add_file_options
from unimatch.predicting.looks import Watched
from unimatch.predicting.ranking import MEASURES, Choice, Pool, choose, reasons
from unimatch.shardset.key_list import list_hash, write_keys

SHOWN = 20  # lines that are printed
ACROSS = 2  # images in a row of the sheet


def arguments(args: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="unimatch rank", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder")
    add_file_options(parser)
    parser.add_argument("--data", metavar="NAME", help="samples of shards: a subset, or a key-list file")
    parser.add_argument(
        "--shards", metavar="PLACE", help="other shards of these classes, folder or URL (default: the run's)"
    )
    parser.add_argument("--count", type=int, required=True, metavar="N", help="how many to choose")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="of the results")
    parser.add_argument(
        "--by", nargs="+", choices=MEASURES, default=list(MEASURES), help="what counts (default: all)"
    )
    parser.add_argument(
        "--against",
        metavar="NETWORK",
        help="disagreement with this network of the checkpoint, such as the student's `model` beside a "
        "teacher (default: with the mirrored image)",
    )
    parser.add_argument(
        "--sheet", type=int, default=24, metavar="N", help="images on the sheet (default: 24; 0: no sheet)"
    )
    parser.add_argument("--batch", type=int, default=4, help="samples of one size together (default: 4)")
    parser.add_argument("--workers", type=int, default=2, help="data workers for samples (default: 2)")
    add_which_weights(parser)
    add_options(parser)
    options = parser.parse_args(args)
    if (options.images is None) == (options.data is None):
        parser.error("give --images for files, or --data for samples of a shard set")
    if options.images is None and options.second is not None:
        parser.error("--second is for files: leave it out beside --data")
    if options.data is None and options.shards is not None:
        parser.error("--shards is for --data: leave it out beside --images")
    for name, least in (("count", 1), ("batch", 1), ("sheet", 0), ("workers", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name} must be at least {least}, found {getattr(options, name)}")
    return options


def main(args: list[str]) -> None:
    options = arguments(args)
    run = load(options.run, options.checkpoint, options.network, **given(options))
    other = None
    if options.against is not None:
        other = load(options.run, options.checkpoint, options.against, **given(options)).network
    candidates = _candidates(run, options)
    if options.count > len(candidates.names):
        raise UserError(
            f"--count {options.count}: there are only {len(candidates.names)} images to choose from"
        )
    net = Watched(run.network)
    pool = Pool(*candidates.looks(net, other))
    if options.count > len(pool):
        raise UserError(_unreadable(candidates.problems, len(candidates.names)))
    features = candidates.labeled_features(net) if "diversity" in options.by else np.empty((0, 1))
    choice = choose(pool, options.count, options.by, features)
    options.out.mkdir(parents=True, exist_ok=True)
    told = [reasons(pool, choice, place, run.classes) for place in range(options.count)]
    _write_table(options.out / "ranking.csv", pool, choice, told)
    chosen = [pool.names[image] for image in choice.order.tolist()]
    _write_lists(options.out, chosen, candidates)
    if options.sheet:
        picture = _sheet(run, candidates, chosen[: options.sheet], told, choice, net.net)
        (options.out / "sheet.png").write_bytes(png(picture))
    for place, name in enumerate(chosen[:SHOWN]):
        print(f"{place + 1:4} {name}: {'; '.join(told[place])}")
    more = f"; the first {SHOWN} are above" if len(chosen) > SHOWN else ""
    print(f"{len(chosen)} of {len(pool)} images chosen with {run.folder}{more}: {options.out}")
    print("".join(f"note: {sentence}\n" for sentence in candidates.told), end="")
    if candidates.problems:
        raise UserError(_unreadable(candidates.problems, len(candidates.names)))


def _candidates(run: Run, options: argparse.Namespace) -> FileCandidates | SampleCandidates:
    if options.images is not None:
        return FileCandidates(run, options.images, options.second, options.out)
    return SampleCandidates(run, options.data, options.shards, options.batch, options.workers)


def _unreadable(problems: list[str], count: int) -> str:
    return f"{len(problems)} of {count} images could not be read:\n  " + "\n  ".join(problems)


def _write_table(path: Path, pool: Pool, choice: Choice, told: list[list[str]]) -> None:
    """All images: the chosen ones in their order, then the others by score."""
    chosen = choice.order.tolist()
    places = {image: place for place, image in enumerate(chosen)}
    others = [image for image in np.argsort(-choice.score, kind="stable").tolist() if image not in places]
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(
            ["chosen", "name", "score", "disagreement", "entropy", "rarity", "distance", "reasons"]
        )
        for image in [*chosen, *others]:
            values = [choice.score, pool.disagreement, pool.entropy, pool.rarity]
            place = places.get(image)
            known = place is not None
            row: list[Any] = [place + 1 if place is not None else "", pool.names[image]]
            row += [f"{one[image]:.6g}" for one in values]
            row += [f"{choice.distance[place]:.6g}" if known else "", "; ".join(told[place or 0]) * known]
            table.writerow(row)


def _write_lists(out: Path, chosen: list[str], candidates: FileCandidates | SampleCandidates) -> None:
    if isinstance(candidates, FileCandidates):
        (out / "chosen.txt").write_text("".join(f"{name}\n" for name in sorted(chosen)), encoding="utf-8")
        return
    lists = {"chosen": chosen}
    if candidates.labeled is not None:
        rest = sorted(set(candidates.names) - set(chosen))
        lists |= {"labeled": [*candidates.labeled, *chosen], "unlabeled": rest}
    for name, keys in lists.items():
        write_keys(out / f"{name}.txt", keys)
        print(f"{out / name}.txt: {len(keys)} keys, hash {list_hash(keys)}")
    candidates.tell_of_masks(chosen)


def _sheet(
    run: Run,
    candidates: FileCandidates | SampleCandidates,
    chosen: list[str],
    told: list[list[str]],
    choice: Choice,
    net: nn.Module,
) -> np.ndarray:
    """Each image, all its dates, beside what the run sees in it; of a volume the middle slice."""
    dates = run.task.dates
    side = tile_side(ACROSS * (dates + 1))
    samples = []
    for place, name in enumerate(chosen):
        image = candidates.read(name)
        middle = image[len(image) // 2]
        shown = [scaled(one, side) for one in run.task.show(middle)]
        ids = run.predict(middle)
        score = choice.score[choice.order[place]]
        caption = "\n".join([f"{place + 1}: {name}, score {score:.2f}", *told[place]])
        samples.append(Sample([*shown, run.task.paint(shown[-1], ids)], caption))
    titles = ["first", "second", "prediction"] if dates > 1 else ["image", "prediction"]
    return sheet(samples, titles, ACROSS, run.task.legend("not predicted"))


if __name__ == "__main__":
    sys.exit(run_entry(main))
