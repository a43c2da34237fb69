"""What is there and not packed is counted and named; linked folders are followed; what is ambiguous stops."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from tests.support.folder_source import (
    ids,
    jpeg_bytes,
    labels_of,
    make_source,
    picture,
    recipe,
    refused,
    save,
)
from tests.support.tiff_files import tiff_bytes
from unimatch.codecs.encode import png
from unimatch.packing.folder import pack
from unimatch.packing.names import sample_key, stems_of
from unimatch.packing.recipe import SubsetSource
from unimatch.shardset.archive import ShardSet

DEEP = {"train": SubsetSource("img/**/*.png", "lab/{dir}/{stem}.png")}


def add(root: Path, name: str, seed: int = 0, label: bool = True) -> None:
    save(root / "img" / f"{name}.png", picture(seed=seed))
    if label:
        save(root / "lab" / f"{name}.png", ids())


def keys(out: Path) -> list[str]:
    shards = ShardSet.open(out)
    return sorted(shards.keys(np.arange(len(shards))))


# Folders


def test_linked_folders_are_followed_without_end(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number, name in enumerate(("a/1", "b/2", "b/deep/3", "c/4")):
        add(source, name, number)
    (source / "img" / "b").rename(tmp_path / "disk")
    (source / "img" / "b").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "deep" / "up").symlink_to(tmp_path / "disk")  # a circle outside
    (source / "img" / "a" / "top").symlink_to("../..")  # and one inside
    (source / "img" / "twin").symlink_to("c")
    packed = pack(recipe(subsets=DEEP), source, tmp_path / "out")
    assert keys(tmp_path / "out") == ["img/a/1", "img/b/2", "img/b/deep/3", "img/c/4"]
    (told,) = packed.told
    assert "3 linked folders lead back" in told and "img/a/top, img/b/deep/up, img/twin" in told


def test_hidden_folders_and_links_to_nowhere_are_told(tmp_path: Path) -> None:
    source = tmp_path / "source"
    add(source, "a")
    add(source, ".ipynb_checkpoints/a-checkpoint", 1, label=False)
    save(source / "img" / "._a.png", b"left by a file manager")
    os.symlink("../annex/b.png", source / "img" / "b.png")
    hidden, broken = pack(recipe(subsets=DEEP), source, tmp_path / "out").told
    assert keys(tmp_path / "out") == ["img/a"]
    assert hidden.startswith("1 folders whose names begin with a dot") and ".ipynb_checkpoints" in hidden
    assert broken.startswith("1 links lead nowhere") and "img/b.png" in broken and "git annex get" in broken


# Files that nothing uses


def test_pictures_that_the_glob_misses_and_masks_without_an_image(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", ("a", "b"))
    for name in ("c.JPG", "d.png"):
        save(source / "img" / name, jpeg_bytes(picture()))
        save(source / "lab" / f"{name[0]}.png", ids())
    for name in "wxyz":
        save(source / "lab" / f"{name}.png", ids())
    save(source / "img" / "notes.txt", b"not a picture")
    packed = pack(recipe(), source, tmp_path / "out")
    missed, unused = packed.told
    assert missed == (
        "train: 2 pictures beside those of 'img/*.jpg' are not taken (2 of them with a label): img/c.JPG, "
        "img/d.png; a glob takes several extensions by {JPG,jpg,png}"
    )
    assert unused.startswith("6 files look like labels (lab/{stem}.png), but belong to no image: lab/c.png, ")
    assert unused.endswith("lab/d.png, lab/w.png, ...")
    assert ShardSet.open(tmp_path / "out").info["created"]["notes"] == list(packed.told)


def test_what_another_subset_or_a_list_has_is_no_leftover(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", tuple("abc"))
    save(source / "img" / "d.png", picture())
    save(source / "B" / "a.jpg", jpeg_bytes(picture(seed=4)))
    (source / "train.txt").write_text("a\n")
    subsets = {
        "train": SubsetSource("img/*.jpg", "lab/{stem}.png", "B/{stem}.jpg", lists=("train.txt",)),
        "extra": SubsetSource("img/*.png"),
    }
    packed = pack(recipe(subsets=subsets), source, tmp_path / "out")
    assert packed.told == () and packed.subsets == {"train": (1, 1), "extra": (1, 0)}
    assert "notes" not in ShardSet.open(tmp_path / "out").info["created"]


@pytest.mark.parametrize(
    "labels", ["{dir}/lab/{stem}_ids.png", "lab/{dir}/{stem}_ids.png", "img/{stem}_m.png"]
)
def test_unused_masks_are_found_for_any_template(tmp_path: Path, labels: str) -> None:
    source = tmp_path / "source"
    image = "s/a.jpg" if labels.startswith("{dir}") else "img/s/a.jpg"
    images = "*/*.jpg" if labels.startswith("{dir}") else "img/*/*.jpg"
    save(source / image, jpeg_bytes(picture()))
    for stem in ("a", "b"):
        save(source / labels.replace("{dir}", "s").replace("{stem}", stem), ids())
    (told,) = pack(recipe(subsets={"train": SubsetSource(images, labels)}), source, tmp_path / "out").told
    assert told.startswith("1 files look like labels") and "/b_" in told


def test_bands_and_pages_are_left_out_on_demand(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", ("a",))
    bands = np.dstack([picture(), ids(), ids()])
    save(source / "img" / "a.tif", tiff_bytes(bands, 8, photometric=2, extra=(0, 0)))
    (source / "img" / "a.jpg").unlink()
    subsets = {"train": SubsetSource("img/*.tif", "lab/{stem}.png")}
    assert "img/a.tif: is a TIFF of 5 bands" in refused(source, tmp_path / "out", subsets=subsets)
    (told,) = pack(recipe(subsets=subsets, drop_extra=True), source, tmp_path / "out").told
    assert told == "1 files have 5 bands, of which only the first picture in RGB was taken: img/a.tif"


# Names


def test_one_label_for_two_images_is_refused_unless_that_is_meant(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number, folder in enumerate(("s1", "s2")):
        add(source, f"{folder}/1", number, label=False)
    save(source / "lab" / "1.png", ids())
    subsets = {"train": SubsetSource("img/*/*.png", "lab/{stem}.png")}
    text = refused(source, tmp_path / "out", subsets=subsets)
    assert "lab/1.png: is the label of 2 images (img/s1/1.png, img/s2/1.png)" in text
    assert "{dir}" in text and "shared_labels: true" in text
    pack(recipe(subsets=subsets, shared_labels=True), source, tmp_path / "out")
    assert len(labels_of(tmp_path / "out")) == 2


def test_one_second_image_for_two_pairs_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number, folder in enumerate(("s1", "s2")):
        add(source, f"{folder}/1", number)
    save(source / "B" / "1.png", picture(seed=3))
    where = SubsetSource("img/*/*.png", "lab/{dir}/{stem}.png", second="B/{stem}.png")
    text = refused(source, tmp_path / "out", subsets={"train": where})
    assert "B/1.png: is the second image of 2 images (img/s1/1.png, img/s2/1.png)" in text


def test_the_whole_file_name_and_several_label_extensions(tmp_path: Path) -> None:
    source = tmp_path / "source"
    save(source / "img" / "a.jpg", jpeg_bytes(picture()))
    save(source / "img" / "b{x}.png", picture(seed=1))
    save(source / "lab" / "a.jpg.png", ids())
    save(source / "lab" / "b{x}.png.bmp", ids())
    subsets = {"train": SubsetSource("img/*.{jpg,png}", "lab/{file}.{png,bmp}")}
    pack(recipe(subsets=subsets), source, tmp_path / "out")
    assert len(labels_of(tmp_path / "out")) == 2
    save(source / "lab" / "a.jpg.bmp", ids())
    text = refused(source, tmp_path / "out2", subsets=subsets)
    assert "1 x several labels" in text
    assert "img/a.jpg: lab/a.jpg.png and lab/a.jpg.bmp both fit 'lab/{file}.{png,bmp}'; keep one" in text


@pytest.mark.parametrize("label", ["a.png", "a.ome.png"])
def test_the_stem_of_double_suffixes(tmp_path: Path, label: str) -> None:
    assert stems_of("a.nii.gz") == ["a", "a.nii"] and stems_of("v1.2.png") == ["v1.2"]
    assert sample_key("b/a.nii.gz") == "b/a" and sample_key("b/a.b.gz") == "b/a%2Eb"
    source = tmp_path / "source"
    save(source / "img" / "a.ome.tif", tiff_bytes(picture(), 8, photometric=2))
    save(source / "lab" / label, ids())
    subsets = {"train": SubsetSource("img/*.tif", "lab/{stem}.png")}
    assert pack(recipe(subsets=subsets), source, tmp_path / "out").subsets == {"train": (1, 1)}


def form(kind: str, text: str) -> str:
    return unicodedata.normalize(kind, text)


@pytest.mark.parametrize(("disk", "mask"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_fit_in_either_unicode_form(tmp_path: Path, disk: str, mask: str) -> None:
    source = tmp_path / "source"
    save(source / form(disk, "Bilder S\u00fcd") / form(disk, "Z\u00fcrich.png"), picture())
    save(source / form(mask, "Masken S\u00fcd") / form(mask, "Z\u00fcrich.png"), ids())
    (source / form(mask, "w\u00e4hle.txt")).write_text(form(mask, "Z\u00fcrich.png\n"), encoding="utf-8")
    where = SubsetSource(
        form(mask, "Bilder S\u00fcd/*.png"),
        form(disk, "Masken S\u00fcd/{stem}.png"),
        lists=(form(disk, "w\u00e4hle.txt"),),
    )
    (told,) = pack(recipe(subsets={"train": where}), source, tmp_path / "out").told
    assert told.startswith("1 files were found although their names are composed otherwise (Unicode)")
    assert len(labels_of(tmp_path / "out")) == 1


# Bad samples


def test_a_few_bad_images_are_left_out_on_demand(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", tuple(f"{i:02d}" for i in range(30)))
    (source / "lab" / "03.png").unlink()
    save(source / "img" / "07.jpg", b"no picture")
    text = refused(source, tmp_path / "out")
    assert text.endswith("all of them are of 2 images, which skip_bad: 2 leaves out")
    assert "2 problems" in refused(source, tmp_path / "out", skip_bad=1)
    packed = pack(recipe(skip_bad=2), source, tmp_path / "out")
    assert packed.subsets == {"train": (28, 28)} and "img/03" not in keys(tmp_path / "out")
    (told,) = packed.told
    assert told.startswith("2 images were left out (skip_bad): ") and "lab/03.png: no such file" in told
    assert "img/07.jpg: is not a picture" in told
    save(source / "lab" / "04.png", png(np.full((12, 16), 99, np.uint8)))
    assert "3 problems" in refused(source, tmp_path / "out2", skip_bad=2)


def test_an_ambiguous_layout_is_not_left_out(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", ("a", "b"))
    where = SubsetSource("img/*.jpg", "lab/{stem}.png")
    subsets = {"train": where, "again": SubsetSource("img/a.jpg", "lab/{stem}.png")}
    assert "duplicate key" in refused(source, tmp_path / "out", subsets=subsets, skip_bad=9)
