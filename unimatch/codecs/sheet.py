"""Pictures side by side under titles, with captions and a legend of classes; uint8 [H, W, 3] RGB.

Text is drawn with the font that OpenCV brings along, which knows the letters of most languages. Its size is
fixed, and text that finds no room is broken or cut in the middle: it never runs into its neighbour.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from unimatch.codecs.picture import Colors, hatching

TILE = 320  # the longer side of a picture, where columns are few
WIDTH = 2000  # of a sheet; where columns are many, pictures become smaller
SMALLEST = 64  # but not smaller than this
MARGIN = 8
GAP = 3  # between the pictures of a sample
BREAK = 14  # between samples
FONT = 15
LINE = 20  # a line of text
TITLE_LINES = 3
SWATCH = 16
LONGEST_NAME = 240  # pixels of a class name in a legend
LEGEND_WIDTH = 640  # at least, however narrow the pictures
SEPARATORS = " _-/."
BLACK, GREY = (0, 0, 0), (90, 90, 90)
NORMAL, BOLD = 400, 600


@dataclass(frozen=True)
class Sample:
    """What is shown of one sample, from left to right: uint8 [h, w, 3], or grey [h, w]."""

    tiles: list[np.ndarray]
    caption: str = ""  # of one line or several


def tile_side(columns: int) -> int:
    """Pixels of the longer side of each picture, where `columns` of them stand side by side."""
    return max(SMALLEST, min(TILE, (WIDTH - 2 * MARGIN) // columns - GAP))


def sheet(
    samples: Sequence[Sample],
    titles: Sequence[str] = (),
    across: int = 1,
    legend: Sequence[tuple[str, np.ndarray]] = (),
) -> np.ndarray:
    """uint8 [H, W, 3]: samples row by row on white, `across` to a row, each below its caption.

    titles: over the tiles of a sample, once in the first row. All samples have the same number of tiles, of
    any sizes. legend: names and swatches, see `class_legend`.
    """
    if not samples:
        raise ValueError("a sheet needs at least one sample")
    count = len(samples[0].tiles)
    rows = [samples[start : start + across] for start in range(0, len(samples), across)]
    widths = np.full((min(across, len(samples)), count), SMALLEST)
    for row in rows:
        for place, sample in enumerate(row):
            widths[place] = np.maximum(widths[place], [tile.shape[1] for tile in sample.tiles])
    steps = np.cumsum(np.concatenate([widths + GAP, np.full((len(widths), 1), BREAK - GAP)], axis=1))
    lefts = MARGIN + np.concatenate([[0], steps[:-1]]).reshape(len(widths), count + 1)[:, :count]
    right = int(lefts[-1, -1] + widths[-1, -1])
    caption_height = LINE * max(len(sample.caption.splitlines()) for sample in samples)

    header = [_broken(title, int(widths[:, k].min()), BOLD, TITLE_LINES) for k, title in enumerate(titles)]
    top = MARGIN + LINE * max(map(len, header), default=0)
    tops = []
    for row in rows:
        tops.append(top)
        top += caption_height + max(tile.shape[0] for one in row for tile in one.tiles) + BREAK - GAP
    key = _legend(legend, max(right - MARGIN, LEGEND_WIDTH))
    height, width = top + len(key) + MARGIN, max(right, MARGIN + key.shape[1]) + MARGIN
    canvas = np.full((height, width, 3), 255, np.uint8)
    canvas[top : top + len(key), MARGIN : MARGIN + key.shape[1]] = key

    for place in range(len(widths)):
        for k, lines in enumerate(header):
            for number, text in enumerate(lines):
                _write(canvas, text, int(lefts[place, k]), MARGIN + number * LINE, BLACK, BOLD)
    for row, row_top in zip(rows, tops, strict=True):
        for place, sample in enumerate(row):
            room = int(lefts[place, -1] + widths[place, -1] - lefts[place, 0])
            for number, text in enumerate(sample.caption.splitlines()):
                _write(canvas, _cut(text, room), int(lefts[place, 0]), row_top + number * LINE, GREY)
            for tile, left in zip(sample.tiles, lefts[place].tolist(), strict=True):
                area = canvas[row_top + caption_height :, left:][: tile.shape[0], : tile.shape[1]]
                area[:] = tile if tile.ndim == 3 else tile[..., None]
    return canvas


def class_legend(
    names: Sequence[str], colors: Colors, clear: int | None = None, ignored: str = "not labelled"
) -> list[tuple[str, np.ndarray]]:
    """(name, uint8 swatch) of every class, and of what belongs to none.

    The swatch of class `clear`, which pictures do not colour, is empty.
    """
    entries = []
    for number, (name, color) in enumerate(zip(names, colors, strict=True)):
        swatch = np.empty((SWATCH, SWATCH, 3), np.uint8)
        swatch[:] = 255 if number == clear else color
        entries.append((name, swatch))
    return [*entries, (ignored, hatching(SWATCH, SWATCH))]


def legend_picture(entries: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """uint8 [H, W, 3]: a legend by itself."""
    key = _legend(entries, LEGEND_WIDTH)
    return np.pad(key, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), constant_values=255)


def notice(text: str, height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3]: a few words, if there is room, instead of a picture."""
    tile = np.full((height, width, 3), 235, np.uint8)
    if _width(text) <= width and height >= LINE:
        _write(tile, text, (width - _width(text)) // 2, (height - LINE) // 2, GREY)
    return tile


def _legend(entries: Sequence[tuple[str, np.ndarray]], width: int) -> np.ndarray:
    """The entries row by row in as many columns as `width` pixels hold, and wider if it does not hold one."""
    names = [_cut(name, LONGEST_NAME) for name, _ in entries]
    room = [SWATCH + 6 + _width(name) + BREAK for name in names]
    cells = next(
        (
            cells
            for columns in range(len(room), 0, -1)
            if sum(cells := _widest(room, columns)) <= width + BREAK
        ),
        [max(room, default=0)],
    )
    rows = -(-len(entries) // len(cells))
    picture = np.full((LINE * rows, sum(cells), 3), 255, np.uint8)
    for place, (name, (_, swatch)) in enumerate(zip(names, entries, strict=True)):
        top, left = place // len(cells) * LINE, sum(cells[: place % len(cells)])
        area = picture[top + 2 : top + 2 + SWATCH, left : left + SWATCH]
        area[:] = swatch
        area[[0, -1]] = area[:, [0, -1]] = GREY  # white and empty swatches have an edge too
        _write(picture, name, left + SWATCH + 6, top, BLACK)
    return picture


def _widest(room: list[int], columns: int) -> list[int]:
    """The width of each column, where entries of these widths fill `columns` row by row."""
    return [max(room[column::columns]) for column in range(columns)]


@functools.cache
def _face() -> cv2.FontFace:
    return cv2.FontFace("sans")


def _write(
    canvas: np.ndarray, text: str, left: int, top: int, color: tuple[int, int, int], weight: int = NORMAL
) -> None:
    if text:
        cv2.putText(canvas, text, (left, top + FONT), color, _face(), FONT, weight)


def _width(text: str, weight: int = NORMAL) -> int:
    """Pixels that `text` takes in a line."""
    box = cv2.getTextSize((0, 0), text, (0, 0), _face(), FONT, weight)
    return int(box[0] + box[2])


def _cut(text: str, width: int, weight: int = NORMAL) -> str:
    """`text`, or if it is wider than `width`, as much of its beginning and end as there is room for."""
    if _width(text, weight) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        head, tail = (kept + 1) // 2, kept // 2
        shorter = f"{text[:head]}...{text[len(text) - tail :]}"
        if _width(shorter, weight) <= width:
            return shorter
    return ""


def _broken(text: str, width: int, weight: int, most: int) -> list[str]:
    """`text` in at most `most` lines of `width` pixels, broken after separators where it can be."""
    lines: list[str] = []
    while text:
        if len(lines) == most - 1 or _width(text, weight) <= width:
            return [*lines, _cut(text, width, weight)]
        fits = next((n for n in range(len(text) - 1, 1, -1) if _width(text[:n], weight) <= width), 1)
        end = max((n for n in range(1, fits + 1) if text[n - 1] in SEPARATORS), default=fits)
        lines.append(text[:end].rstrip())
        text = text[end:].lstrip()
    return lines
