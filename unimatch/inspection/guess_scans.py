"""Recognises NIfTI volumes and DICOM series."""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from unimatch.codecs.nifti import STORED, read_nifti
from unimatch.errors import DataError
from unimatch.inspection.guess_masks import is_mask_folder
from unimatch.inspection.inventory import PICTURES, Guess, Inventory, join, kinship, named_subsets, stem

NIFTI = (".nii", ".nii.gz")
MAGIC = b"DICM"  # at byte 128
LOOKED_AT = 5  # label volumes whose values are read


def guess_nifti(inventory: Inventory) -> Guess | None:
    folders = [folder for folder in inventory.folders if inventory.named(folder, *NIFTI)]
    images = [folder for folder in folders if not is_mask_folder(re.sub(r"(tr|ts)$", "", folder, flags=re.I))]
    guess = Guess("NIfTI volumes", {"scans": {"percentiles": [0.5, 99.5]}})
    entries = []
    for folder in images:
        near = sorted(folders, key=lambda one: -kinship(folder, one))
        names = inventory.named(folder, *NIFTI)
        ending = ".nii.gz" if names[0].endswith(".gz") else ".nii"
        best: tuple[int, str, str] = (0, "", "")
        for other in near:
            labels = set(inventory.named(other, *NIFTI))
            for tail, mark in (("", "{stem}"), ("_0000", "{name}")):
                hits = sum(name.replace(f"{tail}{ending}", ending) in labels for name in names)
                if other != folder and hits > best[0]:
                    best = (hits, tail, f"{other}/{mark}{ending}")
        settings: dict[str, Any] = {"images": join(folder, f"*{best[1]}{ending}")}
        if best[0]:
            settings["labels"] = best[2]
        if 0 < best[0] < len(names):
            settings["skip_unlabeled"] = True
            guess.unsure.append(f"{len(names) - best[0]} of {len(names)} volumes in {folder} have no label")
        guess.saw.append(f"{len(names)} volumes in {folder or 'the folder'}, {best[0]} with a label")
        entries.append((folder, settings))
    if not entries:
        return None
    guess.unsure.append("which values become black and white: in CT better a window, such as [-160, 240]")
    guess.recipe["subsets"] = named_subsets(entries)
    found = [path for f in folders if f not in images for path in inventory.files_in(f, *NIFTI)]
    label_classes(guess, inventory, found)
    return guess


def guess_dicom(inventory: Inventory) -> Guess | None:
    series: dict[str, list[str]] = {}
    for folder, names in inventory.folders.items():
        found = [name for name in names if name.upper() != "DICOMDIR" and not name.lower().endswith(PICTURES)]
        if found and inventory.read(join(folder, found[0]))[128:132] == MAGIC:
            series[folder] = found
    if not series:
        return None
    guess = Guess("DICOM series", {"scans": {"dicom": True, "percentiles": [0.5, 99.5]}})
    guess.saw.append(f"{len(series)} folders of DICOM files, {sum(map(len, series.values()))} files")
    plain = all(not name.lower().endswith(".dcm") for names in series.values() for name in names)
    above = {PurePosixPath(folder).parent.as_posix() for folder in series}
    base = next(iter(above)) if len(above) == 1 else "**"
    images = (
        f"{base}/*/{'*' if plain else '*.dcm'}".removeprefix("./")
        if len(above) == 1
        else f"**/{'*' if plain else '*.dcm'}"
    )
    settings: dict[str, Any] = {"images": images}
    labelled: list[str] = []
    for folder in inventory.folders:
        labels = set(map(stem, inventory.named(folder, *NIFTI)))
        hits = sum(PurePosixPath(one).name in labels for one in series)
        if hits:
            ending = ".nii.gz" if inventory.named(folder, ".nii.gz") else ".nii"
            settings["labels"] = join(folder, "{stem}" + ending)
            if hits < len(series):
                settings["skip_unlabeled"] = True
                guess.unsure.append(f"{len(series) - hits} of {len(series)} series have no label: left out")
            labelled = inventory.files_in(folder, *NIFTI)
            guess.saw.append(f"{hits} labels in {folder}")
    if "labels" not in settings:
        guess.unsure.append("no NIfTI file has the name of a series' folder: without labels here")
    guess.unsure.append("which values become black and white: in CT better a window, such as [-160, 240]")
    guess.recipe["subsets"] = {"train": settings}
    label_classes(guess, inventory, labelled)
    return guess


def label_classes(guess: Guess, inventory: Inventory, labels: list[str]) -> None:
    """The classes by the values of some label volumes, and their names by nnU-Net's dataset.json."""
    values: set[int] = set()
    for path in labels[:: max(1, len(labels) // LOOKED_AT)][:LOOKED_AT]:
        try:
            values |= {int(value) for value in np.unique(read_nifti(inventory.root / path, STORED).values)}
        except DataError as error:
            guess.unsure.append(f"a label cannot be read: {error}")
    names = {
        value: "background" if value == 0 else f"class_{value}" for value in range(max(values, default=1) + 1)
    }
    if values:
        guess.saw.append(f"values of labels: {', '.join(map(str, sorted(values)))}")
    listed: Any = None
    for path in inventory.files("dataset.json"):
        try:
            listed = json.loads(inventory.read(path)).get("labels")
            told = (
                {int(a): b for a, b in listed.items()}
                if "0" in listed
                else {int(b): a for a, b in listed.items()}
            )
        except (DataError, ValueError, AttributeError, TypeError):
            continue
        if sorted(told) == list(range(len(told))) and values <= set(told):
            guess.saw.append(f"{path} names the classes")
            guess.recipe["classes"] = [str(told[value]) for value in range(len(told))]
            return
    guess.unsure.append("nothing names the classes: give each value of the labels its name")
    guess.recipe["classes"] = [names[value] for value in sorted(names)]
