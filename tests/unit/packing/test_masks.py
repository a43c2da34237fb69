"""Masks of all the ways in which programs write them: read as they are meant, or refused with the reason."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.support.folder_source import (
    COLORS,
    ids,
    jpeg_bytes,
    labels_of,
    make_source,
    picture,
    recipe,
    refused,
    save,
)
from tests.support.tiff_files import FLOAT, SIGNED, tiff_bytes
from unimatch.codecs.opening import ORIENTATION, upright
from unimatch.errors import ConfigError
from unimatch.packing.folder import pack
from unimatch.packing.recipe import SubsetSource
from unimatch.shardset.archive import ShardSet

IDS = ids()  # 0, 1, 2 and 11 = not labelled
EXPECTED = np.where(IDS == 11, 255, IDS)
FEW = IDS % 3  # 0, 1, 2
ANY = {"train": SubsetSource("img/*.jpg", "lab/{stem}.{png,tif,jpg,webp,gif}")}


def as_file(array: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def source_of(tmp_path: Path, mask: bytes, ext: str = "tif") -> Path:
    source = make_source(tmp_path / "source", ("a",))
    (source / "lab" / "a.png").unlink()
    save(source / "lab" / f"a.{ext}", mask)
    return source


def with_alpha(*channels: np.ndarray) -> np.ndarray:
    return np.dstack([np.asarray(channel, np.uint8) for channel in channels])


def deep_png(*channels: np.ndarray) -> bytes:
    """Of 16 bits a channel, which Pillow does not write."""
    done, data = cv2.imencode(".png", np.dstack(channels).astype(np.uint16))
    assert done
    return data.tobytes()


@pytest.mark.parametrize(
    ("mask", "ext"),
    [
        (b"P5 16 12 255\n" + IDS.tobytes(), "tif"),
        (b"P5 16 12 65535\n" + IDS.astype(">u2").tobytes(), "tif"),
        (tiff_bytes(IDS.astype(np.float32), 32, FLOAT), "tif"),
        (tiff_bytes(IDS.astype(np.uint16), 16, big_endian=True), "tif"),
        (tiff_bytes(IDS.astype(np.int32), 32, SIGNED), "tif"),
        (tiff_bytes(IDS.astype(np.int16), 16, SIGNED, big_endian=True), "tif"),
        (tiff_bytes(IDS, 4, data=(IDS[:, ::2] << 4 | IDS[:, 1::2]).tobytes()), "tif"),
        (as_file(IDS.astype(np.uint16), "PNG"), "png"),
        (as_file(with_alpha(IDS, np.full_like(IDS, 255)), "PNG"), "png"),
        (as_file(with_alpha(IDS, IDS, IDS), "PNG"), "png"),
        (as_file(with_alpha(IDS, IDS, IDS, np.full_like(IDS, 99)), "PNG"), "png"),
        (as_file(with_alpha(IDS, IDS, IDS), "WEBP", lossless=True), "webp"),
    ],
)
def test_whole_numbers_of_any_kind_are_ids(tmp_path: Path, mask: bytes, ext: str) -> None:
    pack(recipe(subsets=ANY), source_of(tmp_path, mask, ext), tmp_path / "out")
    assert np.array_equal(labels_of(tmp_path / "out")["img/a"], EXPECTED)


def test_two_bits_and_one_bit(tmp_path: Path) -> None:
    two = (FEW[:, ::4] << 6 | FEW[:, 1::4] << 4 | FEW[:, 2::4] << 2 | FEW[:, 3::4]).tobytes()
    for bits, values, data in ((2, FEW, two), (1, FEW > 0, np.packbits(FEW > 0, axis=1).tobytes())):
        source = source_of(tmp_path / str(bits), tiff_bytes(FEW, bits, data=data))
        pack(recipe(subsets=ANY), source, tmp_path / str(bits) / "out")
        assert np.array_equal(labels_of(tmp_path / str(bits) / "out")["img/a"], values)


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (tiff_bytes(IDS / np.float32(2), 32, FLOAT), "96 of them are no whole numbers (such as 0.5)"),
        (tiff_bytes(np.where(IDS == 11, np.nan, IDS).astype(np.float32), 32, FLOAT), "is 'no data' NaN?"),
        (tiff_bytes(IDS.astype(np.float64), 64, FLOAT), "is a TIFF of 1 band of 64 bits (float), which"),
        (tiff_bytes(IDS, 8, photometric=0), "0 is white (MinIsWhite)"),
        (as_file(with_alpha(IDS, np.where(IDS == 2, 0, 255)), "PNG"), "has an alpha channel, and 48 transp"),
        (as_file(picture(), "PNG"), "has RGB pixels, expected one channel of ids; is it label_kind colors?"),
        (as_file(IDS, "JPEG"), "is a JPEG, which changes the values of pixels; export masks as PNG"),
        (as_file(IDS, "TIFF", compression="jpeg"), "is a TIFF compressed as JPEG"),
        (tiff_bytes(with_alpha(IDS, IDS), 8, extra=(0,)), "is a TIFF of 2 bands"),
        (deep_png(IDS, IDS, IDS), "has RGB pixels of 16 bits a channel; save ids as grey"),
        (deep_png(IDS, IDS, IDS, np.full_like(IDS, 255)), "has RGBA pixels of 16 bits a channel"),
        (tiff_bytes(np.dstack([IDS] * 3).astype(np.uint16), 16, photometric=2), "RGB pixels of 16 bits"),
        (b"P5 16 12 3\n" + FEW.tobytes(), "is a PGM or PPM whose white is 3"),
        (b"P5 16 12 1\n" + (FEW > 0).tobytes(), "is a PGM or PPM whose white is 1"),
        (b"P5 16 12 4095\n" + IDS.astype(">u2").tobytes(), "is a PGM or PPM whose white is 4095"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_true_reason(tmp_path: Path, mask: bytes, told: str) -> None:
    text = refused(source_of(tmp_path, mask), tmp_path / "out", subsets=ANY)
    assert "lab/a.tif: " in text and told in text


def test_colours_of_more_bits_are_refused(tmp_path: Path) -> None:
    table = np.asarray(COLORS, np.uint8)[FEW]
    source = source_of(tmp_path, deep_png(*np.moveaxis(table[..., ::-1], -1, 0)), "png")
    text = refused(source, tmp_path / "out", label_kind="colors", colors=COLORS, ignore_id=None, subsets=ANY)
    assert "lab/a.png: has RGB pixels of 16 bits a channel" in text


def test_the_colour_of_a_class_cannot_be_that_of_no_label(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", ("a",))
    changes: dict[str, Any] = {"label_kind": "colors", "colors": COLORS, "ignore_id": None}
    with pytest.raises(ConfigError, match=r"ignore_color \[0, 0, 142\] is the class 'car'"):
        pack(recipe(ignore_color=COLORS[1], **changes), source, tmp_path / "out")


def test_alpha_of_colour_masks(tmp_path: Path) -> None:
    """Black that is not seen is background; a colour that is not seen was rubbed out, or not."""
    table = np.zeros((12, 3), np.uint8)
    table[1], table[2] = COLORS[1], COLORS[2]
    colors = ((0, 0, 0), *COLORS[1:])
    changes: dict[str, Any] = {"label_kind": "colors", "colors": colors, "ignore_id": None, "subsets": ANY}
    seen = np.where(FEW > 0, 255, 0)
    source = source_of(tmp_path / "1", as_file(with_alpha(table[FEW], seen), "PNG"), "png")
    pack(recipe(**changes), source, tmp_path / "out")
    assert np.array_equal(labels_of(tmp_path / "out")["img/a"], FEW)
    seen = np.where(FEW == 1, 0, 255)
    source = source_of(tmp_path / "2", as_file(with_alpha(table[FEW], seen), "PNG"), "png")
    assert "48 transparent pixels have a value" in refused(source, tmp_path / "out2", **changes)


# Palettes


def palettes(root: Path, second: dict[int, tuple[int, int, int]], order: tuple[int, ...]) -> Path:
    """Masks a and b of FEW; b has its own palette, and its index `order[i]` where a has i."""
    source = make_source(root, ("a", "b"))
    first = {0: (0, 0, 0), 1: (200, 60, 60), 2: (60, 200, 60)}
    for name, palette, values in (("a", first, FEW), ("b", second, np.array(order, np.uint8)[FEW])):
        mask = Image.fromarray(values, "P")
        mask.putpalette([value for index in range(3) for value in palette[index]])
        mask.save(source / "lab" / f"{name}.png")
    return source


def test_palettes_in_which_a_colour_has_two_indices_are_refused(tmp_path: Path) -> None:
    swapped = {0: (0, 0, 0), 1: (60, 200, 60), 2: (200, 60, 60)}
    source = palettes(tmp_path / "source", swapped, (0, 2, 1))
    text = refused(source, tmp_path / "out")
    assert "palettes that differ" in text and "lab/a.png" in text and "lab/b.png" in text
    assert "[200, 60, 60]" in text and "label_kind: colors" in text and "palettes_may_differ: true" in text
    colors = tuple(swapped[index] for index in (0, 2, 1))
    pack(recipe(label_kind="colors", colors=colors, ignore_id=None), source, tmp_path / "by_colour")
    found = labels_of(tmp_path / "by_colour")
    assert np.array_equal(found["img/a"], FEW) and np.array_equal(found["img/b"], FEW)
    packed = pack(recipe(palettes_may_differ=True), source, tmp_path / "by_index")
    assert "palettes of masks differ" in packed.told[0] and not np.array_equal(
        labels_of(tmp_path / "by_index")["img/b"], FEW
    )


def test_palettes_that_differ_in_their_colours_alone_are_told(tmp_path: Path) -> None:
    source = palettes(tmp_path / "source", {0: (1, 1, 1), 1: (2, 2, 2), 2: (3, 3, 3)}, (0, 1, 2))
    (told,) = pack(recipe(), source, tmp_path / "out").told
    assert "the palettes of masks differ: index 0 is" in told and "lab/a.png" in told and "lab/b.png" in told


def test_palettes_in_another_order_than_the_colours_of_the_recipe_are_told(tmp_path: Path) -> None:
    colors = ((0, 0, 0), (60, 200, 60), (200, 60, 60))
    source = palettes(tmp_path / "source", {0: (0, 0, 0), 1: (200, 60, 60), 2: (60, 200, 60)}, (0, 1, 2))
    (told,) = pack(recipe(colors=colors), source, tmp_path / "out").told
    assert told.startswith("2 masks have palettes in which a class has the colour that the recipe gives to")
    assert pack(recipe(colors=(colors[0], colors[2], colors[1])), source, tmp_path / "out2").told == ()


def test_a_palette_that_names_no_colours_contradicts_nothing(tmp_path: Path) -> None:
    source = palettes(tmp_path / "source", {0: (0, 0, 0), 1: (0, 0, 0), 2: (0, 0, 0)}, (0, 1, 2))
    assert pack(recipe(), source, tmp_path / "out").told == ()


def test_a_palette_of_greys_may_hold_the_ids(tmp_path: Path) -> None:
    """Programs that make files smaller write the grey 11 as index 3 of a palette."""
    values = np.where(IDS == 11, 3, IDS)
    source = make_source(tmp_path / "source", ("a",))
    mask = Image.fromarray(values, "P")
    mask.putpalette([value for grey in (0, 1, 2, 11) for value in (grey, grey, grey)])
    mask.save(source / "lab" / "a.png")
    text = refused(source, tmp_path / "out")
    assert "unknown id 3 (48 pixels)" in text
    assert "indices of a palette that shows the known ids [0, 1, 2, 11]: save it as grey" in text
    known = recipe(id_map={0: 0, 1: 1, 2: 2, 3: 0, 11: 0}, ignore_id=None)
    (told,) = pack(known, source, tmp_path / "out").told
    assert "1 masks have palettes of greys that are known ids themselves" in told and "lab/a.png" in told


# Unknown values


def soft(tmp_path: Path, seed: int = 0) -> tuple[Path, np.ndarray]:
    """A mask of 0 and 255 with soft edges, and the mask that was meant."""
    hard = np.zeros((12, 16), np.uint8)
    hard[3:9, 4:12] = 255
    small = np.asarray(Image.fromarray(hard).resize((64, 48)).resize((16, 12), Image.Resampling.BICUBIC))
    blurred = small.astype(int) + np.random.default_rng(seed).integers(-9, 10, hard.shape)
    blurred[3, 4:12] = 120  # too far from both
    save(tmp_path / "img" / "a.jpg", jpeg_bytes(picture()))
    save(tmp_path / "lab" / "a.png", np.clip(blurred, 0, 255).astype(np.uint8))
    return tmp_path, hard


BINARY: dict[str, Any] = {"classes": ("no", "yes"), "ignore_id": None, "id_map": {0: 0, 255: 1}}


def test_nearly_two_values(tmp_path: Path) -> None:
    source, hard = soft(tmp_path / "source")
    text = refused(source, tmp_path / "out", **BINARY)
    assert "unknown id" in text and "soft edges" in text and "`label_tolerance: 64`" in text
    with pytest.raises(ConfigError, match="label_tolerance 128: two of the known ids .* at most 127"):
        pack(recipe(**BINARY, label_tolerance=128), source, tmp_path / "out")
    packed = pack(recipe(**BINARY, label_tolerance=64), source, tmp_path / "out")
    label = labels_of(tmp_path / "out")["img/a"]
    expected = np.where(hard > 0, 1, 0)
    expected[3, 4:12] = 255
    assert np.array_equal(label, expected)
    near, far = sorted(packed.told, key=lambda text: "further" in text)
    assert "pixels of 1 masks were taken as the nearest class, at most 64 away: lab/a.png" in near
    assert far.startswith("8 pixels of 1 masks are further than 64 from every class")
    assert list(packed.told) == ShardSet.open(tmp_path / "out").info["created"]["notes"]


def test_a_value_that_many_pixels_have_is_no_noise(tmp_path: Path) -> None:
    source, _ = soft(tmp_path / "source")
    values = np.asarray(Image.open(source / "lab" / "a.png")).copy()
    values[:2] = 128
    save(source / "lab" / "a.png", values)
    assert "unknown id 128 (32 pixels)" in refused(source, tmp_path / "out", **BINARY, label_tolerance=64)


def test_lossy_masks_need_a_tolerance(tmp_path: Path) -> None:
    source, hard = soft(tmp_path / "source")
    (source / "lab" / "a.png").unlink()
    save(source / "lab" / "a.jpg", as_file(hard, "JPEG", quality=70))
    text = refused(source, tmp_path / "out", **BINARY, subsets=ANY)
    assert "is a JPEG" in text and "`label_tolerance: 64`" in text
    pack(recipe(**BINARY, subsets=ANY, label_tolerance=100), source, tmp_path / "out")
    assert np.array_equal(labels_of(tmp_path / "out")["img/a"], np.where(hard > 0, 1, 0))


def test_near_colours(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", ("a",))
    colors = ((0, 0, 0), (255, 0, 0), (0, 255, 0))
    noise = np.random.default_rng(1).integers(-20, 21, (12, 16, 3))
    save(source / "lab" / "a.png", np.clip(np.array(colors)[FEW] + noise, 0, 255).astype(np.uint8))
    changes: dict[str, Any] = {"label_kind": "colors", "colors": colors, "ignore_id": None}
    assert "label_tolerance: 64" in refused(source, tmp_path / "out", **changes)
    pack(recipe(**changes, label_tolerance=20), source, tmp_path / "out")
    assert np.array_equal(labels_of(tmp_path / "out")["img/a"], FEW)


@pytest.mark.parametrize(
    ("values", "changes", "told"),
    [
        (np.where(IDS == 11, 255, IDS), {}, "if it means 'not labelled': `ignore_id: 255`"),
        (np.where(FEW > 0, 255, 0), {"classes": ("a", "b")}, "if it is class 1: `id_map: {0: 0, 255: 1}`"),
        (FEW + 1, {}, "if the ids count from 1: `first_id: 1`"),
        (np.where(IDS == 11, 254, IDS), {"ignore_id": 255}, "an `id_map` of all ids, with 254: 255 in it"),
    ],
)
def test_an_unknown_id_comes_with_the_line_to_write(
    tmp_path: Path, values: np.ndarray, changes: dict[str, Any], told: str
) -> None:
    source = make_source(tmp_path / "source", ("a",))
    save(source / "lab" / "a.png", values.astype(np.uint8))
    assert told in refused(source, tmp_path / "out", **{"ignore_id": None, **changes})


# Turned photos


def turned_source(root: Path, turn: int, mask: np.ndarray) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    save(root / "img" / "a.jpg", jpeg_bytes(picture(), exif=exif))
    save(root / "lab" / "a.png", mask)
    return root


@pytest.mark.parametrize("turn", [5, 6, 7, 8])
@pytest.mark.parametrize("drawn_on", ["upright", "stored"])
def test_the_size_of_a_mask_tells_a_quarter_turn(tmp_path: Path, turn: int, drawn_on: str) -> None:
    shown = np.where(upright(IDS, turn) == 11, 255, upright(IDS, turn))
    for name, mask, words in (
        ("a", IDS, "drawn on the stored pixels (by their size)"),
        ("b", upright(IDS, turn), "as drawn on the upright picture (by their size)"),
    ):
        source = turned_source(tmp_path / name, turn, mask)
        packed = pack(recipe(labels_drawn_on=drawn_on), source, tmp_path / name / "out")
        assert np.array_equal(labels_of(tmp_path / name / "out")["img/a"], shown)
        assert len(packed.told) == 1 and words in packed.told[0] and "lab/a.png" in packed.told[0]


@pytest.mark.parametrize("downscale", [1, 2])
@pytest.mark.parametrize("turn", [2, 3, 4])
def test_the_recipe_tells_where_sizes_do_not(tmp_path: Path, turn: int, downscale: int) -> None:
    source = turned_source(tmp_path / "source", turn, IDS)
    step = slice(downscale // 2, None, downscale)
    for drawn_on, expected in (("upright", EXPECTED), ("stored", upright(EXPECTED, turn))):
        out = tmp_path / drawn_on
        packed = pack(recipe(labels_drawn_on=drawn_on, downscale=downscale), source, out)
        assert np.array_equal(labels_of(out)["img/a"], expected[step, step])
        assert len(packed.told) == 1 and f"labels_drawn_on: {drawn_on}" in packed.told[0]
        assert packed.told[0].startswith("1 images with a mask were turned upright (EXIF rotation)")
    assert "labels_drawn_on" in ShardSet.open(tmp_path / "stored").info["created"]
    assert "labels_drawn_on" not in ShardSet.open(tmp_path / "upright").info["created"]


def test_a_mask_with_a_rotation_of_its_own(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", ("a",))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(np.rot90(IDS).copy()).save(source / "lab" / "a.png", exif=exif)
    packed = pack(recipe(), source, tmp_path / "out")
    assert np.array_equal(labels_of(tmp_path / "out")["img/a"], EXPECTED)
    assert packed.told == ("1 masks were turned upright by an EXIF rotation of their own: lab/a.png",)


def pair_source(root: Path, turns: tuple[int, int], mask: np.ndarray) -> Path:
    for name, turn in zip(("img", "later"), turns, strict=True):
        exif = Image.Exif()
        exif[ORIENTATION] = turn
        stored = picture(16, 12) if turn >= 5 else picture()
        save(root / name / "a.jpg", jpeg_bytes(stored, exif=exif))
    save(root / "lab" / "a.png", mask)
    return root


PAIRS = {"train": SubsetSource("img/*.jpg", "lab/{stem}.png", "later/{stem}.jpg")}


@pytest.mark.parametrize("turns", [(1, 3), (3, 1), (2, 3), (3, 6), (6, 8)])
def test_no_mask_lies_on_the_stored_pixels_of_a_pair_turned_in_two_ways(
    tmp_path: Path, turns: tuple[int, int]
) -> None:
    source = pair_source(tmp_path / "source", turns, IDS)
    told = refused(source, tmp_path / "out", subsets=PAIRS, labels_drawn_on="stored")
    assert f"later/a.jpg: has the EXIF rotation {turns[1]}, img/a.jpg {turns[0]}" in told
    packed = pack(recipe(subsets=PAIRS), source, tmp_path / "out")
    assert np.array_equal(labels_of(tmp_path / "out")["img/a"], EXPECTED)
    assert len(packed.told) == 1 and "were turned upright (EXIF rotation)" in packed.told[0]


def test_a_pair_whose_second_date_alone_is_turned(tmp_path: Path) -> None:
    """Its size tells that the mask lies on the upright pictures."""
    source = pair_source(tmp_path / "source", (1, 6), IDS)
    packed = pack(recipe(subsets=PAIRS, labels_drawn_on="stored"), source, tmp_path / "out")
    assert np.array_equal(labels_of(tmp_path / "out")["img/a"], EXPECTED)
    assert packed.told[0].startswith("1 images of the second date were turned upright")
