from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from tests.support.folder_source import (
    CLASSES,
    COLORS,
    RECIPES,
    ids,
    jpeg_bytes,
    make_source,
    only,
    picture,
    recipe,
    refused,
    save,
)
from unimatch import config
from unimatch.codecs.decode import decode_image, decode_label
from unimatch.errors import ConfigError, DataError
from unimatch.packing import pack as packing
from unimatch.packing.folder import pack
from unimatch.packing.names import sample_key
from unimatch.packing.recipe import Recipe, SubsetSource
from unimatch.shardset.archive import ShardSet


def test_what_is_stored(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    save(source / "more" / "x.png", picture())
    subsets = {"train": SubsetSource("img/*.jpg", "lab/{stem}.png"), "extra": SubsetSource("more/*.png")}
    packed = pack(recipe(subsets=subsets, colors=COLORS), source, tmp_path / "out")
    shards = ShardSet.open(tmp_path / "out")
    assert packed.subsets == {"train": (3, 3), "extra": (1, 0)} and packed.notes == {}
    assert shards.taxonomy.names == CLASSES and shards.taxonomy.colors == COLORS
    assert sorted(shards.keys(shards.rows("train"))) == ["img/a", "img/b", "img/c"]
    for row in shards.rows("train"):
        record = shards.read(row)
        assert record.image == (source / f"{record.key}.jpg").read_bytes()
        label = decode_label(record.label or b"", record.where)
        assert np.array_equal(label, np.where(ids() == 11, 255, ids()))
        assert (record.width, record.height) == (16, 12)
    pixels = shards.class_pixels("train")
    assert pixels is not None and pixels.tolist() == [3 * 48] * 3
    extra = shards.read(shards.rows("extra")[0])
    assert extra.label is None and extra.image == (source / "more" / "x.png").read_bytes()


def test_samples_are_shuffled_by_the_seed(tmp_path: Path) -> None:
    names = tuple(f"{i:02d}" for i in range(20))
    source = make_source(tmp_path / "source", names)

    def order(out: str, seed: int) -> list[str]:
        pack(recipe(seed=seed), source, tmp_path / out)
        shards = ShardSet.open(tmp_path / out)
        return shards.keys(shards.rows("train"))

    first = order("one", 0)
    assert sorted(first) == [f"img/{name}" for name in names] and first != sorted(first)
    assert order("two", 1) != first and order("three", 0) == first


def test_worker_count_does_not_change_a_byte(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", tuple("abcdefghijklm"))
    for workers in (1, 2):
        pack(recipe(), source, tmp_path / str(workers), workers=workers)
    files = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert files == ["index.json", "index.npy", "train-00000.tar"]
    for name in files:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


@pytest.mark.parametrize(
    "path", ["a/b.c/d.e.jpg", "a b/\u00fc%20.png", "x%41.jpg", "~a+b(1).jpg", "\u6771.jpg"]
)
def test_keys_are_safe_and_can_be_undone(path: str) -> None:
    key = sample_key(path)
    assert set(key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-/%")
    assert unquote(key) == path.rpartition(".")[0]


def test_odd_names_are_packed(tmp_path: Path) -> None:
    names = ("v1.2 final", "\u00fcber", "100%", "v1%2E2 final")
    pack(recipe(), make_source(tmp_path / "source", names), tmp_path / "out")
    shards = ShardSet.open(tmp_path / "out")
    assert sorted(unquote(key) for key in shards.keys(np.arange(4))) == sorted(
        f"img/{name}" for name in names
    )


def test_folders_below_the_glob(tmp_path: Path) -> None:
    for name in ("x/1", "x/y/2"):
        save(tmp_path / "source" / "img" / f"{name}.png", picture())
        save(tmp_path / "source" / "lab" / f"{name}_ids.png", ids())
    subsets = {"train": SubsetSource("img/**/*.png", "lab/{dir}/{stem}_ids.png")}
    assert pack(recipe(subsets=subsets), tmp_path / "source", tmp_path / "out").subsets == {"train": (2, 2)}


def test_palette_and_mapped_ids(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", ("a",))
    palette = Image.fromarray(np.array([[7, 26, 33, 200]], np.uint8).repeat(12, 0).repeat(4, 1), "P")
    palette.putpalette([v for i in range(256) for v in (i, 255 - i, 0)])
    palette.save(source / "lab" / "a.png")
    pack(recipe(id_map={7: 2, 26: 0, 33: 255}, ignore_id=200), source, tmp_path / "out")
    _, label = only(tmp_path / "out")
    assert label is not None and label[5].tolist() == [2] * 4 + [0] * 4 + [255] * 8


@pytest.mark.parametrize("depth", [2, 4])
def test_ids_of_few_bits_are_taken_as_stored(tmp_path: Path, depth: int) -> None:
    # Pillow scales such grey values to 0..255, which would turn class 1 of a 4-bit file into 17.
    source = make_source(tmp_path / "source", ("a",))
    bits = "".join(f"{value:0{depth}b}" for value in [0, 1, 2, 1] * 4)
    row = b"\0" + bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 16, 12, depth, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 12)) + chunk(b"IEND", b"")
    save(source / "lab" / "a.png", b"\x89PNG\r\n\x1a\n" + body)
    pack(recipe(), source, tmp_path / "out")
    _, label = only(tmp_path / "out")
    assert label is not None and label[3].tolist() == [0, 1, 2, 1] * 4


def test_colors_become_ids(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", ("a",))
    table = np.zeros((12, 3), np.uint8)
    table[:3], table[11] = COLORS, (1, 2, 3)
    save(source / "lab" / "a.png", table[ids()])
    pack(recipe(label_kind="colors", colors=COLORS, ignore_color=(1, 2, 3)), source, tmp_path / "out")
    _, label = only(tmp_path / "out")
    assert label is not None and np.array_equal(label, np.where(ids() == 11, 255, ids()))


def cell_shares(pixels: int, cells: int) -> list[np.ndarray]:
    """The part of each of `pixels` pixels that lies in each of `cells` equal cells."""
    edges, start = np.linspace(0, pixels, cells + 1), np.arange(pixels)
    return [
        np.clip(np.minimum(start + 1, b) - np.maximum(start, a), 0, 1)
        for a, b in zip(edges, edges[1:], strict=False)
    ]


def test_downscale(tmp_path: Path) -> None:
    source = tmp_path / "source"
    image, label = picture(13, 17, seed=3), np.arange(13 * 17, dtype=np.uint8).reshape(13, 17) % 3
    save(source / "img" / "a.png", image)
    save(source / "lab" / "a.png", label)
    subsets = {"train": SubsetSource("img/*.png", "lab/{stem}.png")}
    pack(recipe(downscale=4, subsets=subsets), source, tmp_path / "out")
    small, small_label = only(tmp_path / "out")
    assert small.shape == (3, 4, 3) and small_label is not None and small_label.shape == (3, 4)
    # 13 and 17 are no multiples of 4: the whole picture is kept, so a cell is 13/3 by 17/4 pixels.
    weights_y, weights_x = cell_shares(13, 3), cell_shares(17, 4)
    for i in range(3):
        for j in range(4):
            weight = np.outer(weights_y[i], weights_x[j])[..., None]
            assert np.abs(small[i, j] - (image * weight).sum((0, 1)) / weight.sum()).max() <= 0.51
            assert small_label[i, j] == label[int((i + 0.5) * 13 / 3), int((j + 0.5) * 17 / 4)]


def test_images_that_decoders_read_differently_are_encoded_anew(tmp_path: Path) -> None:
    source = tmp_path / "source"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees: 16x12 stored, 12x16 seen
    save(source / "img" / "turned.jpg", jpeg_bytes(picture(), exif=exif))
    save(source / "lab" / "turned.png", np.zeros((16, 12), np.uint8))
    file = io.BytesIO()
    Image.fromarray(picture()).convert("CMYK").save(file, "JPEG", quality=95)
    save(source / "img" / "cmyk.jpg", file.getvalue())
    save(source / "lab" / "cmyk.png", ids())
    packed = pack(recipe(), source, tmp_path / "out")
    assert packed.notes == {"CMYK JPEG": 1, "EXIF rotation": 1}
    shards = ShardSet.open(tmp_path / "out")
    stored = {r.key: decode_image(r.image, r.where) for r in map(shards.read, range(2))}
    seen = np.rot90(picture(), -1).astype(int)
    assert np.abs(stored["img/turned"].astype(int) - seen).mean() < 12
    assert np.abs(stored["img/cmyk"].astype(int) - picture().astype(int)).mean() < 12


def test_all_problems_are_told_together(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", tuple("abcdefghij"))
    (source / "lab" / "a.png").unlink()
    whole = (source / "img" / "b.jpg").read_bytes()
    (source / "img" / "b.jpg").write_bytes(whole[:-20])
    wrong = ids()
    wrong[2, 3:5] = 37
    save(source / "lab" / "c.png", wrong)
    save(source / "lab" / "d.png", ids(12, 12))
    save(source / "lab" / "e.png", picture())
    (source / "lab" / "f.png").write_bytes(b"no picture")
    save(source / "img" / "g.png", picture())
    subsets = {
        "train": SubsetSource("img/*.jpg", "lab/{stem}.png"),
        "more": SubsetSource("img/g.*", "lab/{stem}.png"),
        "none": SubsetSource("nowhere/*.jpg"),
    }
    text = refused(source, tmp_path / "out", subsets=subsets)
    assert text.startswith("9 problems in ") and "nothing was written" in text
    for line in (
        "lab/a.png: no such file (label of img/a.jpg)",
        "img/b.jpg: the image is cut short",
        "lab/c.png: unknown id 37 (2 pixels)",
        "lab/d.png: is 12x12 pixels, its image img/d.jpg 16x12",
        "lab/e.png: has RGB pixels, expected one channel of ids; is it label_kind colors?",
        "lab/f.png: is not a picture",
        "img/g.jpg (more) has the key of img/g.jpg (train): img/g",
        "img/g.png (more) has the key of img/g.jpg (train): img/g",
        "none: no file matches 'nowhere/*.jpg'",
    ):
        assert f"  {line}" in text


def test_a_label_on_its_side_is_of_another_size(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", ("a",))
    save(source / "lab" / "a.png", ids().T.copy())
    assert "lab/a.png: is 12x16 pixels, its image img/a.jpg 16x12" in refused(source, tmp_path / "out")


def test_classes_of_one_colour_cannot_be_told_apart(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", ("a",))
    with pytest.raises(DataError, match="two classes have the same colour"):
        pack(recipe(label_kind="colors", colors=COLORS[:2] + COLORS[:1]), source, tmp_path / "out")


def test_wrong_colours(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", ("a", "b"))
    save(source / "lab" / "b.png", np.full((12, 16, 3), 9, np.uint8))
    text = refused(source, tmp_path / "out", label_kind="colors", colors=COLORS)
    assert "lab/a.png: has one channel (L), expected RGB colours; is it label_kind ids?" in text
    assert "lab/b.png: unknown colour [9, 9, 9] (192 pixels)" in text


def test_many_problems_are_counted_and_every_kind_is_shown(tmp_path: Path) -> None:
    names = tuple(f"{i:02d}" for i in range(30))
    source = make_source(tmp_path / "source", names)
    for name in names[:-1]:
        (source / "lab" / f"{name}.png").unlink()
    save(source / "lab" / "29.png", np.full((12, 16), 99, np.uint8))
    lines = refused(source, tmp_path / "out").splitlines()
    assert len(lines) == 1 + packing.MAX_LINES + 1
    assert "29 x missing label, 1 x unknown id" in lines[0] and lines[-1] == "  ... and 10 more"
    assert any("99 (192 pixels)" in line for line in lines)


def test_an_existing_folder_is_refused_and_replaced_only_by_a_whole_set(tmp_path: Path) -> None:
    source, out = make_source(tmp_path / "source"), tmp_path / "out"
    pack(recipe(), source, out)
    before = (out / "index.json").read_bytes()
    with pytest.raises(DataError, match="not empty"):
        pack(recipe(seed=1), source, out)
    label = (source / "lab" / "a.png").read_bytes()
    (source / "lab" / "a.png").unlink()
    with pytest.raises(DataError, match="missing label"):
        pack(recipe(seed=1), source, out, overwrite=True)
    assert (out / "index.json").read_bytes() == before and len(ShardSet.open(out)) == 3
    (source / "lab" / "a.png").write_bytes(label)
    pack(recipe(seed=1), source, out, overwrite=True)
    assert json.loads((out / "index.json").read_bytes())["created"]["seed"] == 1
    (out / "thesis.docx").write_text("dear")
    with pytest.raises(DataError, match="thesis.docx"):
        pack(recipe(), source, out, overwrite=True)
    assert (out / "thesis.docx").exists()


def test_classes_file(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", ("a",))
    (source / "classes.txt").write_text(
        "# id name colour\n0 road [1, 2, 3]\n\n1 big car 4 5 6\n11 void 0 0 0\n2 sky (7,8,9)\n"
    )
    pack(recipe(classes=(), classes_file="classes.txt"), source, tmp_path / "out")
    taxonomy = ShardSet.open(tmp_path / "out").taxonomy
    assert taxonomy.names == ("road", "big car", "sky") and taxonomy.colors == (
        (1, 2, 3),
        (4, 5, 6),
        (7, 8, 9),
    )
    pixels = ShardSet.open(tmp_path / "out").class_pixels("train")
    assert pixels is not None and pixels.tolist() == [48, 48, 48]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("road 0\n", "classes.txt:1: expected 'id name'"),
        ("0 road\n0 car\n", "classes.txt:2: the id 0 is given twice"),
        ("0 road 1 2 999\n1 car 0 0 0\n", "classes.txt:1: colour values"),
        ("0 road 1 2 3\n1 car\n", "give every class a colour"),
    ],
)
def test_bad_classes_file(tmp_path: Path, text: str, message: str) -> None:
    source = make_source(tmp_path / "source", ("a",))
    (source / "classes.txt").write_text(text)
    assert message in refused(source, tmp_path / "out", classes=(), classes_file="classes.txt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subsets": {}}, "subsets"),
        ({"subsets": {"a-b": SubsetSource("x")}}, "letters, digits"),
        ({"classes": ()}, "either classes or classes_file"),
        ({"classes_file": "c.txt"}, "either classes or classes_file"),
        ({"colors": COLORS[:2]}, "one colour a class"),
        ({"label_kind": "colors"}, "colors must be given"),
        ({"label_kind": "colors", "colors": COLORS, "id_map": {1: 1}}, "id_map"),
        ({"downscale": 0}, "downscale must be at least 1"),
        ({"ignore_color": (0, 0, 256)}, "0 to 255"),
    ],
)
def test_bad_recipes(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(**changes)


@pytest.mark.parametrize("labels", ["/x/{stem}.png", "../{stem}.png", "{what}/{stem}.png", "one.png", ""])
def test_bad_label_templates(labels: str) -> None:
    with pytest.raises(ConfigError, match="labels"):
        SubsetSource("img/*.jpg", labels)


@pytest.mark.parametrize("changes", [{"ignore_id": 1}, {"id_map": {0: 3}}])
def test_ids_that_contradict_the_classes(tmp_path: Path, changes: dict) -> None:
    with pytest.raises(ConfigError, match="ignore_id|id_map"):
        pack(recipe(**changes), make_source(tmp_path / "source"), tmp_path / "out")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_load(path: Path) -> None:
    train = config.load(path, Recipe).subsets["train"]
    assert train.labels is not None or train.annotations is not None


def test_camvid(tmp_path: Path, real_data: Path) -> None:
    camvid = config.load(RECIPES / "camvid.yaml", Recipe)
    camvid.subsets = {"val": camvid.subsets["val"]}
    camvid.subsets["val"].images = "images/val/0016E5_07*.jpg"  # a part of it, to be quick
    packed = pack(camvid, real_data / "camvid", tmp_path / "out")
    shards = ShardSet.open(tmp_path / "out")
    assert packed.subsets == {"val": (21, 21)} and shards.taxonomy.num_classes == 11
    assert {(int(row["width"]), int(row["height"])) for row in shards.index} == {(240, 180)}
    pixels = shards.class_pixels("val")
    assert pixels is not None and 0 < pixels.sum() < 21 * 240 * 180
