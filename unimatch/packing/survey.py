"""The rasters that a recipe with `bands` finds, by their headers: all alike, labels on the grid of their
image, scenes cut into tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from unimatch.codecs import rasters
from unimatch.codecs.part import Rect
from unimatch.errors import DataError
from unimatch.packing.band_settings import Tiles


class BadRaster(DataError):
    """A raster that does not go with the others, or with the recipe. `kind`: what it is counted under."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass
class Survey:
    """What the rasters seen so far have in common. Paths are relative to `source`."""

    source: Path
    bands: tuple[int, ...]
    tiles: Tiles | None
    first: tuple[str, rasters.Header] | None = None
    unplaced: list[str] = field(default_factory=list)  # labels and second dates without a place on earth

    def cut(self, image: str, others: dict[str, str | None]) -> list[tuple[str, Rect]]:
        """(what to add to the image's key, the pixels) of each sample of a raster.

        others: what is on the same grid, by what it is: a label, a second image. BadRaster: the image is of
        another kind than the first one, or another file has another grid.
        """
        header = self._image(image)
        for what, name in others.items():
            if name is None or not (self.source / name).is_file():
                continue  # told when it is read
            other = (
                self._image(name) if what == "second image" else rasters.read_header(self.source / name, name)
            )
            difference = header.grid.differs(other.grid)
            if difference:
                text = f"{name}: the {what} of {image} {difference}; warp it onto the grid of the image"
                raise BadRaster("grid mismatch", text)
            if header.grid.transform is not None and other.grid.transform is None:
                self.unplaced.append(name)
        grid = header.grid
        if self.tiles is None:
            return [("", (0, 0, grid.width, grid.height))]
        return [
            (f"/{rect[1]:05d}_{rect[0]:05d}", rect)
            for rect in tile_rects(grid.width, grid.height, self.tiles.size, self.tiles.overlap)
        ]

    def _image(self, name: str) -> rasters.Header:
        header = rasters.read_header(self.source / name, name)
        if max(self.bands) > header.count:
            text = f"{name}: has {header.count} bands, the recipe asks for band {max(self.bands)}"
            raise BadRaster("missing band", text)
        self.first = self.first or (name, header)
        other = self.first[1]
        for what, mine, theirs in (
            ("bands", header.count, other.count),
            ("numbers", header.dtype, other.dtype),
            ("band names", header.names, other.names),
        ):
            if mine != theirs:
                text = (
                    f"{name}: has other {what} than {self.first[0]} ({_listed(mine)} against "
                    f"{_listed(theirs)}), so band numbers or scaling may mean another thing; pack them as "
                    "sets of their own, or make them alike"
                )
                raise BadRaster("mixed rasters", text)
        return header

    def sentences(self) -> Iterator[str]:
        """What there is to tell."""
        if self.unplaced:
            names = ", ".join(self.unplaced[:3]) + (", ..." if len(self.unplaced) > 3 else "")
            yield (
                f"{len(self.unplaced)} files beside georeferenced images have no place on earth and were "
                f"taken pixel by pixel: {names}"
            )


def _listed(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def tile_rects(width: int, height: int, size: int, overlap: int) -> list[Rect]:
    """The squares of a picture, row by row; a side below `size` is taken whole."""
    rows, columns = starts(height, size, overlap), starts(width, size, overlap)
    return [(x, y, min(x + size, width), min(y + size, height)) for y, x in product(rows, columns)]


def starts(length: int, size: int, overlap: int) -> list[int]:
    """Where tiles begin along a side: as few as share `overlap` pixels at least, evenly spread."""
    last = max(length - size, 0)
    steps = -(-last // (size - overlap))
    return [place * last // max(steps, 1) for place in range(steps + 1)]
