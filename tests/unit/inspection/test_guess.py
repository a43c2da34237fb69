"""Guessed recipes: each kind of folder is recognised, and what is certain packs as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.support.folder_source import jpeg_bytes, picture, save
from tests.support.scan_files import body, save_dicom, save_nifti
from tests.support.tool_files import CAR, HEIGHT, ROAD, WIDTH, image, packed, square, write
from unimatch import config, pack
from unimatch.errors import DataError
from unimatch.inspection.guess import KINDS, guess_recipe, recipe_text
from unimatch.inspection.guess_masks import voc_color
from unimatch.packing.recipe import Recipe

FLAT = {"height": HEIGHT, "width": WIDTH}


def labelme(root: Path) -> None:
    image(root, "x/a.jpg")
    shapes = [{"label": "road", "points": ROAD, "shape_type": "polygon"}]
    shapes.append({"label": "car", "points": CAR, "shape_type": "polygon"})
    content = {"shapes": shapes, "imagePath": "a.jpg", "imageHeight": HEIGHT, "imageWidth": WIDTH}
    write(root / "x/a.json", content)


def coco(root: Path) -> None:
    image(root, "train/a.jpg")
    flat = [[value for point in points for value in point] for points in (ROAD, CAR)]
    shapes = [
        {
            "id": k,
            "image_id": 1,
            "category_id": k,
            "segmentation": [flat[k - 1]],
            "area": 50 / k,
            "iscrowd": 0,
        }
        for k in (1, 2)
    ]
    categories = [{"id": 1, "name": "road"}, {"id": 2, "name": "car"}]
    pictures = [{"id": 1, "file_name": "a.jpg", **FLAT}]
    content = {"images": pictures, "annotations": shapes, "categories": categories}
    write(root / "train/_annotations.coco.json", content)


def cvat(root: Path) -> None:
    image(root, "images/a.jpg")
    points = [";".join(f"{x},{y}" for x, y in one) for one in (ROAD, CAR)]
    shapes = "".join(
        f'<polygon label="{label}" points="{text}" z_order="0"/>'
        for label, text in zip(("road", "car"), points, strict=True)
    )
    head = "<meta><labels><label><name>road</name></label><label><name>car</name></label></labels></meta>"
    body = f'<image id="0" name="a.jpg" width="{WIDTH}" height="{HEIGHT}">{shapes}</image>'
    write(root / "annotations.xml", f"<annotations>{head}{body}</annotations>")


def label_studio(root: Path) -> None:
    image(root, "a.jpg")
    regions = []
    for label, points in (("road", ROAD), ("car", CAR)):
        share = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in points]
        value = {"points": share, "polygonlabels": [label]}
        size = {"original_width": WIDTH, "original_height": HEIGHT}
        regions.append({"id": label, "type": "polygonlabels", "value": value, **size})
    task = {"id": 1, "data": {"image": "/data/upload/1/0a1b2c3d-a.jpg"}, "annotations": [{"result": regions}]}
    write(root / "export.json", [task])


def supervisely(root: Path) -> None:
    image(root, "ds0/img/a.jpg")
    objects = []
    for label, points in (("road", ROAD), ("car", CAR)):
        exterior = [[x + 0.01, y] for x, y in points]
        points_of = {"exterior": exterior, "interior": []}
        objects.append({"classTitle": label, "geometryType": "polygon", "points": points_of})
    write(root / "ds0/ann/a.jpg.json", {"size": FLAT, "objects": objects})
    classes = [{"title": label, "shape": "polygon"} for label in ("road", "car")]
    write(root / "meta.json", {"classes": classes, "tags": []})


def yolo(root: Path) -> None:
    lines = []
    for place, points in enumerate((ROAD, CAR)):
        lines.append(f"{place} " + " ".join(f"{x / WIDTH} {y / HEIGHT}" for x, y in points))
    for part in ("train", "valid"):
        image(root, f"{part}/images/a.jpg")
        write(root / f"{part}/labels/a.txt", "\n".join(lines))
    write(root / "data.yaml", "names: [road, car]\nnc: 2\ntrain: ../train/images\n")


def cvat_masks(root: Path) -> None:
    image(root, "JPEGImages/a.jpg")
    drawn = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    drawn[2:8, 2:10] = (128, 64, 128)
    drawn[4:6, 4:6] = (0, 0, 142)
    save(root / "SegmentationClass/a.png", drawn)
    write(
        root / "labelmap.txt",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\ncar:0,0,142::",
    )


@pytest.mark.parametrize(
    ("make", "kind", "subset", "key"),
    [
        (labelme, "LabelMe JSON", "train", "x/a"),
        (coco, "COCO instances", "train", "train/a"),
        (cvat, "CVAT for images", "train", "images/a"),
        (label_studio, "Label Studio", "train", "a"),
        (supervisely, "Supervisely", "train", "ds0/img/a"),
        (yolo, "YOLO outlines", "train", "train/images/a"),
        (cvat_masks, "CVAT segmentation mask", "train", "JPEGImages/a"),
    ],
)
def test_what_is_certain_packs_as_it_is(
    tmp_path: Path, make: Callable[[Path], None], kind: str, subset: str, key: str
) -> None:
    root = tmp_path / "source"
    make(root)
    guess = guess_recipe(root)
    assert guess.kind == kind and guess.unsure == []
    text = recipe_text(guess, root, "my.yaml")
    recipe = config.from_text(text, Recipe)
    labels, made = packed(recipe, root)
    assert np.array_equal(labels[key], square(2, (4, 4, 6, 6), square(1)))
    assert made.subsets[subset] == (1, 1) and not made.told
    assert "# saw: " in text and "# unsure: " not in text and text.isascii()


def test_splits_have_the_names_of_their_folders(tmp_path: Path) -> None:
    yolo(tmp_path)
    assert list(guess_recipe(tmp_path).recipe["subsets"]) == ["train", "val"]


def test_images_with_masks(tmp_path: Path) -> None:
    root = tmp_path / "source"
    label = square(2, (4, 4, 6, 6), square(1))
    label[0] = 255
    for part in ("train", "val"):
        save(root / f"images/{part}/a.jpg", jpeg_bytes(picture()))
        save(root / f"masks/{part}/a_mask.png", label)
    guess = guess_recipe(root)
    recipe = config.from_text(recipe_text(guess, root, "my.yaml"), Recipe)
    assert recipe.ignore_id == 255 and recipe.classes == ("background", "class_1", "class_2")
    assert recipe.subsets["val"].labels == "masks/val/{stem}_mask.png"
    assert np.array_equal(packed(recipe, root)[0]["images/train/a"], label)
    assert "255 is taken as 'not labelled'" in guess.unsure


@pytest.mark.parametrize(
    ("lines", "settings", "unsure"),
    [
        (
            "0 sky 9 9 9\n1 road 8 0 0\n2 car 0 0 7\n3 Void 0 0 0",
            {"classes": ("sky", "road", "car"), "colors": ((9, 9, 9), (8, 0, 0), (0, 0, 7)), "ignore_id": 3},
            0,
        ),
        ("1 road\n3 void\n0 sky\n2 car", {"id_map": {1: 0, 0: 1, 2: 2, 3: 255}}, 0),
        ("sky\nroad\ncar\nunlabelled\n", {"classes": ("sky", "road", "car"), "ignore_id": 3}, 1),
        (
            "sky\nroad\ncar",
            {"classes": ("background", "class_1", "class_2", "class_3"), "ignore_id": None},
            3,
        ),
        ("0001.png\n0002.png", {"classes": ("background", "class_1", "class_2", "class_3")}, 1),
    ],
)
def test_names_of_classes_in_a_text_file_beside_the_masks(
    tmp_path: Path, lines: str, settings: dict[str, Any], unsure: int
) -> None:
    root = tmp_path / "source"
    image(root, "images/a.jpg")
    label = square(2, (4, 4, 6, 6), square(1))
    label[0] = 3
    save(root / "masks/a.png", label)
    write(root / "classes.txt", lines)
    guess = guess_recipe(root)
    recipe = config.from_text(recipe_text(guess, root, "r"), Recipe)
    assert {name: getattr(recipe, name) for name in settings} == settings and len(guess.unsure) == unsure
    known = packed(recipe, root)[0]["images/a"]
    meant = np.array([255 if k == recipe.ignore_id else recipe.id_map.get(k, k) for k in range(4)])
    assert np.array_equal(known, meant[label])


def test_colours_of_classes_beside_the_masks(tmp_path: Path) -> None:
    root = tmp_path / "source"
    image(root, "images/a.jpg")
    drawn = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    drawn[2:8, 2:10] = (128, 64, 128)
    save(root / "masks/a.png", drawn)
    write(root / "classes.txt", "5 void 0 0 0\n7 road 128 64 128")
    recipe = config.from_text(recipe_text(guess_recipe(root), root, "r"), Recipe)
    assert recipe.classes == ("road",) and recipe.ignore_color == (0, 0, 0)
    (root / "classes.txt").unlink()
    mask = Image.fromarray(square(2, (4, 4, 6, 6), square(1)), "P")
    mask.putpalette([9, 9, 9, 200, 10, 20, 0, 90, 0])
    mask.save(root / "masks/a.png")
    recipe = config.from_text(recipe_text(guess_recipe(root), root, "r"), Recipe)
    assert recipe.classes == ("background", "class_1", "class_2")
    assert recipe.colors == ((9, 9, 9), (200, 10, 20), (0, 90, 0))


def test_the_upper_byte_of_deep_masks_is_not_what_they_hold(tmp_path: Path) -> None:
    save(tmp_path / "images/a.jpg", jpeg_bytes(picture()))
    deep = np.full((12, 16, 3), 2, np.uint16)
    save(tmp_path / "masks/a.png", cv2.imencode(".png", deep)[1].tobytes())
    guess = guess_recipe(tmp_path)
    assert "a mask cannot be read: masks/a.png has 16 bits a channel" in guess.unsure[0]


def test_masks_of_two_folders_that_fit_alike_are_told(tmp_path: Path) -> None:
    save(tmp_path / "images/a.jpg", jpeg_bytes(picture()))
    for folder in ("labels", "masks"):
        save(tmp_path / folder / "a.png", square(1))
    guess = guess_recipe(tmp_path)
    template = str(guess.recipe["subsets"]["train"]["labels"])
    other = "masks" if template.startswith("labels") else "labels"
    assert f"masks of the same images lie in {other} too; those by {template} are taken" in guess.unsure


def test_two_values_and_colours(tmp_path: Path) -> None:
    root = tmp_path / "two"
    image(root, "img/a.jpg")
    save(root / "gt/a.png", square(255))
    guess = guess_recipe(root)
    assert guess.recipe["id_map"] == {0: 0, 255: 1} and "is 255 a class" in guess.unsure[0]
    assert np.array_equal(
        packed(config.from_text(recipe_text(guess, root, "r"), Recipe), root)[0]["img/a"], square(1)
    )
    root = tmp_path / "colours"
    image(root, "img/a.jpg")
    drawn = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    drawn[2:8, 2:10] = (128, 64, 128)
    save(root / "label/a.png", drawn)
    guess = guess_recipe(root)
    assert guess.recipe["classes"] == ["background", "color_804080"]
    labels, _ = packed(config.from_text(recipe_text(guess, root, "r"), Recipe), root)
    assert np.array_equal(labels["img/a"], square(1))


def test_palettes_of_pascal_voc_are_named(tmp_path: Path) -> None:
    assert [voc_color(value) for value in (0, 1, 2, 15, 255)] == [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (192, 128, 128), (224, 224, 192),
    ]  # fmt: skip
    image(tmp_path, "JPEGImages/a.jpg")
    mask = Image.fromarray(square(15), "P")
    mask.putpalette([value for number in range(256) for value in voc_color(number)])
    (tmp_path / "SegmentationClass").mkdir()
    mask.save(tmp_path / "SegmentationClass/a.png")
    guess = guess_recipe(tmp_path)
    assert any("palette: 0 [0, 0, 0], 15 [192, 128, 128] (that of PASCAL VOC)" in text for text in guess.saw)
    assert len(guess.recipe["classes"]) == 16


@pytest.mark.parametrize(
    ("names", "template"),
    [
        (("masks/a_road.png", "masks/a_car.png"), "masks/{stem}_{class}.png"),
        (("masks/road/a.png", "masks/car/a.png"), "masks/{class}/{stem}.png"),
    ],
)
def test_one_mask_a_class(tmp_path: Path, names: tuple[str, str], template: str) -> None:
    root = tmp_path / "source"
    image(root, "images/a.jpg")
    for name, box in zip(names, ((2, 2, 10, 8), (12, 2, 14, 8)), strict=True):
        save(root / name, square(255, box))
    guess = guess_recipe(root)
    assert guess.kind == "one mask a class" and guess.recipe["subsets"]["train"]["labels"] == template
    labels, _ = packed(config.from_text(recipe_text(guess, root, "r"), Recipe), root)
    place = {name: k for k, name in enumerate(guess.recipe["classes"])}
    assert np.array_equal(labels["images/a"], square(place["car"], (12, 2, 14, 8), square(place["road"])))


def test_scans(tmp_path: Path) -> None:
    values, ids = body()
    for name in ("a", "b"):
        save_nifti(tmp_path / f"nifti/imagesTr/{name}_0000.nii.gz", values)
        save_nifti(tmp_path / f"nifti/labelsTr/{name}.nii.gz", (ids > 0).astype(np.uint8))
    guess = guess_recipe(tmp_path / "nifti")
    assert guess.recipe["subsets"] == {
        "train": {"images": "imagesTr/*_0000.nii.gz", "labels": "labelsTr/{name}.nii.gz"}
    }
    recipe = config.from_text(recipe_text(guess, tmp_path / "nifti", "r"), Recipe)
    assert len(packed(recipe, tmp_path / "nifti")[0]) == 8
    save_dicom(tmp_path / "dicom/scans/p1", values)
    save_nifti(tmp_path / "dicom/labels/p1.nii.gz", (ids > 0).astype(np.uint8))
    guess = guess_recipe(tmp_path / "dicom")
    assert guess.recipe["subsets"]["train"]["labels"] == "labels/{stem}.nii.gz"
    recipe = config.from_text(recipe_text(guess, tmp_path / "dicom", "r"), Recipe)
    assert len(packed(recipe, tmp_path / "dicom")[0]) == 4


def test_what_is_unsure_is_said(tmp_path: Path) -> None:
    labelme(tmp_path)
    image(tmp_path, "x/b.jpg")
    empty = {"shapes": [], "imagePath": "c.jpg", "imageHeight": HEIGHT, "imageWidth": WIDTH}
    image(tmp_path, "x/c.jpg")
    write(tmp_path / "x/c.json", empty)
    guess = guess_recipe(tmp_path)
    assert guess.unsure == [
        "1 of 3 pictures in x have no label, such as b.jpg, and are left out (skip_unlabeled)",
        "1 annotations have no shape: are these images all background, or not done?",
    ]
    assert recipe_text(guess, tmp_path, "r").count("\n# unsure: ") == 2


def test_labelme_without_its_images_is_told(tmp_path: Path) -> None:
    labelme(tmp_path)
    (tmp_path / "x/a.jpg").unlink()
    (told,) = guess_recipe(tmp_path).unsure
    assert told.startswith("no image is inside: a.json names 'a.jpg'")


def test_nothing_that_fits_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    image(tmp_path, "photos/a.jpg")
    write(tmp_path / "notes.json", {"hello": 1})
    write(tmp_path / "broken.json", "[[[")
    write(tmp_path / "page.xml", "<html/>")
    with pytest.raises(DataError) as error:
        guess_recipe(tmp_path)
    assert "of its 4 files (1 pictures) nothing fits" in str(error.value)
    assert all(kind in str(error.value) for kind in KINDS)
    with pytest.raises(DataError, match="is no folder"):
        guess_recipe(tmp_path / "none")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelme(tmp_path / "My Photos")
    assert pack.main(["--guess", str(tmp_path / "My Photos")]) == 0
    assert "label_kind: labelme" in capsys.readouterr().out
    path = tmp_path / "my.yaml"
    assert pack.main(["--guess", str(tmp_path / "My Photos"), "--out", str(path)]) == 0
    assert f"{path}: LabelMe JSON; 0 things are unsure" in capsys.readouterr().out
    command = ["--recipe", str(path), "--source", str(tmp_path / "My Photos"), "--out", str(tmp_path / "out")]
    assert pack.main(command) == 0
    assert pack.main(["--guess", str(tmp_path / "My Photos"), "--out", str(path)]) == 1
    assert "my.yaml exists; choose another --out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        pack.main(["--recipe", str(path)])


def test_names_of_classes_that_yaml_would_read_otherwise(tmp_path: Path) -> None:
    content = json.dumps({"shapes": [{"label": "no", "points": ROAD}, {"label": "1: a", "points": CAR}]})
    image(tmp_path / "source", "a.jpg")
    write(tmp_path / "source/a.json", content)
    guess = guess_recipe(tmp_path / "source")
    recipe = config.from_text(recipe_text(guess, tmp_path, "r"), Recipe)
    assert set(recipe.classes) == {"background", "no", "1: a"}
