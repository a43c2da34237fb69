"""Recognises annotation files of one image each: LabelMe, Supervisely, YOLO, and CVAT's masks."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath
from typing import Any

from unimatch.annotations import labelme, supervisely, yolo
from unimatch.annotations.drawing import Drawing
from unimatch.errors import DataError
from unimatch.inspection.inventory import (
    Guess,
    Inventory,
    choice,
    class_settings,
    counted,
    join,
    kinship,
    named_subsets,
    stem,
)
from unimatch.packing.classes import parse_classes

SIZE = (1 << 15, 1 << 15)  # where only the labels of shapes are asked for


def labels_of(guess: Guess, drawings: list[Drawing]) -> Counter[str]:
    """The labels of all shapes; faults and things without an area are told."""
    left_out = Counter[str]()
    for drawing in drawings:
        left_out += drawing.left_out
    faults = [fault for drawing in drawings for fault in drawing.faults]
    guess.saw += [f"{count} {what}, which are left out" for what, count in left_out.items()]
    if faults:
        guess.unsure.append(f"{len(faults)} shapes cannot be drawn, such as {faults[0]}")
    empty = sum(not drawing.pieces for drawing in drawings)
    if empty:
        guess.unsure.append(
            f"{empty} annotations have no shape: are these images all background, or not done?"
        )
    return Counter(piece.label for drawing in drawings for piece in drawing.pieces)


def finish(guess: Guess, labels: Counter[str], subsets: dict[str, Any]) -> Guess:
    without = [name for name, count in labels.items() if not count]
    if without:
        guess.saw.append(f"labels without a shape, which are no classes here: {', '.join(without)}")
    labels = +labels
    guess.saw.append(f"shapes of each label: {counted(labels)}")
    guess.saw.append("pixels of no shape are taken as the background")
    if not labels:
        guess.unsure.append("no shape has a label, so there are no classes; write them here")
    guess.recipe = {**guess.recipe, **class_settings(labels), "subsets": subsets}
    return guess


def with_labels(
    guess: Guess, inventory: Inventory, folder: str, labelled: set[str], template: str, by_file: bool = False
) -> dict[str, Any]:
    """The settings of a folder of pictures of which those in `labelled` (stems or files) have a label."""
    names = inventory.pictures(folder)
    missing = [name for name in names if (name if by_file else stem(name)) not in labelled]
    guess.saw.append(
        f"{len(names)} pictures in {folder or 'the folder'}, "
        f"{inventory.sizes([join(folder, name) for name in names])}"
    )
    settings: dict[str, Any] = {"images": join(folder, choice(names)), "labels": template}
    if missing:
        settings["skip_unlabeled"] = True
        guess.unsure.append(
            f"{len(missing)} of {len(names)} pictures in {folder or 'the folder'} have no label, such as "
            f"{missing[0]}, and are left out (skip_unlabeled)"
        )
    return settings


def guess_labelme(inventory: Inventory) -> Guess | None:
    guess = Guess("LabelMe JSON", {"label_kind": "labelme"})
    entries, count = [], 0
    drawings: list[Drawing] = []
    for folder in list(inventory.folders):
        found = {}
        for name in inventory.named(folder, ".json"):
            try:
                found[stem(name)] = labelme.read(inventory.read(join(folder, name)), name, SIZE)
            except DataError:
                continue
        if not found:
            continue
        drawings += found.values()
        count += len(found)
        beside = [folder, *(other for other in inventory.folders if other != folder)]
        shared = {one: sum(stem(n) in found for n in inventory.pictures(one)) for one in beside}
        where = max(beside, key=lambda one: (shared[one], kinship(one, folder)))
        if shared[where]:
            settings = with_labels(guess, inventory, where, set(found), join(folder, "{stem}.json"))
        else:
            guess.saw.append(
                f"no picture has the name of a file in {folder or 'the folder'}: those inside are taken"
            )
            first = f"{next(iter(found))}.json"
            content = labelme.parsed(inventory.read(join(folder, first)), first)
            if not content.get("imageData"):
                guess.unsure.append(
                    f"no image is inside: {first} names {content.get('imagePath')!r}. Put images and files "
                    "into one folder, or below one, and look at that"
                )
            settings = {"images": join(folder, "*.json"), "labels": join(folder, "{stem}.json")}
        entries.append((where, settings))
    if not entries:
        return None
    guess.saw.insert(0, f"{count} files of LabelMe")
    return finish(guess, labels_of(guess, drawings), named_subsets(entries))


def guess_supervisely(inventory: Inventory) -> Guess | None:
    guess = Guess("Supervisely", {"label_kind": "supervisely"})
    entries = []
    drawings: list[Drawing] = []
    for folder in list(inventory.folders):
        if PurePosixPath(folder).name != "ann":
            continue
        images = join(PurePosixPath(folder).parent.as_posix(), "img").removeprefix("./")
        found = {}
        for name in inventory.named(folder, ".json"):
            try:
                found[name.removesuffix(".json")] = supervisely.read(
                    inventory.read(join(folder, name)), name, SIZE
                )
            except DataError:
                continue
        if found and inventory.pictures(images):
            drawings += found.values()
            template = join(folder, "{file}.json")
            entries.append(
                (images, with_labels(guess, inventory, images, set(found), template, by_file=True))
            )
    if not entries:
        return None
    labels = labels_of(guess, drawings)
    for path in inventory.files("meta.json"):
        try:
            known = supervisely.class_names(inventory.read(path), path)
            guess.saw.append(f"{path} lists {len(known)} classes")
        except DataError:
            continue
        labels.update(dict.fromkeys(known, 0))
    return finish(guess, labels, named_subsets(entries))


def guess_yolo(inventory: Inventory) -> Guess | None:
    for path in inventory.files(".yaml", ".yml"):
        try:
            names = yolo.class_names(inventory.read(path), path)
        except DataError:
            continue
        guess = Guess("YOLO outlines", {"label_kind": "yolo"}, [f"{path} names {len(names)} classes"])
        entries = []
        drawings: list[Drawing] = []
        for folder in list(inventory.folders):
            parts = ["labels" if part == "images" else part for part in folder.split("/")]
            labels = "/".join(parts)
            texts = inventory.named(labels, ".txt")
            if not inventory.pictures(folder) or not texts:
                continue
            drawings += [yolo.read(inventory.read(join(labels, n)), n, SIZE, names) for n in texts]
            template = join(labels, "{stem}.txt")
            settings = with_labels(guess, inventory, folder, set(map(stem, texts)), template)
            entries.append((folder, {**settings, "annotations": path}))
        if entries:
            found = labels_of(guess, drawings)
            found.update(dict.fromkeys(names, 0))
            boxes = sum("is a box" in fault for drawing in drawings for fault in drawing.faults)
            if boxes and not found.total():
                guess.unsure.append(
                    "the files hold boxes, which say nothing about pixels: packing refuses them"
                )
            return finish(guess, found, named_subsets(entries))
    return None


def guess_labelmap(inventory: Inventory) -> Guess | None:
    for path in inventory.files("labelmap.txt"):
        try:
            classes = parse_classes(inventory.root / path)
        except DataError:
            continue
        base = PurePosixPath(path).parent.as_posix().removeprefix(".")
        masks = join(base, "SegmentationClass")
        drawn = set(map(stem, inventory.named(masks, ".png")))
        folders = [folder for folder in inventory.folders if folder != masks and "Segmentation" not in folder]
        shared = {one: sum(stem(n) in drawn for n in inventory.pictures(one)) for one in folders}
        images = max(folders, key=lambda one: shared[one], default="")
        if not drawn or not shared.get(images):
            continue
        guess = Guess("CVAT segmentation mask", {"label_kind": "colors", "classes_file": path})
        guess.saw.append(f"{path}: " + ", ".join(f"{name} {list(color or ())}" for _, name, color in classes))
        guess.saw.append(f"{len(drawn)} masks in {masks}")
        settings = with_labels(guess, inventory, images, drawn, join(masks, "{stem}.png"))
        guess.recipe["subsets"] = named_subsets([(images, settings)])
        return guess
    return None
