"""Writes what a trained run sees in a folder of images: class ids, colour masks and overlays as PNG.

`python -m unimatch.predict RUN --images FOLDER --out FOLDER`
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from unimatch.data.decode import decode_rgb
from unimatch.data.encode import png
from unimatch.data.picture import label_colors, overlay
from unimatch.engine.build import restore
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.runtime import Runtime
from unimatch.errors import DataError, UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def main(args: list[str]) -> None:
    parser = Parser(
        prog="unimatch.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument(
        "--images", type=Path, required=True, metavar="FOLDER", help="images, also in folders below it"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="gets ids/, colors/ and overlays/"
    )
    parser.add_argument(
        "--checkpoint", default="last", metavar="WHICH", help="last, best or a step (default: last)"
    )
    parser.add_argument(
        "--network", metavar="NAME", help="which network of the checkpoint (default: the headline one)"
    )
    parser.add_argument(
        "--alpha", type=float, default=0.5, help="strength of the colours in overlays, 0 to 1 (default: 0.5)"
    )
    options = parser.parse_args(args)
    if not 0 <= options.alpha <= 1:
        parser.error(f"--alpha must be from 0 to 1, found {options.alpha:g}")
    if not options.images.is_dir():
        raise UserError(f"--images {options.images} is not a folder")
    paths = sorted(path for path in options.images.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise UserError(f"no images in {options.images}; looked for {', '.join(SUFFIXES)}")

    options.out.mkdir(parents=True, exist_ok=True)

    runtime = Runtime()
    if runtime.world > 1:
        raise UserError("unimatch.predict runs as one process: start it with python, not with a launcher")
    restored = restore(options.run, options.checkpoint, options.network, runtime)
    colors = restored.task.taxonomy.colors
    problems = []
    for path in tqdm(paths, unit="image", dynamic_ncols=True, disable=None):
        try:
            image = decode_rgb(path.read_bytes(), str(path))
        except (DataError, OSError) as error:
            problems.append(str(error))
            continue
        with torch.inference_mode():
            labels = restored.task.predict(restored.net, torch.from_numpy(image)[None].to(runtime.device))[0]
        ids = labels.to("cpu", torch.uint8).numpy()
        relative = path.relative_to(options.images)
        _write(options.out / "ids" / relative, ids)
        _write(options.out / "colors" / relative, label_colors(ids, colors))
        _write(options.out / "overlays" / relative, overlay(image, ids, colors, options.alpha))
    print(
        f"{len(paths) - len(problems)} images predicted with {restored.folder}; "
        f"see {options.out / 'overlays'}"
    )
    if problems:
        raise UserError(
            f"{len(problems)} of {len(paths)} images could not be read:\n  " + "\n  ".join(problems)
        )


def _write(path: Path, picture: np.ndarray) -> None:
    # The suffix stays in the name: a.jpg and a.png in one folder are two results.
    path = path.with_name(path.name + ".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(picture))


if __name__ == "__main__":
    sys.exit(run_entry(main))
