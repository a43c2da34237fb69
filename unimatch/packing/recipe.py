"""Recipes: what a data set on disk looks like, as settings; `shards/recipes` holds them as YAML files."""

from __future__ import annotations

import re
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import PurePosixPath
from typing import Any, Literal

from unimatch.annotations.labels import OTHERS, Segments
from unimatch.codecs.encode import LabelFormat, PngStorage
from unimatch.codecs.nifti import check_axcodes
from unimatch.codecs.scans import ScanRules
from unimatch.codecs.volumes import h5_member
from unimatch.errors import ConfigError
from unimatch.packing.band_settings import ALL_OF, Scaling, Tiles, check_bands

PLACEHOLDER = re.compile(r"\{[^}]*\}")
PLACEHOLDERS = ("{stem}", "{file}", "{dir}", "{parent}", "{name}")

Color = tuple[int, int, int]
CLASS = "{class}"  # in `labels` of the kind class_masks
LabelKind = Literal[
    "ids",
    "colors",
    "class_masks",
    "panoptic",
    "instances",
    "labelme",
    "supervisely",
    "yolo",
    "cvat",
    "label_studio",
]
DrawnOn = Literal["upright", "stored"]
IN_ONE_FILE = ("instances", "cvat", "label_studio")  # label kinds without a label file an image
# Settings that the index keeps only where they are used.
CAME_LATER = (
    "scans",
    "names",
    "several",
    "overlap",
    "labels_drawn_on",
    "label_tolerance",
    "palettes_may_differ",
    "shared_labels",
    "drop_extra",
    "skip_bad",
    "axcodes",
    "bands",
    *ALL_OF,
)


@dataclass
class SubsetSource:
    """Where the images and labels of one subset lie, relative to the source folder.

    In `labels` and `second`, {stem} is the image's file name without extension, {file} with it, {dir} its
    folder below the fixed part of the glob, {parent} the folder around that, and {name} what the last `*` of
    the glob's file name stood for; in `labels` of one mask a class {class} is the class. {png,tif} lists
    alternatives, of which one exists. A path such as `a/*.h5#image` means the data set `image` inside HDF5
    files.
    """

    # A glob, such as "images/train/*.jpg"; "**" goes into subfolders, {jpg,png} lists alternatives.
    images: str
    labels: str | None = None  # the label file of an image; None: the images carry no masks
    second: str | None = None  # the image of the second date, for change detection
    # Text files that choose among the images, a line each: an id, an image path, or "image mask", whose mask
    # is not read from the list but found by `labels`. Empty: all images.
    lists: tuple[str, ...] = ()
    all_but: tuple[str, ...] = ()  # without the images of these subsets
    # The file for many images: COCO's JSON, CVAT's XML, Label Studio's JSON; for yolo data.yaml, which names
    # the classes (without it they are numbered as in `classes`).
    annotations: str | None = None
    skip_unlabeled: bool = False  # an image without a label is left out; otherwise it is an error
    optional: bool = False  # a subset without any files is left out; otherwise it is an error

    def __post_init__(self) -> None:
        paths = [("images", self.images), ("labels", self.labels), ("second", self.second)]
        paths += [("annotations", self.annotations), *(("lists", path) for path in self.lists)]
        for name, text in paths:
            if text is not None and (not text or leaves_source(text)):
                raise ConfigError(f"{name} must be a path inside the source folder, found {text!r}")
        if any("**" in part and part != "**" for part in PurePosixPath(self.images).parts):
            raise ConfigError(f"images: '**' must stand alone between slashes, found {self.images!r}")
        templates = [("labels", self.labels), ("second", self.second)]
        for name, text in [(name, text) for name, text in templates if text is not None]:
            found = PLACEHOLDER.findall(text)
            unknown = [mark for mark in found if mark not in (*PLACEHOLDERS, CLASS) and "," not in mark]
            if unknown:
                raise ConfigError(f"{name} knows {', '.join(PLACEHOLDERS)} and {CLASS}, found {unknown[0]}")
            if not {"{stem}", "{name}", "{file}"} & set(found):
                raise ConfigError(f"{name} needs {{stem}} or {{name}}, else all images share {text!r}")
            if "{name}" in found and "*" not in PurePosixPath(h5_member(self.images)[0]).name:
                raise ConfigError(f"{name}: {{name}} needs a '*' in the file name of images {self.images!r}")
        if self.second is not None and (h5_member(self.images)[1] or h5_member(self.second)[1]):
            raise ConfigError("second is for image files, not for HDF5 files")
        if self.skip_unlabeled and self.labels is None and self.annotations is None:
            raise ConfigError("skip_unlabeled needs `labels` or `annotations`: else no image has a label")


@dataclass
class Recipe:
    """How a data set becomes a shard set. Exactly one of `classes` and `classes_file` names the classes."""

    subsets: dict[str, SubsetSource]  # one shard series each: train, val, ...
    classes: tuple[str, ...] = ()  # class names; the id of a class is its place
    # A text file in the source folder with lines "id name" or "id name R G B", or CVAT's labelmap.txt. The
    # classes are its lines in order without the one of `ignore_id`; the ids are those of the label files.
    classes_file: str | None = None
    colors: tuple[tuple[int, int, int], ...] = ()  # RGB of each class, for pictures and for label_kind colors
    # What label files hold: ids (grey or palette), RGB colours of the classes, one mask a class, COCO's
    # panoptic segments, or the shapes of an annotation tool (labelme, supervisely, yolo); for instances, cvat
    # and label_studio there are none, `annotations` draws them.
    label_kind: LabelKind = "ids"
    first_id: int = 0  # the id of the first class in label files, where they count from another number
    ignore_id: int | None = None  # the id in label files that means "not labelled"
    # The same for colours; the line of `ignore_id` in the classes file says it too.
    ignore_color: tuple[int, int, int] | None = None
    # id in label files -> class id, or 255 = ignore; empty: as they are.
    id_map: dict[int, int] = field(default_factory=dict)
    segments: Segments | None = None  # of all label kinds but ids and colors
    downscale: int = 1  # divides width and height: area average for images, nearest for labels
    # How labels are stored: zst decodes several times faster, png is what any program opens.
    label_format: LabelFormat = "zst"
    # PNG images: kept as they are, or stored as lossless WebP (smaller) or as JPEG (much smaller, not exact).
    png: PngStorage = "keep"
    # Images are stored, without a change to any pixel, so that a part can be decoded without the rest: JPEG
    # with restart markers, PNG as TIFF of compressed tiles (larger files, several times faster).
    fast_decode: bool = False
    shard_mb: int = 256  # largest size of a shard in MiB
    seed: int = 0  # of the order in which samples are packed
    # Photos with an EXIF rotation are turned upright. Where the size of a mask does not tell which pixels it
    # was drawn on (squares, half turns), this does: `stored` masks are turned with their image.
    labels_drawn_on: DrawnOn = "upright"
    # A value in a mask that is no known id (or colour) is taken as the nearest one if it differs by at most
    # this (colours: in each channel); others become "not labelled". Both are counted. 0: an error.
    label_tolerance: int = 0
    # Masks of `label_kind: ids` whose palettes give one colour several indices are packed: the ids are right.
    palettes_may_differ: bool = False
    # Images are NIfTI volumes or DICOM series, and labels NIfTI files of ids: their slices become samples.
    scans: ScanRules | None = None
    shared_labels: bool = False  # several images may have the same label file, or the same second image
    drop_extra: bool = False  # bands behind the first three, and pages behind the first, are left out
    # How the slices of HDF5 volumes lie, see codecs.nifti: predict turns NIfTI files alike. None: not known.
    axcodes: str | None = None
    skip_bad: int = 0  # at most so many images that have something wrong are left out; more are an error
    # Images are rasters (GeoTIFF and others that GDAL reads): these of their bands, from 1, are the channels.
    bands: tuple[int, ...] = ()
    scaling: Scaling | None = None  # of their numbers; none: they are stored as they are
    depth: Literal[8, 16] = 8  # bits a channel that are stored; 16 take about three times the room
    show: tuple[int, ...] = ()  # three of `bands` that pictures show as red, green and blue; empty: the first
    nodata: float | None = None  # a number that means that nothing was measured, beside what the files say
    tiles: Tiles | None = None  # scenes are cut into these; none: an image is one sample

    def __post_init__(self) -> None:
        self._check_subsets()
        self._check_classes()
        check_bands(self)
        self._check_scans()
        if self.fast_decode and self.png == "webp":
            raise ConfigError("fast_decode stores PNG as TIFF; leave png at keep, or take jpeg")
        lowest = {"downscale": 1, "shard_mb": 1, "first_id": 0, "label_tolerance": 0, "skip_bad": 0}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise ConfigError(f"{name} must be at least {low}, found {getattr(self, name)}")

    def settings(self) -> dict[str, Any]:
        """All settings as the index keeps them. Those that came later stand there only where they are used,
        so that a data set which does not need them has the index that it always had.
        """
        found = _without_new_defaults(self, asdict(self))
        if self.segments is not None:
            found["segments"] = _without_new_defaults(self.segments, found["segments"])
        return found

    @property
    def drawn(self) -> bool:
        """Whether labels are made of segments, shapes or masks of one class each."""
        return self.label_kind not in ("ids", "colors")

    def label_templates(self, where: SubsetSource) -> list[str]:
        """The templates of the label files of an image: one, or one a label; none: it has no such file."""
        if where.labels is None:
            return []
        if self.label_kind != "class_masks":
            return [where.labels]
        assert self.segments is not None
        return [where.labels.replace(CLASS, label) for label in self.segments.targets(self.classes)]

    def _check_subsets(self) -> None:
        if not self.subsets:
            raise ConfigError("subsets must name at least one subset")
        for name, where in self.subsets.items():
            if not re.fullmatch(r"[A-Za-z0-9_]+", name):
                raise ConfigError(f"subsets: a name may hold letters, digits and '_', found {name!r}")
            absent = sorted(set(where.all_but) - set(self.subsets))
            if absent:
                raise ConfigError(f"subsets: {name}: all_but names {absent[0]!r}, which is no subset")
            if where.annotations is not None and self.label_kind not in ("panoptic", "yolo", *IN_ONE_FILE):
                kinds = ", ".join(("panoptic", *IN_ONE_FILE))
                raise ConfigError(
                    f"subsets: {name}: annotations are for label_kind {kinds} or yolo, "
                    f"here it is {self.label_kind}"
                )
            if self.label_kind == "panoptic" and (where.annotations is None) != (where.labels is None):
                raise ConfigError(f"subsets: {name}: panoptic labels need both `labels` and `annotations`")
            if self.label_kind in IN_ONE_FILE and where.labels is not None:
                raise ConfigError(
                    f"subsets: {name}: {self.label_kind} are in `annotations`; leave `labels` out"
                )
            if where.labels is not None and (CLASS in where.labels) != (self.label_kind == "class_masks"):
                raise ConfigError(
                    f"subsets: {name}: labels: {CLASS} and label_kind: class_masks belong together, found "
                    f"{where.labels!r} and {self.label_kind}"
                )
            if where.labels is not None and h5_member(where.images)[1] and not h5_member(where.labels)[1]:
                raise ConfigError(f"subsets: {name}: labels of HDF5 images are data sets too: file.h5#name")
            if self.label_kind != "ids" and h5_member(where.labels or "")[1]:
                raise ConfigError(f"subsets: {name}: labels in HDF5 files are ids, not {self.label_kind}")
        for name in self.subsets:
            self._refuse_circle((name,))

    def _refuse_circle(self, path: tuple[str, ...]) -> None:
        for name in self.subsets[path[-1]].all_but:
            if name in path:
                raise ConfigError(f"subsets: all_but goes in a circle: {' -> '.join((*path, name))}")
            self._refuse_circle((*path, name))

    def _check_scans(self) -> None:
        if self.axcodes is not None:
            check_axcodes(self.axcodes)
        if self.scans is None:
            return
        if self.axcodes is not None:
            raise ConfigError("axcodes is for HDF5 volumes; scans have their own, scans: {axcodes: ...}")
        if self.label_kind != "ids":
            raise ConfigError(f"scans: labels of scans are ids, not {self.label_kind}")
        for name, where in self.subsets.items():
            if where.second is not None or h5_member(where.images)[1]:
                raise ConfigError(
                    f"subsets: {name}: scans are NIfTI or DICOM files, without `second` and '#'"
                )

    def _check_classes(self) -> None:
        if bool(self.classes) == (self.classes_file is not None):
            raise ConfigError("classes: give either classes or classes_file")
        if self.classes_file is not None and leaves_source(self.classes_file):
            raise ConfigError(f"classes_file must be inside the source folder, found {self.classes_file!r}")
        if self.colors and len(self.colors) != len(self.classes):
            raise ConfigError(
                f"colors needs one colour a class of `classes`: {len(self.classes)}, found {len(self.colors)}"
            )
        if self.label_kind == "colors" and self.classes and not self.colors:
            raise ConfigError("colors must be given where label files hold colours")
        if self.id_map and self.label_kind != "ids":
            raise ConfigError(
                f"id_map is for label files that hold ids; here label_kind is {self.label_kind}"
            )
        if self.first_id and (self.id_map or self.classes_file is not None or self.label_kind != "ids"):
            raise ConfigError("first_id is for label_kind ids without id_map and classes_file")
        if self.drawn != (self.segments is not None):
            raise ConfigError(
                "segments must be given for all label kinds but ids and colors, and only there; here "
                f"label_kind is {self.label_kind}. It says what pixels of no shape are, such as "
                "segments: {other: background, unannotated: other}"
            )
        if self.label_tolerance and self.label_kind not in ("ids", "colors", "class_masks"):
            raise ConfigError("label_tolerance is for label_kind ids, colors and class_masks")
        if self.drawn and (self.ignore_id is not None or self.classes_file is not None):
            raise ConfigError(f"classes must be listed, without ignore_id, for label_kind {self.label_kind}")
        if self.segments is not None:
            self.segments.check(self.classes)
            if self.label_kind == "class_masks" and OTHERS in self.segments.names:
                raise ConfigError(f"segments: names: {OTHERS!r} is not for class_masks; name each label")
        for color in (*self.colors, *([self.ignore_color] if self.ignore_color else [])):
            if not all(0 <= value <= 255 for value in color):
                raise ConfigError(f"colors: values go from 0 to 255, found {list(color)}")


def leaves_source(path: str) -> bool:
    return PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts


def _without_new_defaults(settings: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The values without those of CAME_LATER that are the default."""
    default = {
        each.name: each.default if each.default_factory is MISSING else each.default_factory()
        for each in fields(settings)
    }
    return {key: value for key, value in values.items() if key not in CAME_LATER or value != default[key]}
