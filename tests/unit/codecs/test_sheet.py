"""Sheets of pictures: bounded in size, every class in the legend, no text over a neighbour."""

import numpy as np
import pytest

from unimatch.codecs import sheet as sheets
from unimatch.codecs.picture import hatching, scaled
from unimatch.codecs.sheet import (
    BREAK,
    GAP,
    LINE,
    MARGIN,
    SMALLEST,
    SWATCH,
    TILE,
    WIDTH,
    Sample,
    class_legend,
    legend_picture,
    notice,
    sheet,
    tile_side,
)
from unimatch.taxonomy import default_colors

LONG = "a_run-of/many.settings " * 8


def blocks(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    """How many squares, of a swatch's size without its edge, have this colour."""
    inner = SWATCH - 2
    same = (picture == np.array(color, np.uint8)).all(axis=2)
    table = np.pad(same, ((1, 0), (1, 0))).astype(int).cumsum(0).cumsum(1)
    sums = table[inner:, inner:] - table[:-inner, inner:] - table[inner:, :-inner] + table[:-inner, :-inner]
    return int((sums == inner**2).sum())


@pytest.mark.parametrize("count", [2, 3, 19, 150])
def test_a_legend_has_every_class_once_in_its_colour(count: int) -> None:
    colors = default_colors(count)
    names = [f"class {number}" for number in range(count)]
    names[1] = LONG
    entries = class_legend(names, colors)
    assert [name for name, _ in entries] == [*names, "not labelled"]
    picture = legend_picture(entries)
    assert [blocks(picture, color) for color in colors] == [1] * count
    assert np.array_equal(entries[-1][1], hatching(SWATCH, SWATCH))
    assert picture.shape[1] <= 700 and picture.shape[0] <= (count + 1) * LINE + 2 * MARGIN


def test_the_class_that_pictures_leave_clear_has_an_empty_swatch() -> None:
    entries = class_legend(["unchanged", "changed"], ((0, 0, 0), (255, 50, 30)), clear=0)
    assert (entries[0][1] == 255).all() and (entries[1][1] == (255, 50, 30)).all()
    picture = legend_picture(entries)
    assert blocks(picture, (0, 0, 0)) == 0 and blocks(picture, (255, 50, 30)) == 1


def test_every_name_is_written() -> None:
    """Each entry leaves ink beside its swatch, in letters that are not Latin too, and up to the edge."""
    for name in ("sky", "Fu\u00dfg\u00e4nger", "\u4eba\u884c\u9053", "\u0434\u043e\u0440\u043e\u0433\u0430"):
        picture = legend_picture([(name, np.zeros((SWATCH, SWATCH, 3), np.uint8))])
        ink = (picture[:, MARGIN + SWATCH + 4 :] < 128).any(axis=(0, 2))
        assert ink.sum() > 10 and np.flatnonzero(ink)[0] < 6
        missing = legend_picture([("\uffff" * len(name), np.zeros((SWATCH, SWATCH, 3), np.uint8))])
        assert not np.array_equal(picture, missing)


@pytest.mark.parametrize("columns", [1, 3, 5, 9, 40, 500])
def test_pictures_shrink_where_columns_are_many(columns: int) -> None:
    side = tile_side(columns)
    assert SMALLEST <= side <= TILE
    tile = np.zeros((side, side, 3), np.uint8)
    made = sheet([Sample([tile] * columns)])
    assert made.shape[1] <= max(WIDTH, columns * (SMALLEST + GAP) + 2 * MARGIN)
    assert columns > 5 or side == TILE
    assert columns < 9 or columns > 40 or made.shape[1] > 0.95 * WIDTH


@pytest.mark.parametrize("shape", [(3000, 4000, 3), (7, 5, 3), (20, 4000, 3), (4000, 20)])
def test_a_sheet_is_bounded_whatever_its_images_are(shape: tuple[int, ...]) -> None:
    image = scaled(np.full(shape, 90, np.uint8), tile_side(4))
    samples = [Sample([image] * 4, LONG)] * 6
    made = sheet(samples, [LONG] * 4, legend=class_legend([LONG + "1", LONG + "2"], default_colors(2)))
    assert made.dtype == np.uint8 and made.shape[1] <= 4 * (TILE + GAP) + 2 * MARGIN
    assert made.shape[0] <= 6 * (TILE + LINE + BREAK) + 5 * LINE + 2 * MARGIN


def test_pictures_stand_where_they_should_with_their_own_size() -> None:
    tiles = [np.full((60 + 10 * k, 70 + k, 3), 10 + k, np.uint8) for k in range(3)]
    made = sheet([Sample(tiles[:2]), Sample([tiles[2], np.full((5, 6), 99, np.uint8)])])
    columns = (MARGIN, MARGIN + 72 + GAP)
    rows = (MARGIN, MARGIN + 70 + BREAK - GAP)
    for tile, top, left in zip(
        tiles, (rows[0], rows[0], rows[1]), (columns[0], columns[1], columns[0]), strict=True
    ):
        assert (made[top : top + tile.shape[0], left : left + tile.shape[1]] == tile).all()
    assert (made[rows[1] : rows[1] + 5, columns[1] : columns[1] + 6] == 99).all()
    assert int((made != 255).any(axis=2).sum()) == 60 * 70 + 70 * 71 + 80 * 72 + 5 * 6
    assert made.shape == (rows[1] + 80 + BREAK - GAP + MARGIN, columns[1] + 71 + MARGIN, 3)


def test_several_samples_in_a_row() -> None:
    tile = np.full((64, 64, 3), 7, np.uint8)
    made = sheet([Sample([tile, tile], "x")] * 5, across=2)
    lefts = [MARGIN, MARGIN + 64 + GAP, MARGIN + 128 + GAP + BREAK, MARGIN + 192 + 2 * GAP + BREAK]
    for row in range(3):
        top = MARGIN + row * (64 + LINE + BREAK - GAP) + LINE
        for place, left in enumerate(lefts):
            seen = (made[top : top + 64, left : left + 64] == 7).all()
            assert seen == (row < 2 or place < 2)


def test_a_caption_of_several_lines_has_room_for_all() -> None:
    tile = np.full((64, 90, 3), 7, np.uint8)
    made = sheet([Sample([tile], "one\ntwo\nthree"), Sample([tile], "one")], across=2)
    assert (made[MARGIN + 3 * LINE :][:64, MARGIN:][:, :90] == 7).all()
    for line in range(3):
        rows = made[MARGIN + line * LINE :][:LINE]
        assert (rows[:, : MARGIN + 90] < 255).any() and (rows[:, MARGIN + 90 + BREAK :] < 255).any() == (
            line == 0
        )


def test_text_never_reaches_its_neighbour() -> None:
    """Titles and captions of any length leave the space between columns, and pictures, white."""
    tile = np.full((100, 100, 3), 200, np.uint8)
    for text in (LONG, "x" * 500, "word", "\u4eba" * 90):
        made = sheet([Sample([tile] * 3, text)] * 4, [text] * 3, across=2)
        header = made[: MARGIN + sheets.TITLE_LINES * LINE]
        for sample in range(2):
            for column in range(3):
                right = MARGIN + sample * (3 * 100 + 2 * GAP + BREAK) + column * (100 + GAP) + 100
                assert (header[:, right : right + GAP] == 255).all(), text
            caption = made[: MARGIN + (sheets.TITLE_LINES + 1) * LINE, right : right + BREAK]
            assert (caption == 255).all(), text
        assert ((made == 200).all(axis=2)).sum() >= 12 * 100 * 100


def test_long_text_keeps_both_ends_and_breaks_between_words() -> None:
    cut = sheets._cut("street/of/a/very/long/name/000123", 120)
    assert cut.startswith("str") and cut.endswith("123") and "..." in cut
    assert sheets._cut("short", 120) == "short" and sheets._cut("short", 1) == ""
    lines = sheets._broken("supervised baseline_of-three", 104, sheets.BOLD, 3)
    assert lines == ["supervised", "baseline_of-", "three"]
    assert (
        len(sheets._broken("x" * 300, 50, sheets.BOLD, 3)) == 3
        and sheets._broken("", 50, sheets.BOLD, 3) == []
    )


def test_a_notice_is_written_where_there_is_room() -> None:
    assert len(np.unique(notice("no mask", 60, 90))) > 2
    assert len(np.unique(notice("no mask", 5, 90))) == len(np.unique(notice("no mask", 60, 8))) == 1
    assert notice("no mask", 5, 90).shape == (5, 90, 3)


def test_a_sheet_needs_a_sample() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        sheet([])
