"""CVAT's XML and its masks with labelmap.txt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.folder_source import save
from tests.support.tool_files import HEIGHT, WIDTH, image, packed, refused, square, tool, write
from unimatch.annotations import cvat
from unimatch.packing.recipe import Recipe, SubsetSource

WHERE = SubsetSource("img/*.jpg", annotations="annotations.xml")
ROAD = '<polygon label="road" source="manual" occluded="0" points="2,2;10,2;10,8;2,8" z_order="{}"/>'
CAR = '<box label="car" source="manual" occluded="0" xtl="4" ytl="4" xbr="6" ybr="6" z_order="{}"/>'


def picture(*shapes: str, name: str = "a.jpg", height: int | str = HEIGHT) -> str:
    inside = "".join(shapes).replace("{}", "0")
    return f'<image id="0" name="{name}" width="{WIDTH}" height="{height}">{inside}</image>'


def source(root: Path, *pictures: str, head: str = "<version>1.1</version>") -> Path:
    write(image(root / "source") / "annotations.xml", f"<annotations>{head}{''.join(pictures)}</annotations>")
    return root / "source"


@pytest.mark.parametrize(
    ("shapes", "top"),
    [
        ((ROAD, CAR), 2),
        ((CAR, ROAD), 1),
        ((CAR.format(1), ROAD), 2),
        ((CAR.format(-1), ROAD.format(-2)), 2),
    ],
)
def test_a_larger_z_order_and_then_the_later_lies_on_top(tmp_path: Path, shapes: list[str], top: int) -> None:
    labels, _ = packed(tool("cvat", WHERE), source(tmp_path, picture(*shapes)))
    assert np.array_equal(labels["img/a"], square(top, (4, 4, 6, 6), square(1)))


def test_masks_run_along_rows(tmp_path: Path) -> None:
    mask = '<mask label="car" rle="1, 2, 4, 1" left="2" top="3" width="4" height="2" z_order="0"></mask>'
    labels, _ = packed(tool("cvat", WHERE), source(tmp_path, picture(mask)))
    expected = square(2, (3, 3, 5, 4))
    expected[4, 5] = 2
    assert np.array_equal(labels["img/a"], expected)


def test_ellipses_and_turned_boxes(tmp_path: Path) -> None:
    box = CAR.replace("<box", '<box rotation="90"').replace('xbr="6"', 'xbr="10"')
    round_one = '<ellipse label="road" cx="8" cy="6" rx="6" ry="3" z_order="-1"/>'
    labels, _ = packed(tool("cvat", WHERE), source(tmp_path, picture(box, round_one)))
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    inside = ((x - 8) / 6) ** 2 + ((y - 6) / 3) ** 2
    turned = square(2, (6, 2, 8, 8)) == 2  # about its middle (7, 5)
    assert (labels["img/a"][turned] == 2).all()
    assert (labels["img/a"][(inside < 0.8) & ~turned] == 1).all()
    assert not labels["img/a"][(inside > 1.3) & ~turned].any()


def test_what_is_no_area_and_pictures_without_shapes(tmp_path: Path) -> None:
    others = '<tag label="car"/><polyline label="road" points="0,0;9,9"/><points label="car" points="1,1"/>'
    root = source(tmp_path, picture(others), picture(name="b.jpg"), picture(name="c.jpg"))
    image(root, "img/b.jpg")
    labels, made = packed(tool("cvat", WHERE), root)
    assert set(labels) == {"img/a", "img/b"} and not any(label.any() for label in labels.values())
    assert "2 lines and points of 1 annotated images were left out: img/a.jpg" in made.told
    assert "1 tags of whole images of 1 annotated images were left out: img/a.jpg" in made.told
    assert any(text.startswith("2 images have an annotation without any shape in it: ") for text in made.told)
    assert (
        "annotations.xml: 1 of its 3 pictures have no file among the images of the recipe: c.jpg" in made.told
    )


def test_images_that_the_file_does_not_have(tmp_path: Path) -> None:
    root = source(tmp_path, picture(ROAD))
    image(root, "img/b.jpg")
    assert "img/b.jpg: annotations.xml has no annotation of it" in refused(tool("cvat", WHERE), root)
    where = SubsetSource("img/*.jpg", annotations="annotations.xml", skip_unlabeled=True)
    labels, made = packed(tool("cvat", where), root)
    assert list(labels) == ["img/a"]
    assert made.told == ("1 images without an annotation were left out (skip_unlabeled): img/b.jpg",)


@pytest.mark.parametrize("name", ["img/a.jpg", "task_1\\img\\a.jpg", "./img/a.jpg", "x/img/a.jpg"])
def test_names_in_the_file(tmp_path: Path, name: str) -> None:
    labels, _ = packed(tool("cvat", WHERE), source(tmp_path, picture(ROAD, name=name)))
    assert np.array_equal(labels["img/a"], square(1))


@pytest.mark.parametrize(
    ("pictures", "expected"),
    [
        ([picture(ROAD.replace("road", "tree"))], "a.jpg: unknown label 'tree' (1 shape)"),
        ([picture(ROAD.replace('label="road"', ""))], "polygon 1: has no label"),
        ([picture(ROAD.replace("2,2;", "2,nan;"))], "polygon 1: has a coordinate that is NaN"),
        ([picture(ROAD.replace("2,2;", "2;"))], "polygon 1: has 1 coordinates instead of 2"),
        ([picture(ROAD.replace('points="2,2;10,2;10,8;2,8"', ""))], "polygon 1: has no 'points'"),
        ([picture(CAR.replace('xtl="4"', ""))], "box 1: has no 'xtl'"),
        ([picture(CAR.replace("{}", "top"))], "box 1: has a coordinate that is no number: 'top'"),
        ([picture('<sphere label="car"/>')], "sphere 1: a <sphere> is not read"),
        (
            [picture('<mask label="car" rle="1, 2" left="2" top="3" width="4" height="2"/>')],
            "do not add up to 4x2",
        ),
        (
            [picture('<mask label="car" rle="" left="2" top="3" width="4" height="2"/>')],
            "do not add up to 4x2",
        ),
        (
            [picture('<mask label="car" rle="0, 8" left="14" top="3" width="4" height="2"/>')],
            "reaches beyond",
        ),
        ([picture(ROAD, height=24)], "annotations of img/a.jpg: is 16x24 pixels, its image img/a.jpg 16x12"),
        ([picture(ROAD, height=0)], "annotations.xml: 'a.jpg' has [0, 16] as height and width"),
        ([picture(ROAD, height="tall")], "annotations.xml: 'a.jpg' has 'tall' as height"),
        ([picture(ROAD, name="")], "annotations.xml: has an <image> without a name"),
        ([picture(ROAD), picture(ROAD)], "'a.jpg' is there twice (entries 1, 2)"),
        (
            [picture(ROAD, name="x/a.jpg")],
            "img/a.jpg: annotations.xml has no annotation of it; it has the file name",
        ),
        ([picture(ROAD), '<track id="0" label="car"></track>'], "is 'CVAT for video'"),
        (["<image>"], "annotations.xml: is no XML, or damaged"),
    ],
)
def test_what_is_refused(tmp_path: Path, pictures: list[str], expected: str) -> None:
    assert expected in refused(tool("cvat", WHERE), source(tmp_path, *pictures))


def test_other_files(tmp_path: Path) -> None:
    root = source(tmp_path)
    (root / "annotations.xml").write_text("<annotation><folder>VOC</folder></annotation>")
    assert "is no annotation file of CVAT: it begins with <annotation>" in refused(tool("cvat", WHERE), root)
    (root / "annotations.xml").unlink()
    assert "annotations.xml: no such file" in refused(tool("cvat", WHERE), root)


def test_labels_of_a_task() -> None:
    labels = "<label><name>road</name><color>#ff8000</color></label><label><name>car</name></label>"
    text = f"<annotations><meta><job><labels>{labels}</labels></job></meta></annotations>"
    assert cvat.label_names(text.encode()) == {"road": (255, 128, 0), "car": None}


LABELMAP = (
    "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\ncar, old:0,0,142:wheel,door:\n"
)


def masks(root: Path, color: tuple[int, int, int] = (128, 64, 128), labelmap: str = LABELMAP) -> Path:
    image(root / "source", "JPEGImages/a.jpg")
    drawn = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    drawn[2:8, 2:10] = color
    save(root / "source/SegmentationClass/a.png", drawn)
    write(root / "source/labelmap.txt", labelmap)
    return root / "source"


def test_masks_with_a_labelmap(tmp_path: Path) -> None:
    where = SubsetSource("JPEGImages/*.jpg", "SegmentationClass/{stem}.png")
    recipe = Recipe({"train": where}, classes_file="labelmap.txt", label_kind="colors")
    labels, made = packed(recipe, masks(tmp_path))
    assert np.array_equal(labels["JPEGImages/a"], square(1))
    assert "car, old" in made.warnings[0]
    assert "unknown colour [1, 2, 3] (48 pixels)" in refused(recipe, masks(tmp_path, (1, 2, 3)))
    twice = LABELMAP.replace("0,0,142", "128,64,128")
    assert "two classes have the same colour" in refused(recipe, masks(tmp_path, labelmap=twice))
    assert "expected 'id name'" in refused(recipe, masks(tmp_path, labelmap="background:0,0::\n"))
