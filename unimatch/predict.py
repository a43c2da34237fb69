"""Writes what a trained run sees in a folder of images: class ids, colour masks and overlays as PNG.

`python -m unimatch.predict RUN --images FOLDER --out FOLDER`; a run of change detection also needs
`--second FOLDER`, the same file names at the second date, and its overlays show both dates side by side.
A medical run also takes whole volumes (.h5, .nii, .nii.gz): their class ids are written as files of the same
kind on the same grid, and the overlay is a sheet of all slices.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from unimatch.codecs.decode import decode_grey, decode_rgb
from unimatch.codecs.encode import png
from unimatch.codecs.picture import grid, label_colors
from unimatch.codecs.volume_files import VOLUME_SUFFIXES, is_volume, read_volume, write_labels
from unimatch.data.images import stack_dates
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.restore import Restored, restore
from unimatch.engine.runtime import Runtime
from unimatch.errors import DataError, UserError, summary
from unimatch.tasks.base import Task

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
SLICES_PER_PASS = 8  # bounds the memory; the result does not depend on it


def main(args: list[str]) -> None:
    parser = Parser(
        prog="unimatch.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument(
        "--images", type=Path, required=True, metavar="FOLDER", help="images, also in folders below it"
    )
    parser.add_argument(
        "--second", type=Path, metavar="FOLDER", help="the second date of each image (change detection)"
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
    runtime = Runtime()
    if runtime.world > 1:
        raise UserError("unimatch.predict runs as one process: start it with python, not with a launcher")
    restored = restore(options.run, options.checkpoint, options.network, runtime)
    task = restored.task
    names = _names(options.images, "--images", SUFFIXES + (VOLUME_SUFFIXES if task.channels == 1 else ()))
    folders = _dates(options.images, options.second, names, task.dates)
    options.out.mkdir(parents=True, exist_ok=True)
    problems = []
    for name in tqdm(names, unit="image", dynamic_ncols=True, disable=None):
        try:
            if is_volume(name):
                _predict_volume(restored, options.images / name, options.out, name, options.alpha)
                continue
            image = _image([folder / name for folder in folders], task)
        except (DataError, OSError) as error:
            problems.append(str(error))
            continue
        ids = _class_ids(restored, image[None])[0]
        _write(options.out / "ids" / name, ids)
        _write(options.out / "colors" / name, label_colors(ids, task.taxonomy.colors))
        overlays = [task.paint(date, ids, options.alpha) for date in task.show(image)]
        _write(options.out / "overlays" / name, grid(overlays, columns=len(overlays)))
    print(
        f"{len(names) - len(problems)} images predicted with {restored.folder}; "
        f"see {options.out / 'overlays'}"
    )
    if problems:
        raise UserError(
            f"{len(problems)} of {len(names)} images could not be read:\n  " + "\n  ".join(problems)
        )


def _image(paths: list[Path], task: Task) -> np.ndarray:
    """An image of one file a date, as the task's `decode` gives it."""
    if task.channels == 1:
        return decode_grey(paths[0].read_bytes(), str(paths[0]))[..., None]
    dates = [decode_rgb(path.read_bytes(), str(path)) for path in paths]
    return dates[0] if len(dates) == 1 else stack_dates(dates[0], dates[1], paths[0].name)


def _class_ids(restored: Restored, images: np.ndarray) -> np.ndarray:
    """uint8 [B, H, W] of images as decoded, all of one size."""
    device = next(restored.net.parameters()).device
    with torch.inference_mode():
        labels = restored.task.predict(restored.net, torch.from_numpy(images).to(device))
    return labels.to("cpu", torch.uint8).numpy()


def _predict_volume(restored: Restored, path: Path, out: Path, name: Path, alpha: float) -> None:
    """Writes ids/NAME, of the kind of the input, and overlays/NAME.png, a sheet of all slices."""
    volume = read_volume(path)
    images, task = volume.slices[..., None], restored.task
    starts = range(0, len(images), SLICES_PER_PASS)
    ids = np.concatenate([_class_ids(restored, images[s : s + SLICES_PER_PASS]) for s in starts])
    write_labels(out / "ids" / name, ids, volume)
    pairs = zip(images, ids, strict=True)
    _write(
        out / "overlays" / name,
        grid([task.paint(task.show(image)[0], label, alpha) for image, label in pairs]),
    )


def _names(folder: Path, option: str, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """The images in a folder and those below it, as paths relative to it, sorted."""
    if not folder.is_dir():
        raise UserError(f"{option} {folder} is not a folder")
    found = (path for path in folder.rglob("*") if path.name.lower().endswith(suffixes))
    names = sorted(path.relative_to(folder) for path in found)
    if not names:
        raise UserError(f"no images in {folder}; looked for {', '.join(suffixes)}")
    return names


def _dates(images: Path, second: Path | None, names: list[Path], dates: int) -> list[Path]:
    """The folders that hold each date of the images; UserError unless they hold the same names."""
    if dates == 1:
        if second is not None:
            raise UserError("--second is for runs of task change; this run reads single images")
        return [images]
    if second is None:
        raise UserError(
            "this run compares two dates: name the folder of the first with --images and that of the second, "
            "with the same file names, with --second"
        )
    others = set(_names(second, "--second"))
    lonely = [f"{images / name} (not in {second})" for name in names if name not in others]
    lonely += [f"{second / name} (not in {images})" for name in sorted(others - set(names))]
    if lonely:
        raise UserError(
            f"{len(lonely)} image(s) have no partner of the same name at the other date: {summary(lonely, 5)}"
        )
    return [images, second]


def _write(path: Path, picture: np.ndarray) -> None:
    # The suffix stays in the name: a.jpg and a.png in one folder are two results.
    path = path.with_name(path.name + ".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(picture))


if __name__ == "__main__":
    sys.exit(run_entry(main))
