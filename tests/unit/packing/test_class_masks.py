"""One mask file a class: overlaps, pixels in none, files of labels that are no class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.folder_source import save
from tests.support.tool_files import HEIGHT, WIDTH, image, packed, refused, square, tool
from unimatch.errors import ConfigError
from unimatch.packing.recipe import SubsetSource

BESIDE = SubsetSource("img/*.jpg", "masks/{stem}_{class}.png")
CAR = square(255, (4, 4, 6, 6))
APART = square(255, (12, 4, 14, 6))


def source(root: Path, **masks: np.ndarray) -> Path:
    image(root / "source")
    for name, mask in masks.items():
        save(root / f"source/masks/{name}.png", mask)
    return root / "source"


@pytest.mark.parametrize("unannotated", ["other", "ignore"])
def test_pixels_in_no_mask_are_what_the_recipe_says(tmp_path: Path, unannotated: str) -> None:
    root = source(tmp_path, a_road=square(255), a_car=APART)
    labels, _ = packed(tool("class_masks", BESIDE, unannotated=unannotated), root)
    rest = square(1, on=np.full((HEIGHT, WIDTH), 0 if unannotated == "other" else 255, np.uint8))
    assert np.array_equal(labels["img/a"], square(2, (12, 4, 14, 6), rest))


def test_overlaps_are_refused_or_the_later_class_lies_on_top(tmp_path: Path) -> None:
    root = source(tmp_path, a_road=square(1), a_car=CAR)  # values 1 and 255 mean the same
    text = refused(tool("class_masks", BESIDE), root)
    assert "masks/a_car.png: 4 of its pixels are also in masks/a_road.png" in text
    labels, made = packed(tool("class_masks", BESIDE, overlap="later"), root)
    assert np.array_equal(labels["img/a"], square(2, (4, 4, 6, 6), square(1)))
    assert "4 pixels of 1 images are in the masks of several classes" in made.told[0]


def test_folders_and_names_of_classes(tmp_path: Path) -> None:
    root = source(tmp_path, **{"street/a": square(255), "unsure/a": APART})
    where = SubsetSource("img/*.jpg", "masks/{class}/{stem}.png")
    recipe = tool("class_masks", where, names={"street": "road", "unsure": "ignore"})
    assert np.array_equal(packed(recipe, root)[0]["img/a"], square(255, (12, 4, 14, 6), square(1)))


def test_files_of_other_labels_are_refused(tmp_path: Path) -> None:
    root = source(tmp_path, a_road=square(255), a_tree=APART, b_tree=CAR)
    image(root, "img/a_x.jpg")
    save(root / "masks/a_x_car.png", CAR)
    text = refused(tool("class_masks", BESIDE), root)
    assert "masks/a_tree.png: 1 masks of an unknown label 'tree'" in text and "x_car" not in text
    _, made = packed(tool("class_masks", BESIDE, names={"tree": "ignore"}), root)
    assert (
        "1 files look like labels (masks/{stem}_{class}.png), but belong to no image: masks/b_tree.png"
        in made.told
    )


def test_an_image_without_any_mask(tmp_path: Path) -> None:
    root = source(tmp_path, a_road=square(255))
    image(root, "img/b.jpg")
    assert "no such file (label of img/b.jpg)" in refused(tool("class_masks", BESIDE), root)
    where = SubsetSource(BESIDE.images, BESIDE.labels, skip_unlabeled=True)
    assert list(packed(tool("class_masks", where), root)[0]) == ["img/a"]


def test_values_between_and_other_sizes_are_refused(tmp_path: Path) -> None:
    soft = square(255)
    soft[2, 2:10] = 130
    text = refused(tool("class_masks", BESIDE), source(tmp_path, a_road=soft))
    assert "masks/a_road.png: has 3 values, the mask of one class has 0 and another one" in text
    assert "label_tolerance: 64" in text and "ignore_id" not in text
    root = source(tmp_path / "seven", a_road=square(7))
    assert np.array_equal(packed(tool("class_masks", BESIDE), root)[0]["img/a"], square(1))
    root = source(tmp_path, a_road=square(255), a_car=np.zeros((6, 8), np.uint8))
    assert "size mismatch" in refused(tool("class_masks", BESIDE), root)
    root = source(tmp_path / "other", a_car=np.zeros((6, 8), np.uint8))
    text = refused(tool("class_masks", BESIDE), root)
    assert "masks/a_car.png: is 8x6 pixels, its image img/a.jpg 16x12" in text


def test_soft_edges_within_the_tolerance(tmp_path: Path) -> None:
    soft = square(255)
    soft[2, 2:10], soft[1, 2:10] = 240, 10
    recipe = tool("class_masks", BESIDE)
    recipe.label_tolerance = 64
    labels, made = packed(recipe, source(tmp_path, a_road=soft))
    assert np.array_equal(labels["img/a"], square(1))
    assert "16 pixels of 1 masks were taken as the nearest class" in made.told[0]


def test_recipes_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="belong together"):
        tool("class_masks", SubsetSource("img/*.jpg", "masks/{stem}.png"))
    with pytest.raises(ConfigError, match="belong together"):
        tool("labelme", BESIDE)
    with pytest.raises(ConfigError, match="'\\*' is not for class_masks"):
        tool("class_masks", BESIDE, names={"*": "road"})
    with pytest.raises(ConfigError, match="which is no class; did you mean 'road'"):
        tool("class_masks", BESIDE, names={"street": "roads"})
