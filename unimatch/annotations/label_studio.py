"""Label Studio's export "JSON": a file for many images. A region lies on top of those before it.

Of several annotations of an image the one that is marked as ground truth counts; cancelled (skipped) ones do
not. Coordinates are percent of the image. Source: https://labelstud.io/guide/export.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.etree import ElementTree

import numpy as np

from unimatch.annotations import brush, geometry
from unimatch.annotations.drawing import NO_AREA, Drawing, Size, json_of, size_of
from unimatch.annotations.labels import Segments
from unimatch.errors import DataError, summary

LABELS = ("brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels", "labels")
NOBODY = "nobody has annotated it"
NO_REGIONS = "answers that are no regions"
CANCELLED = "cancelled annotations"
SURPLUS = "other annotations of the same image"
UPLOAD = re.compile(r"[0-9a-f]{4,8}-(?=.)")  # what an upload puts before a file's name
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")


def read(data: bytes, where: str, rules: Segments) -> list[Drawing]:
    """The tasks of a file. DataError: it is no such file."""
    content = json_of(data, where, "Label Studio")
    if not isinstance(content, list):
        raise DataError(f"{where}: is no export of Label Studio: expected a list of tasks; export as JSON")
    drawings = []
    for number, task in enumerate(content, 1):
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
            short = isinstance(task, dict) and "id" in task
            told = "export as JSON, not as JSON-MIN" if short else "a task is an object with `data`"
            raise DataError(f"{where}: entry {number} is no task of Label Studio: {told}")
        name = image_name(task["data"])
        if name is None:
            raise DataError(
                f"{where}: task {task.get('id', number)} has {sorted(task['data'])} in `data`, of which not "
                "exactly one is the address of an image"
            )
        drawings.append(read_task(task, Drawing(name), rules))
    return drawings


def image_name(data: dict[str, Any]) -> str | None:
    """The image's path of a task's data, without what servers put before it; None: not exactly one."""
    if isinstance(data.get("image"), str):
        return plain_path(data["image"])
    names = [plain_path(value) for value in data.values() if isinstance(value, str)]
    names = [name for name in names if name.lower().endswith(PICTURES)]
    return names[0] if len(names) == 1 else None


def plain_path(address: str) -> str:
    """The path in an address, such as /data/local-files/?d=a/b.jpg or s3://bucket/a.jpg?x."""
    if "local-files" in address and "d=" in address:
        return parse_qs(urlsplit(address).query)["d"][0]
    path = unquote(urlsplit(address).path) if "://" in address else address
    return path.rpartition("/")[2] if "data/upload/" in path else path  # the server's own folders


def upload_name(name: str) -> str:
    """The name that a file had before it was uploaded."""
    return UPLOAD.sub("", name, count=1) if "/" not in name else name


def read_task(task: dict[str, Any], drawing: Drawing, rules: Segments) -> Drawing:
    listed = task.get("annotations", task.get("completions")) or []
    kept = [one for one in listed if not one.get("was_cancelled")]
    if len(kept) < len(listed):
        drawing.left_out[CANCELLED] += len(listed) - len(kept)
    truths = [one for one in kept if one.get("ground_truth")]
    kept = truths if len(truths) == 1 else kept
    if not kept:
        nobody = "it has predictions alone, which nobody has submitted" if task.get("predictions") else NOBODY
        drawing.unlabeled = "all its annotations are cancelled" if listed else nobody
        return drawing
    if len(kept) > 1:
        if rules.several == "refuse":
            people = summary(map(person, kept), 4)
            drawing.faults.append(
                f"has {len(kept)} annotations (by {people}); mark one as ground truth, delete the others, or "
                "set `segments: several: latest`"
            )
            return drawing
        kept.sort(key=lambda one: str(one.get("updated_at") or one.get("created_at") or ""))
    surplus = sum(not one.get("was_cancelled") for one in listed) - 1
    if surplus:
        drawing.left_out[SURPLUS] += surplus
    read_result(kept[-1].get("result"), drawing)
    return drawing


def person(annotation: dict[str, Any]) -> str:
    """Who made an annotation: the number or the address, which the export may hold in an object."""
    told = annotation.get("completed_by", "unknown")
    return str(told.get("email") or told.get("id") if isinstance(told, dict) else told)


def read_result(result: Any, drawing: Drawing) -> None:
    """Add the regions of an annotation to the drawing."""
    if not isinstance(result, list):
        drawing.faults.append(f"its annotation has {result!r} as result")
        return
    labels: dict[Any, list[str]] = {}
    for entry in result:
        labels.setdefault(entry.get("id"), []).extend(labels_of(entry))
    done = set()
    for place, entry in enumerate(result, 1):
        number, value = entry.get("id", place), entry.get("value") or {}
        if not {"rle", "points", "width", "radiusX"} & value.keys():
            drawing.left_out[NO_AREA if "x" in value or "vertices" in value else NO_REGIONS] += 1
        elif number not in done:  # a region and its label may be two entries of one id
            done.add(number)
            names = labels_of(entry) or labels.get(number, [])
            drawing.add(number, partial(region, entry, value, names, drawing))


def labels_of(entry: dict[str, Any]) -> list[str]:
    value = entry.get("value") or {}
    return [name for key in LABELS for name in value.get(key) or []]


def region(
    entry: dict[str, Any], value: dict[str, Any], names: list[str], drawing: Drawing
) -> tuple[str, Any] | None:
    """The label and the shape of a region; None: a point."""
    if "keypointlabels" in value:
        drawing.left_out[NO_AREA] += 1
        return None
    if len(set(names)) != 1:
        raise DataError(f"has {'the labels ' + summary(names) if names else 'no label'}; a region has one")
    size = size_of(entry.get("original_height"), entry.get("original_width"), "original size")
    if size is None:
        raise DataError("has no original_width and original_height")
    if drawing.size not in (None, size):
        raise DataError(f"is of another original size than the regions before it: {size[1]}x{size[0]}")
    drawing.size = size
    if entry.get("image_rotation"):
        raise DataError(f"is drawn on an image turned by {entry['image_rotation']} degrees; turn it back")
    return names[0], shape(value, size)


def shape(value: dict[str, Any], size: Size) -> Any:
    height, width = size
    if "rle" in value:
        return geometry.runs(brush.decode(value["rle"], height, width))
    if "points" in value:
        return geometry.polygon([(x / 100 * width, y / 100 * height) for x, y in value["points"]])
    kind = ("x", "y", "radiusX", "radiusY") if "radiusX" in value else ("x", "y", "width", "height")
    x, y, a, b = geometry.numbers([value[name] for name in kind])
    x, a, y, b = x / 100 * width, a / 100 * width, y / 100 * height, b / 100 * height
    (degrees,) = geometry.numbers([value.get("rotation") or 0])
    if "radiusX" in value:
        return geometry.ellipse(x, y, a, b, degrees)
    # A rectangle is turned about its upper left corner.
    return [geometry.turned([(x, y), (x + a, y), (x + a, y + b), (x, y + b)], (x, y), degrees)]


def write(drawings: Sequence[Drawing], prefix: str, by: str) -> bytes:
    """Tasks with predictions, which people make annotations of: polygons, and brushes of run-length codes.

    prefix: of the images' addresses; a path behind `?d=` is quoted. by: what made them, for model_version.
    """
    tasks = []
    for drawing in drawings:
        assert drawing.image is not None and drawing.size is not None
        address = prefix + (quote(drawing.image) if "?" in prefix or "://" in prefix else drawing.image)
        predictions = [{"model_version": by, "result": written(drawing)}]
        tasks.append({"data": {"image": address}, "predictions": predictions})
    return json.dumps(tasks).encode() + b"\n"


def written(drawing: Drawing) -> list[dict[str, Any]]:
    """The regions of a drawing."""
    assert drawing.size is not None
    height, width = drawing.size
    result: list[dict[str, Any]] = []
    common = {"to_name": "image", "original_width": width, "original_height": height, "image_rotation": 0}
    for piece in drawing.pieces:
        values: list[tuple[str, str, dict[str, Any]]] = []
        if isinstance(piece.shape, list):
            for outline in piece.shape:
                points = [[100 * x / width, 100 * y / height] for x, y in geometry.pairs(outline)]
                values.append(("polygon", "polygonlabels", {"points": points, "closed": True}))
        else:
            part, x, y = geometry.cut_out(piece.shape, drawing.size)
            whole = np.zeros(drawing.size, bool)
            whole[y : y + part.shape[0], x : x + part.shape[1]] = part
            values.append(("brush", "brushlabels", {"format": "rle", "rle": brush.encode(whole)}))
        for name, kind, value in values:
            told = {"id": f"r{len(result) + 1}", "from_name": name, "type": kind, **common}
            result.append({**told, "value": {**value, kind: [piece.label]}})
    return result


def label_config(labels: Mapping[str, tuple[int, int, int]]) -> bytes:
    """The labelling interface of a project that takes these tasks."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    for tag, name in (("PolygonLabels", "polygon"), ("BrushLabels", "brush")):
        group = ElementTree.SubElement(view, tag, name=name, toName="image")
        for label, color in labels.items():
            ElementTree.SubElement(
                group, "Label", value=label, background="#{:02x}{:02x}{:02x}".format(*color)
            )
    ElementTree.indent(view)
    return bytes(ElementTree.tostring(view, "utf-8")) + b"\n"
