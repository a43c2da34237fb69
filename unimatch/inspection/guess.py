"""Looks at a folder, recognises what kind of data set it is, and writes a recipe for it.

Whatever is not certain stands in the recipe as a comment that begins with `# unsure:`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from unimatch import config
from unimatch.errors import DataError
from unimatch.inspection import guess_masks, guess_scans, guess_sets, guess_tools
from unimatch.inspection.inventory import PICTURES, Guess, Inventory
from unimatch.packing.recipe import Recipe

# In this order: what is certain first.
KINDS = {
    "COCO instances (JSON with images, annotations, categories)": guess_sets.guess_coco,
    "Label Studio (JSON of tasks)": guess_sets.guess_label_studio,
    "CVAT for images (XML)": guess_sets.guess_cvat,
    "CVAT masks (labelmap.txt beside SegmentationClass)": guess_tools.guess_labelmap,
    "Supervisely (ann and img folders)": guess_tools.guess_supervisely,
    "LabelMe (JSON files with shapes)": guess_tools.guess_labelme,
    "YOLO outlines (data.yaml, images and labels)": guess_tools.guess_yolo,
    "DICOM series": guess_scans.guess_dicom,
    "NIfTI volumes": guess_scans.guess_nifti,
    "one mask a class (masks/a_road.png, masks/road/a.png)": guess_masks.guess_class_masks,
    "images with masks of their names": guess_masks.guess_masks,
}
LINE = 100


def guess_recipe(folder: Path) -> Guess:
    """The recipe of a folder. DataError: it is none, or of no kind that is known."""
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder")
    for look in KINDS.values():
        guess = look(Inventory(folder))
        if guess is not None:
            if not any(name in guess.recipe["subsets"] for name in ("val", "test")):
                guess.saw.append("no folder is called val: draw one from train with `unimatch split`")
            return guess
    inventory = Inventory(folder)
    files = sum(map(len, inventory.folders.values()))
    raise DataError(
        f"{folder}: of its {files} files ({len(inventory.files(*PICTURES))} pictures) nothing fits a kind "
        "that is known; looked for "
        + "; ".join(KINDS)
        + ". `unimatch init recipe my.yaml` writes a recipe to fill in"
    )


def recipe_text(guess: Guess, folder: Path, path: str) -> str:
    """The recipe as YAML with comments. It is a valid recipe."""
    lines = [f"# Guessed from {folder}: {guess.kind}. Check it, then"]
    lines.append(f"#   unimatch pack --recipe {path} --source {json.dumps(str(folder))} --out data/my")
    lines += [f"# saw: {text}" for text in guess.saw]
    lines += [f"# unsure: {text}" for text in guess.unsure]
    for name in (
        "classes",
        "classes_file",
        "colors",
        "label_kind",
        "ignore_id",
        "ignore_color",
        "id_map",
        "segments",
        "scans",
    ):
        if name in guess.recipe:
            lines.append(f"{name}: {flow(guess.recipe[name])}")
    lines.append("subsets:")
    lines += [f"  {name}: {flow(settings)}" for name, settings in guess.recipe["subsets"].items()]
    text = "".join(f"{' '.join(line.splitlines())}\n" if line[0] == "#" else f"{line}\n" for line in lines)
    config.from_text(text, Recipe)  # an error here is a mistake of ours
    return text


def flow(value: Any) -> str:
    """A value as one line of YAML, or several that are indented."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=LINE)
    return text.removesuffix("...\n").strip().replace("\n", "\n    ")
