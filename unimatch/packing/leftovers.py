"""What lies in the source folder, looks as if it were meant, and is not packed: counted, with examples and
the way to use it.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from unimatch.annotations.names import composed
from unimatch.codecs.volumes import h5_member
from unimatch.packing.findings import EXAMPLES
from unimatch.packing.globs import CHOICE, Walk, alternatives
from unimatch.packing.layout import Layout, find_images
from unimatch.packing.names import Found
from unimatch.packing.recipe import CLASS, PLACEHOLDERS

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
MARK = re.compile("|".join(map(re.escape, (*PLACEHOLDERS, CLASS))))


def leftovers(layout: Layout) -> list[str]:
    """A sentence for each kind of thing that is there and not used."""
    known = known_files(layout)
    return [
        *skipped_folders(layout),
        *missed_pictures(layout, known),
        *unused_labels(layout, known),
        *pictures(layout),
    ]


def examples(paths: Iterable[str]) -> str:
    listed = list(paths)
    return ", ".join(listed[:EXAMPLES]) + (", ..." if len(listed) > EXAMPLES else "")


def skipped_folders(layout: Layout) -> Iterator[str]:
    if layout.unlabeled and any(layout.annotated.sets):
        yield (
            f"{len(layout.unlabeled)} images without an annotation were left out (skip_unlabeled): "
            f"{examples(layout.unlabeled)}"
        )
    if layout.recomposed:
        yield (
            f"{len(layout.recomposed)} files were found although their names are composed otherwise "
            f"(Unicode) than those of their images: {examples(layout.recomposed)}"
        )
    yield from not_walked(layout.walk)


def not_walked(walk: Walk) -> Iterator[str]:
    """What a search did not go into."""
    if walk.loops:
        yield (
            f"{len(walk.loops)} linked folders lead back into a folder that is searched anyway and were left "
            f"out: {examples(sorted(walk.loops))}"
        )
    if walk.hidden:
        yield (
            f"{len(walk.hidden)} folders whose names begin with a dot were left out: "
            f"{examples(sorted(walk.hidden))}"
        )
    if walk.broken:
        yield (
            f"{len(walk.broken)} links lead nowhere and were left out: {examples(sorted(walk.broken))}; "
            "fetch the files that they stand for (git annex get, dvc pull) if they are meant"
        )


def known_files(layout: Layout) -> set[str]:
    """All files that a subset's globs and templates mean, also of images that lists leave out, composed."""
    known: set[str] = set()
    for subset, images in layout.matched.items():
        where = layout.recipe.subsets[subset]
        templates = [*layout.recipe.label_templates(where), *([where.second] if where.second else [])]
        for image in images:
            known.add(composed(image.path))
            known.update(composed(path) for template in templates for path in image.paths(template))
    return known


def missed_pictures(layout: Layout, known: set[str]) -> Iterator[str]:
    """Pictures beside those of a glob that it does not take for their extension alone."""
    told: set[str] = set()
    for subset, images in layout.matched.items():
        where = layout.recipe.subsets[subset]
        if not images or h5_member(where.images)[1] or layout.recipe.scans is not None:
            continue
        missed: dict[str, Found] = {}
        for one in alternatives(where.images):
            suffix = PurePosixPath(one).suffix
            wide = find_images(layout.walk, f"{one.removesuffix(suffix)}.*") if suffix else []
            for image in wide:
                path = image.path
                if path.lower().endswith(PICTURES) and composed(path) not in known and path not in told:
                    missed[path] = image
        if missed:
            told.update(missed)
            labels = where.labels
            count = sum(layout.annotated.has(image, where) for image in missed.values()) if labels else 0
            with_label = f" ({count} of them with a label)" if labels else ""
            endings = sorted({PurePosixPath(path).suffix[1:] for path in (*missed, images[0].path)})
            yield (
                f"{subset}: {len(missed)} pictures beside those of {where.images!r} are not taken"
                f"{with_label}: {examples(sorted(missed))}; a glob takes several extensions by "
                f"{{{','.join(endings)}}}"
            )


def unused_labels(layout: Layout, known: set[str]) -> Iterator[str]:
    """Files that fit a template of labels, for which no image is there."""
    told: set[str] = set()
    for template in dict.fromkeys(where.labels for where in layout.recipe.subsets.values()):
        if template is None or h5_member(template)[1]:
            continue
        unused: set[str] = set()
        for one in alternatives(template, CHOICE):
            for pattern in label_globs(layout, one):
                unused.update(path for path in layout.walk.files(pattern) if composed(path) not in known)
        unused -= told
        if unused:
            told |= unused
            yield (
                f"{len(unused)} files look like labels ({template}), but belong to no image: "
                f"{examples(sorted(unused))}"
            )


def label_globs(layout: Layout, template: str) -> Iterator[str]:
    """Globs for all labels of a template. Where it starts with a placeholder, only in the folders of labels
    that images have: the glob would search everything.
    """
    parts = PurePosixPath(template).parts
    name = MARK.sub("*", glob.escape(parts[-1]))
    if len(parts) == 1 or not MARK.search(parts[0]):
        folders = [
            "**" if part in ("{dir}", "{parent}") else MARK.sub("*", glob.escape(part)) for part in parts[:-1]
        ]
        yield "/".join([*folders, name])
        return
    used = {
        PurePosixPath(path).parent.as_posix()
        for subset, images in layout.matched.items()
        if layout.recipe.subsets[subset].labels is not None
        for image in images
        for path in image.paths(template)
    }
    for folder in sorted(used):
        yield f"{glob.escape(folder)}/{name}"


def pictures(layout: Layout) -> Iterator[str]:
    """Pictures of annotation files without a file on disk, and those of several entries."""
    for path, file in layout.annotated.sets.items():
        images = {
            image.path
            for subset, matched in layout.matched.items()
            if layout.recipe.subsets[subset].annotations == path
            for image in matched
        }
        used = {place for image in images for place in file.places(image)}
        unused = [p.name for place, p in enumerate(file.pictures) if place not in used]
        if unused:
            yield (
                f"{path}: {len(unused)} of its {len(file.pictures)} pictures have no file among the "
                f"images of the recipe: {examples(unused)}"
            )
        if file.merged:
            yield (
                f"{path}: {len(file.merged)} pictures have several entries, whose annotations were "
                f"drawn together: {examples(picture.name for picture in file.merged)}"
            )
