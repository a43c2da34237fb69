"""Recognises folders of images with masks, and of one mask a class."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from unimatch.codecs.opening import lost_depth, open_picture
from unimatch.errors import DataError
from unimatch.inspection.guess_names import listed_classes, named_colors, named_ids, own_colors
from unimatch.inspection.guess_tools import with_labels
from unimatch.inspection.inventory import (
    Guess,
    Inventory,
    choice,
    class_settings,
    join,
    kinship,
    named_subsets,
    stem,
)

WORDS = re.compile(
    r"(^|[^a-z])(masks?|labels?|gt|gtfine|ann|annots?|annotations?|seg|segs|segmentationclass\w*|segmentations?|"
    r"ground_?truths?|labelids|targets?)([^a-z]|$)"
)
LOOKED_AT = 40  # masks whose values are read
FEW = 64  # values or colours: with more a picture is no mask
VOID = 255


def is_mask_folder(folder: str) -> bool:
    return any(WORDS.search(part.lower()) for part in folder.split("/"))


def guess_masks(inventory: Inventory) -> Guess | None:
    """Pictures with a mask each, in another folder or beside them."""
    guess = Guess("images with masks", {})
    entries, masks = [], []
    for folder in list(inventory.folders):
        pictures = inventory.pictures(folder)
        if not pictures or is_mask_folder(folder):
            continue
        found = best_template(inventory, folder, pictures)
        if found is None:
            continue
        template, labelled, paths, alike = found
        if alike:
            guess.unsure.append(
                f"masks of the same images lie in {', '.join(alike)} too; those by {template} are taken"
            )
        plain = [name for name in pictures if join(folder, name) not in paths]
        inventory.folders[folder] = plain  # masks beside images are no images
        settings = with_labels(guess, inventory, folder, labelled, template)
        guess.saw.append(f"{len(paths)} masks by {template}")
        if len(plain) < len(pictures):
            settings["images"] = join(folder, choice(plain))
            if any(
                name.endswith(PurePosixPath(settings["images"]).suffix) for name in set(pictures) - set(plain)
            ):
                guess.unsure.append(
                    "masks lie among the images with the same extension: the glob takes them too"
                )
        masks += sorted(paths)
        entries.append((folder, settings))
    if not entries:
        return None
    read_values(guess, inventory, masks)
    guess.recipe["subsets"] = named_subsets(entries)
    return guess


def best_template(
    inventory: Inventory, folder: str, pictures: list[str]
) -> tuple[str, set[str], set[str], list[str]] | None:
    """(the template of masks that most pictures have, the stems of these, the masks' paths, other folders
    that fit as well)."""
    stems = {stem(name): name for name in pictures}
    best: tuple[str, set[str], set[str]] | None = None
    fitting: dict[str, tuple[int, int]] = {}  # of each folder: how many pictures have a mask there, how near
    for other in sorted(inventory.folders, key=lambda one: -kinship(folder, one)):
        if other != folder and not is_mask_folder(other):
            continue
        names = [name for name in inventory.pictures(other) if not name.lower().endswith((".jpg", ".jpeg"))]
        ends = Counter[tuple[str, str]]()
        for name in names[: 4 * LOOKED_AT]:
            for end in range(1, len(name)):
                if name[:end] in stems:
                    ends["{stem}", name[end:]] += 1
            if stem(name).removeprefix("mask_") in stems and name.startswith("mask_"):
                ends["mask_{stem}", PurePosixPath(name).suffix] += 1
        for (head, tail), _ in ends.most_common(3):
            made = {one: head.replace("{stem}", one) + tail for one in stems}
            hits = {one for one, name in made.items() if name in set(names) and name != stems[one]}
            near = (len(hits), kinship(folder, other))
            fitting[other] = max(fitting.get(other, (0, 0)), near)
            if hits and (best is None or len(hits) > len(best[1])):
                best = (join(other, head + tail), hits, {join(other, made[one]) for one in hits})
    if best is None:
        return None
    own = PurePosixPath(best[0]).parent.as_posix()
    alike = [other for other, near in fitting.items() if other != own and near == fitting.get(own)]
    return *best, alike


def read_values(guess: Guess, inventory: Inventory, masks: list[str]) -> None:
    """The label kind and the classes by the values of some masks."""
    greys, colors, palette, modes = Counter[int](), Counter[tuple[int, ...]](), {}, Counter[str]()
    for path in masks[:: max(1, len(masks) // LOOKED_AT)][:LOOKED_AT]:
        try:
            data = inventory.read(path)
            with open_picture(data, path) as opened:
                modes[opened.mode] += 1
                if depth := lost_depth(opened, data):
                    raise DataError(
                        f"{path} has {depth} bits a channel; save ids as grey, colours as RGB of 8"
                    )
                if opened.mode in ("RGB", "RGBA"):
                    rgb = np.asarray(opened.convert("RGB")).reshape(-1, 3)
                    values, counts = np.unique(rgb, axis=0, return_counts=True)
                    colors.update({tuple(map(int, v)): int(n) for v, n in zip(values, counts, strict=True)})
                    continue
                values, counts = np.unique(np.asarray(opened), return_counts=True)
                greys.update({int(v): int(n) for v, n in zip(values, counts, strict=True)})
                if opened.mode == "P":
                    flat = opened.getpalette("RGB") or []
                    palette.update({int(v): tuple(flat[3 * int(v) : 3 * int(v) + 3]) for v in values})
        except (DataError, OSError, ValueError) as error:
            guess.unsure.append(f"a mask cannot be read: {error}")
    guess.saw.append(f"masks have {', '.join(modes)} pixels")
    if colors and all(len(set(color)) == 1 for color in colors):  # grey saved as RGB
        greys.update({color[0]: count for color, count in colors.items()})
        colors.clear()
    if colors and greys:
        guess.unsure.append("some masks hold ids and others colours; packing refuses one of them")
    entries = listed_classes(inventory, guess)
    if colors:
        by_color(guess, colors, named_colors(entries, colors))
    else:
        by_id(guess, greys, palette, named_ids(entries, greys, palette))
    if entries and any("nothing names" in text for text in guess.unsure):
        guess.unsure.append("that file has no name for some of them, so it was not used")


def by_color(guess: Guess, colors: Counter[tuple[int, ...]], named: dict[str, Any]) -> None:
    shown = sorted(colors)[:FEW]
    guess.saw.append(
        "colours: " + ", ".join(f"{list(color)} ({colors[color]} pixels)" for color in shown[:20])
    )
    if len(colors) > FEW:
        guess.unsure.append(f"{len(colors)} colours are too many for classes: soft edges, or no masks at all")
    if named:
        guess.recipe |= {"label_kind": "colors", **named}
        return
    names = ["background" if color == (0, 0, 0) else "color_" + bytes(color).hex() for color in shown]
    guess.unsure.append("nothing names the classes: give each colour its name")
    guess.recipe |= {"label_kind": "colors", "classes": names, "colors": [list(color) for color in shown]}


def by_id(guess: Guess, greys: Counter[int], palette: dict[int, Any], named: dict[str, Any]) -> None:
    values = sorted(greys)
    guess.saw.append("values: " + ", ".join(f"{value} ({greys[value]} pixels)" for value in values[:20]))
    if palette:
        shown = ", ".join(f"{value} {list(palette[value])}" for value in sorted(palette)[:20])
        voc = all(palette[value] == voc_color(value) for value in palette)
        guess.saw.append(f"palette: {shown}{' (that of PASCAL VOC)' if voc else ''}")
    if len(values) > FEW:
        guess.unsure.append(f"{len(values)} values are too many for classes: soft edges, or no masks at all")
    if VOID in values and values != [0, VOID]:
        guess.unsure.append("255 is taken as 'not labelled'")
    if named:
        guess.recipe |= named
        return
    classes = [value for value in values if value != VOID or values == [0, VOID]][:FEW]
    if values in ([0, VOID], [VOID], [0, 1], [0]):
        names = ["background", "object"]
        guess.recipe |= {"classes": names}
        if VOID in values:
            guess.recipe["id_map"] = {0: 0, VOID: 1}
            guess.unsure.append(
                "0 and 255: is 255 a class, as written here, or 'not labelled' (ignore_id: 255)?"
            )
        guess.unsure.append("nothing names the classes")
        return
    top = max(classes, default=0)
    names = ["background" if value == 0 else f"class_{value}" for value in range(top + 1)]
    if top < FEW:
        guess.recipe |= {"classes": names, **own_colors(range(top + 1), palette)}
    else:
        guess.recipe["classes"] = ["background" if value == 0 else f"class_{value}" for value in classes]
        guess.recipe["id_map"] = {value: place for place, value in enumerate(classes)}
    if VOID in values:
        guess.recipe |= (
            {"id_map": {**guess.recipe["id_map"], VOID: 255}}
            if "id_map" in guess.recipe
            else {"ignore_id": VOID}
        )
    absent = sorted(set(range(top + 1)) - set(classes)) if top < FEW else []
    if absent:
        guess.unsure.append(f"the values {absent} occur in none of the masks that were looked at")
    guess.unsure.append("nothing names the classes: give each value its name")


def voc_color(value: int) -> tuple[int, int, int]:
    """PASCAL VOC's colour of a class id: its bits, dealt to the channels from the highest down."""
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (value >> (3 * bit + channel) & 1) << (7 - bit)
    return channels[0], channels[1], channels[2]


def guess_class_masks(inventory: Inventory) -> Guess | None:
    """Several masks an image: masks/a_road.png, or masks/road/a.png."""
    for folder in list(inventory.folders):
        stems = set(map(stem, inventory.pictures(folder)))
        if not stems or is_mask_folder(folder):
            continue
        beside, inside = Counter[str](), Counter[str]()
        for other in inventory.folders:
            for name in inventory.pictures(other) if is_mask_folder(other) else []:
                mine = stem(name)
                head = next((mine[:end] for end in range(len(mine) - 1, 0, -1) if mine[:end] in stems), None)
                if mine in stems and is_mask_folder(PurePosixPath(other).parent.as_posix()):
                    inside[other] += 1
                elif head is not None and mine[len(head)] in "_-." and other != folder:
                    beside[f"{other}|{mine[len(head) + 1 :]}{mine[len(head)]}"] += 1
        guess = Guess("one mask a class", {"label_kind": "class_masks"})
        if len(inside) > 1 and len({PurePosixPath(one).parent for one in inside}) == 1:
            counts = Counter({PurePosixPath(one).name: count for one, count in inside.items()})
            sample = inventory.pictures(next(iter(inside)))[0]
            template = PurePosixPath(next(iter(inside))).parent.as_posix() + "/{class}/{stem}"
        elif len(beside) > 1 and len({one.split("|")[0] + one[-1] for one in beside}) == 1:
            counts = Counter({one.split("|")[1][:-1]: count for one, count in beside.items()})
            other, gap = next(iter(beside)).split("|")[0], next(iter(beside))[-1]
            sample, template = inventory.pictures(other)[0], f"{other}/{{stem}}{gap}{{class}}"
        else:
            continue
        guess.saw.append("masks of each class: " + ", ".join(f"{n} {c}" for n, c in counts.most_common()))
        guess.unsure.append("pixels in no mask are taken as background; where masks overlap packing stops")
        settings = {
            "images": join(folder, choice(inventory.pictures(folder))),
            "labels": template + PurePosixPath(sample).suffix,
        }
        guess.recipe |= {**class_settings(counts), "subsets": named_subsets([(folder, settings)])}
        return guess
    return None
