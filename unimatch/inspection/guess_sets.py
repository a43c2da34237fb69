"""Recognises annotation files for many pictures: CVAT's XML, Label Studio's and COCO's JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from unimatch.annotations import cvat, label_studio
from unimatch.annotations.drawing import Drawing
from unimatch.annotations.labels import Segments
from unimatch.annotations.names import NameIndex
from unimatch.errors import DataError
from unimatch.inspection.guess_tools import finish, labels_of
from unimatch.inspection.inventory import Guess, Inventory, choice, join, named_subsets, subset_name


def guess_cvat(inventory: Inventory) -> Guess | None:
    for path in inventory.files(".xml"):
        try:
            data = inventory.read(path)
            drawings = cvat.read(data, path, Segments())
            known = cvat.label_names(data)
        except (DataError, ElementTree.ParseError):
            continue
        guess = Guess(
            "CVAT for images", {"label_kind": "cvat"}, [f"{path}: {len(drawings)} pictures of CVAT"]
        )
        return of_set(
            guess,
            inventory,
            path,
            drawings,
            [d.image or "" for d in drawings],
            Counter(dict.fromkeys(known, 0)),
        )
    return None


def guess_label_studio(inventory: Inventory) -> Guess | None:
    for path in inventory.files(".json"):
        try:
            drawings = label_studio.read(inventory.read(path), path, Segments())
        except (DataError, KeyError, TypeError, AttributeError, ValueError):
            continue
        if not drawings:
            continue
        guess = Guess("Label Studio", {"label_kind": "label_studio"}, [f"{path}: {len(drawings)} tasks"])
        names = [drawing.image or "" for drawing in drawings]
        aliases = [label_studio.upload_name(name) for name in names]
        return of_set(guess, inventory, path, drawings, names, Counter(), aliases)
    return None


def guess_coco(inventory: Inventory) -> Guess | None:
    guess = Guess("COCO instances", {"label_kind": "instances"})
    entries, labels = [], Counter[str]()
    for path in inventory.files(".json"):
        content = coco_content(inventory, path)
        if content is None:
            continue
        names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        counts = Counter(names.get(entry.get("category_id"), "?") for entry in content["annotations"])
        labels += counts
        labels.update(dict.fromkeys(names.values(), 0))
        files = [str(entry.get("file_name")) for entry in content["images"]]
        guess.saw.append(f"{path}: {len(files)} pictures, {len(content['annotations'])} annotations")
        flat = sum(not entry.get("segmentation") for entry in content["annotations"])
        if flat:
            guess.unsure.append(f"{path}: {flat} annotations are boxes without a mask: packing refuses them")
        for folder, settings in picture_folders(guess, inventory, path, files):
            told = subset_name(folder)
            entries.append((folder if told != "train" else f"{folder}/{subset_name(path)}", settings))
    if not entries:
        return None
    return finish(guess, labels, named_subsets(entries))


def coco_content(inventory: Inventory, path: str) -> dict[str, Any] | None:
    try:
        content = json.loads(inventory.read(path))
    except (DataError, ValueError, RecursionError):
        return None
    keys = ("images", "annotations", "categories")
    is_coco = isinstance(content, dict) and all(isinstance(content.get(key), list) for key in keys)
    return content if is_coco and not any("segments_info" in e for e in content["annotations"][:1]) else None


def of_set(
    guess: Guess,
    inventory: Inventory,
    path: str,
    drawings: list[Drawing],
    names: list[str],
    known: Counter[str],
    aliases: list[str] | None = None,
) -> Guess:
    """The guess of a file for many pictures."""
    todo = [drawing for drawing in drawings if drawing.unlabeled]
    if todo:
        guess.unsure.append(f"{len(todo)} pictures are not annotated ({todo[0].unlabeled}) and are left out")
    entries = list(picture_folders(guess, inventory, path, names, aliases))
    if todo:
        for _, settings in entries:
            settings["skip_unlabeled"] = True
    if not entries:
        guess.unsure.append("none of its pictures lies in this folder; put them in, and write where: images")
        entries = [("", {"images": "images/*.jpg", "annotations": path})]
    labels = labels_of(guess, [drawing for drawing in drawings if not drawing.unlabeled])
    labels.update(known)
    return finish(guess, labels, named_subsets(entries))


def picture_folders(
    guess: Guess, inventory: Inventory, path: str, names: list[str], aliases: list[str] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The folders with pictures of an annotation file, as settings."""
    index, others = NameIndex(names), NameIndex(aliases or [])
    for folder in list(inventory.folders):
        pictures = inventory.pictures(folder)
        found = [n for n in pictures if index.find(join(folder, n)) or others.find(join(folder, n))]
        if not found:
            continue
        settings: dict[str, Any] = {"images": join(folder, choice(found)), "annotations": path}
        sizes = inventory.sizes([join(folder, name) for name in found])
        guess.saw.append(f"{len(found)} pictures of {path} in {folder or 'the folder'}, {sizes}")
        if len(found) < len(pictures):
            settings["skip_unlabeled"] = True
            guess.unsure.append(
                f"{len(pictures) - len(found)} of {len(pictures)} pictures in {folder or 'the folder'} are "
                f"not in {path} and are left out (skip_unlabeled)"
            )
        yield folder, settings
