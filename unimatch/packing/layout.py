"""From a recipe to the list of its images: globs, placeholders, lists and keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from zlib import crc32

from unimatch import keyed
from unimatch.annotations.names import composed
from unimatch.codecs import scans
from unimatch.codecs.part import Rect
from unimatch.codecs.volumes import h5_member, num_slices
from unimatch.errors import DataError
from unimatch.packing.annotated import Annotated, stray_masks
from unimatch.packing.band_settings import RASTER_KINDS
from unimatch.packing.findings import Problem
from unimatch.packing.globs import Walk, alternatives, is_open, name_pattern, on_disk
from unimatch.packing.lists import pick
from unimatch.packing.names import Ambiguous, Found, is_there
from unimatch.packing.recipe import Recipe, SubsetSource
from unimatch.packing.survey import BadRaster, Survey


@dataclass(frozen=True)
class Job:
    """One image, pair or slice to pack. Paths are relative to `source`; `file#name` is a data set in HDF5."""

    source: Path
    key: str
    image: str
    label: str | None = None
    second: str | None = None
    slice: int | None = None  # the place in a volume; None: the file is one image
    # What the label is drawn from, as JSON, and the file that it comes from.
    drawing: bytes | None = None
    annotations: str | None = None
    parts: tuple[tuple[int, str], ...] = ()  # (class id, its mask file) of one mask a class
    scan: str | None = None  # of a slice of a scan: the glob of the file's name, or of those in the folder
    window: Rect | None = None  # of a raster of bands: the pixels of this sample

    @property
    def member(self) -> str | None:
        """The name of the image's data set in an HDF5 file; None: an image file."""
        return h5_member(self.image)[1]

    @property
    def has_label(self) -> bool:
        return self.label is not None or self.drawing is not None or bool(self.parts)

    def files(self) -> list[Path]:
        """The files that the sample is made from."""
        paths = (self.image, self.second, self.label, self.annotations, *(path for _, path in self.parts))
        return [self.source / h5_member(path)[0] for path in paths if path is not None]


@dataclass
class Layout:
    """What a recipe finds in a source folder, and what is wrong with it. No image was read."""

    recipe: Recipe
    source: Path
    walk: Walk
    annotated: Annotated
    unlabeled: list[str] = field(default_factory=list)  # images that skip_unlabeled leaves out
    matched: dict[str, list[Found]] = field(default_factory=dict)  # of each subset: all that its glob matches
    chosen: dict[str, list[Found]] = field(default_factory=dict)  # and those that are packed, by path
    jobs: dict[str, list[Job]] = field(default_factory=dict)  # in packing order
    problems: list[Problem] = field(default_factory=list)
    recomposed: list[str] = field(default_factory=list)  # found in another Unicode form than the image's
    # The images that use a label file, a second image or a picture of an annotation file: (what, its path).
    users: dict[tuple[str, str], list[Found]] = field(default_factory=dict)
    rasters: Survey | None = None  # of a recipe with `bands`


def find_layout(recipe: Recipe, classes: tuple[str, ...], source: Path) -> Layout:
    """The jobs of each subset in packing order, and what is wrong with the layout. Reads no image."""
    layout = Layout(recipe, source, Walk(source), Annotated(source, recipe, classes))
    layout.rasters = Survey(source, recipe.bands, recipe.tiles) if recipe.bands else None
    choose_images(layout)
    if recipe.scans is None and (told := scans_without_rules(layout)):
        layout.problems.append(told)
        return layout
    seen: dict[str, str] = {}
    for subset, images in layout.chosen.items():
        where = recipe.subsets[subset]
        if where.annotations in layout.annotated.bad:
            continue
        # Neighbours in a folder look alike (frames of one drive): shuffled here, shards are mixed. The
        # slices of one volume stay together, since they are looked at together.
        order = keyed.permutation(keyed.key(recipe.seed, crc32(subset.encode())), len(images))
        groups: list[list[Job]] = [[] for _ in images]
        for place, image in enumerate(images):
            key = image.key
            if key in seen:
                text = f"{image.path} ({subset}) has the key of {seen[key]}: {key}"
                layout.problems.append(Problem("duplicate key", text))
                continue
            seen[key] = f"{image.path} ({subset})"
            try:
                groups[place] = list(image_jobs(layout, key, image, where))
            except DataError as error:
                drawn = layout.annotated.of(where) is not None
                kind = "bad or missing annotation" if drawn else "unreadable image"
                kind = "several labels" if isinstance(error, Ambiguous) else kind
                kind = error.kind if isinstance(error, BadRaster) else kind
                layout.problems.append(Problem(kind, str(error), image.path))
        layout.jobs[subset] = [job for place in order for job in groups[place]]
    layout.problems += stray_masks(layout.walk, recipe, classes, layout.matched)
    if not recipe.shared_labels:
        layout.problems += shared(layout)
    return layout


def scans_without_rules(layout: Layout) -> Problem | None:
    """That images are NIfTI or DICOM files, of which the recipe does not say how they become grey."""
    found = [image.path for images in layout.chosen.values() for image in images if is_scan(image.path)]
    if not found:
        return None
    kind = "NIfTI volumes" if scans.is_nifti(found[0]) else "DICOM files"
    dicom = "" if scans.is_nifti(found[0]) else "dicom: true, "
    text = (
        f"{len(found)} of the images are {kind}, such as {found[0]}; say in the recipe which values become "
        f"black and white: `scans: {{{dicom}window: [-160, 240]}}` in the scan's units, or "
        f"`scans: {{{dicom}percentiles: [0.5, 99.5]}}` of each volume"
    )
    return Problem("scans", text)


def is_scan(path: str) -> bool:
    return scans.is_nifti(path) or path.lower().endswith((".dcm", ".ima"))


def image_jobs(layout: Layout, key: str, image: Found, where: SubsetSource) -> Iterator[Job]:
    """The jobs of one image file: one, or one a slice of a volume. DataError: not to be told apart, or what
    the annotations lack."""
    source = layout.source
    member = h5_member(where.images)[1]
    path = image.path if member is None else f"{image.path}#{member}"
    label: str | None = None
    parts: tuple[tuple[int, str], ...] = ()
    if layout.recipe.label_kind == "class_masks" and where.labels is not None:
        label, parts = layout.annotated.parts(image, where)
        label = None if parts else label  # without any, it is told as missing
    elif where.labels is not None:
        label = image.resolve(source, where.labels)
    second = None if where.second is None else image.resolve(source, where.second)
    drawing = layout.annotated.yolo_names(where) if label else None
    picture = layout.annotated.picture(image, where)
    if picture is not None:
        layout.users.setdefault((f"picture of {where.annotations}", picture[0].name), []).append(image)
        drawing = picture[1]
    for _, path_of_mask in parts:
        layout.users.setdefault(("label", path_of_mask), []).append(image)
    for what, template, used in (("label", where.labels, label), ("second image", where.second, second)):
        if used is not None:
            layout.recomposed += [used] if template and used not in image.paths(template) else []
            layout.users.setdefault((what, used), []).append(image)
    job = Job(source, key, path, label, second, drawing=drawing, parts=parts)
    if drawing is not None:
        job = replace(job, annotations=where.annotations)
    if layout.rasters is not None:
        yield from tiles(layout, layout.rasters, job)
        return
    rules = layout.recipe.scans
    files = None if rules is None else PurePosixPath(where.images).name
    if rules is not None and files is not None:
        grid = scans.grid_of(source, path, files, rules)
        if label is not None:
            scans.check_label(path, grid, label, source, rules)
        depth: int | None = grid.shape[0]
    else:
        depth = None if member is None else num_slices(source, path)
    if depth is None:
        yield job
        return
    for index in range(depth):
        yield Job(source, f"{key}/{index:03d}", path, label, second, index, scan=files)


def tiles(layout: Layout, rasters: Survey, job: Job) -> Iterator[Job]:
    """The jobs of a raster of bands: one, or one a tile."""
    label = job.label if layout.recipe.label_kind in RASTER_KINDS else None
    for end, rect in rasters.cut(job.image, {"label": label, "second image": job.second}):
        yield replace(job, key=f"{job.key}{end}", window=rect)


def shared(layout: Layout) -> Iterator[Problem]:
    """A problem for each label file, second image or picture of annotations that several images have."""
    templates = [t for where in layout.recipe.subsets.values() for t in (where.labels, where.second) if t]
    no_folder = any("{dir}" not in template for template in templates)
    for (what, path), images in layout.users.items():
        is_picture = what not in ("label", "second image")
        if len(images) < 2 or not (is_picture or is_there(layout.source, path)):
            continue
        names = ", ".join(image.path for image in images[:3]) + (", ..." if len(images) > 3 else "")
        if is_picture:
            way = "write folders into file_name, so that each image has its own"
        elif no_folder and len({image.folder for image in images}) > 1:
            way = "write the image's folder into the recipe's path by {dir}, such as masks/{dir}/{stem}.png"
        else:
            way = "give each image its own"
        text = f"{path}: is the {what} of {len(images)} images ({names}); {way}, or set shared_labels: true"
        yield Problem(f"shared {what.split(' of ')[0]}", text)


# Which images


def choose_images(layout: Layout) -> None:
    """Fill in the images of each subset; one that is optional and absent is missing there."""
    recipe, source = layout.recipe, layout.source
    waiting = list(recipe.subsets)
    chosen: dict[str, list[Found]] = {}
    while waiting:  # a subset that leaves out others comes after them; the recipe has no circles
        subset = next(name for name in waiting if not set(recipe.subsets[name].all_but) & set(waiting))
        waiting.remove(subset)
        where = recipe.subsets[subset]
        images = find_images(layout.walk, h5_member(where.images)[0])
        if recipe.scans is not None and recipe.scans.dicom:
            images = series_folders(images)
        layout.matched[subset] = images
        absent = [path for path in where.lists if not (source / on_disk(source, path)).is_file()]
        if where.optional and (absent or not images):
            continue
        if not images:
            layout.problems.append(Problem("empty subset", f"{subset}: no file matches {where.images!r}"))
            continue
        if where.lists:
            images, found = pick(images, source, where)
            layout.problems += found
        taken = {image.path for other in where.all_but for image in chosen.get(other, [])}
        images = [image for image in images if image.path not in taken]
        try:
            layout.annotated.read(where)
        except DataError as error:
            layout.problems.append(Problem("bad annotations", str(error)))
        if where.skip_unlabeled and where.annotations not in layout.annotated.bad:
            layout.unlabeled += [i.path for i in images if not layout.annotated.has(i, where)]
            images = [image for image in images if layout.annotated.has(image, where)]
        if images:
            chosen[subset] = images
        elif not where.optional and not absent:
            text = f"{subset}: none of the files that match {where.images!r} is left"
            layout.problems.append(Problem("empty subset", text))
    if not chosen and not layout.problems:
        text = "no subset has any files; is this the right folder?"
        layout.problems.append(Problem("empty subset", text))
    layout.chosen = {name: chosen[name] for name in recipe.subsets if name in chosen}


def series_folders(files: list[Found]) -> list[Found]:
    """The folders of files, each an image of its own."""
    folders: dict[str, Found] = {}
    for file in files:
        path = PurePosixPath(file.path).parent
        above = PurePosixPath(file.folder).parent.as_posix()
        folders.setdefault(path.as_posix(), Found(path.as_posix(), above, None, is_folder=True))
    return [folders[path] for path in sorted(folders)]


def find_images(walk: Walk, pattern: str) -> list[Found]:
    """The files that a glob matches, by path. Files whose name begins with a dot are left out unless the
    glob's does too: file managers leave such beside the images.
    """
    found: dict[str, Found] = {}
    for one in alternatives(pattern):
        parts = PurePosixPath(one).parts
        fixed = next(i for i, part in enumerate(parts) if is_open(part) or i == len(parts) - 1)
        name = name_pattern(composed(parts[-1]))
        for path in walk.files(one):
            *folders, file = PurePosixPath(path).parts
            match = name.fullmatch(composed(file))
            stars = match.groups() if match else ()
            folder = PurePosixPath(*folders[fixed:]).as_posix()
            found[path] = Found(path, folder, stars[-1] if stars else None)
    return [found[path] for path in sorted(found)]
