"""A folder of images and labels becomes a shard set, as a recipe says.

Every file is read and checked while it is packed; all problems are reported together, and then nothing is
left behind.
"""

from __future__ import annotations

import functools
from pathlib import Path

from unimatch.annotations.labels import LabelClasses
from unimatch.codecs.encode import ImageRules
from unimatch.errors import DataError
from unimatch.packing.classes import Pairs, packed, read_classes
from unimatch.packing.convert import Rules, convert
from unimatch.packing.labels import BINARY, LabelRules
from unimatch.packing.layout import find_layout
from unimatch.packing.leftovers import leftovers
from unimatch.packing.pack import Packed, write_set
from unimatch.packing.pieces import Across
from unimatch.packing.rasters import set_bands
from unimatch.packing.recipe import Recipe
from unimatch.packing.unknown_values import check_tolerance
from unimatch.taxonomy import IGNORE_INDEX, Taxonomy, default_colors


def pack(
    recipe: Recipe,
    source: Path,
    out: Path,
    workers: int = 1,
    overwrite: bool = False,
    trust_images: bool = False,
    across: Across | None = None,
) -> Packed:
    """Write the shard set; the same bytes for any number of workers and machines (`across`). DataError lists
    all that is wrong.

    `trust_images`: images that keep their bytes are checked by header and end only, not decoded.
    """
    if not source.is_dir():
        raise DataError(f"the source folder {source} does not exist")
    taxonomy, pairs = read_classes(recipe, source)
    if recipe.label_tolerance:
        kind, known = recipe.label_kind, pairs
        if kind == "class_masks":
            kind, known = "ids", BINARY
        check_tolerance(recipe.label_tolerance, kind, known)
    layout = find_layout(recipe, taxonomy.names, source)
    bands, told = set_bands(layout)
    rules = Rules(
        ImageRules(recipe.downscale, recipe.png, recipe.fast_decode, trust_images, recipe.drop_extra),
        label_rules(recipe, taxonomy, pairs),
        recipe.scans,
        recipe.label_format,
        taxonomy.num_classes,
        bands,
    )
    return write_set(
        out,
        taxonomy,
        layout.jobs,
        functools.partial(convert, rules=rules),
        {"recipe": "file", **recipe.settings()},
        shard_bytes=recipe.shard_mb << 20,
        workers=workers,
        overwrite=overwrite,
        source_name=str(source),
        problems=layout.problems,
        told=[*leftovers(layout), *told],
        skip_bad=recipe.skip_bad,
        one_palette=recipe.label_kind == "ids" and not recipe.palettes_may_differ,
        bands=bands,
        across=across,
    )


def label_rules(recipe: Recipe, taxonomy: Taxonomy, pairs: Pairs) -> LabelRules:
    """How the recipe's labels are read; `pairs` as `read_classes` gives them."""
    unannotated = IGNORE_INDEX
    if recipe.segments is not None and recipe.segments.unannotated == "other":
        assert recipe.segments.other is not None
        unannotated = taxonomy.names.index(recipe.segments.other)
    made_up = taxonomy.colors == default_colors(taxonomy.num_classes)
    return LabelRules(
        recipe.label_kind,
        pairs,
        unannotated,
        recipe.label_tolerance,
        recipe.labels_drawn_on,
        recipe.drop_extra,
        () if made_up else tuple(map(packed, taxonomy.colors)),
        LabelClasses.of(recipe.segments, taxonomy.names) if recipe.segments else LabelClasses(()),
        recipe.scans,
        recipe.segments is not None and recipe.segments.overlap == "later",
    )
