"""Rasters of bands (GeoTIFF and what else GDAL reads): their grid and values, and class ids on the same grid.

Read through rasterio, which is an extra: GDAL knows every compression of TIFF, reads a window of a scene of
any size, and tells the place on earth. Only this file imports it.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unimatch.codecs.bands import Bands
from unimatch.codecs.part import Rect
from unimatch.errors import DataError, UserError

CACHE_MB = 64  # of GDAL: blocks of the raster that is read
ALIKE = 0.01  # pixels by which the corners of one grid may differ
LOSSY = ("JPEG", "WEBP", "LERC")
VECTORS = (".geojson", ".json", ".shp", ".gpkg", ".kml")


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a raster lie. `transform`: x = a col + b row + c, y = d col + e row + f, of
    corners; None: it has no place on earth, as `crs` then.
    """

    width: int
    height: int
    crs: str | None
    transform: tuple[float, ...] | None

    def differs(self, other: Grid) -> str | None:
        """In which way `other` is another grid, with the numbers; None: it is the same."""
        if (self.width, self.height) != (other.width, other.height):
            return f"is {other.width}x{other.height} pixels instead of {self.width}x{self.height}"
        if self.transform is None or other.transform is None:
            return None  # a file without a place is taken pixel by pixel
        if self.crs and other.crs and self.crs != other.crs:
            return f"has the CRS {other.crs} instead of {self.crs}"
        a, b = self.transform, other.transform
        size = max(math.hypot(a[0], a[3]), math.hypot(a[1], a[4]), 1e-300)
        for col, row in ((0, 0), (self.width, 0), (0, self.height), (self.width, self.height)):
            (x0, y0), (x1, y1) = (
                (t[0] * col + t[1] * row + t[2], t[3] * col + t[4] * row + t[5]) for t in (a, b)
            )
            if math.hypot(x1 - x0, y1 - y0) > ALIKE * size:
                return f"has the transform {list(b)} instead of {list(a)}"
        return None


@dataclass(frozen=True)
class Header:
    """What a raster is. names: of its bands, "" where it says nothing."""

    grid: Grid
    count: int
    dtype: str
    names: tuple[str, ...]
    lossy: str | None  # the compression, if pixels are not exactly what was written

    def names_of(self, order: tuple[int, ...]) -> tuple[str, ...]:
        return tuple(self.names[band - 1] for band in order)

    def check(self, bands: Bands, where: str) -> None:
        """DataError unless a file is of the kind of those that `bands` were chosen and scaled in."""
        pairs = [("bands", self.count, bands.count), ("numbers", self.dtype, bands.numbers)]
        if self.count == bands.count:
            pairs.append(("band names", self.names_of(bands.order), bands.names))
        for what, found, wanted in pairs:
            if found != wanted:
                raise DataError(
                    f"{where}: has other {what} than the images that were packed ({found} against {wanted}), "
                    "so bands or scaling would mean another thing; make it like them"
                )


def rasterio() -> Any:
    """The library. UserError: it is not installed."""
    try:
        import rasterio
    except ImportError as error:
        raise UserError("rasters of bands are read by rasterio: pip install 'unimatch[geo]'") from error
    return rasterio


def read_header(path: Path, where: str = "") -> Header:
    """DataError: no raster, or of complex numbers. FileNotFoundError: no such file. `where`: for messages."""
    where = where or path.name
    with _opened(path, where) as raster:
        transform: tuple[float, ...] | None = tuple(raster.transform)[:6]
        if raster.transform.is_identity:
            transform = None
        crs = raster.crs.to_string() if raster.crs else None
        grid = Grid(raster.width, raster.height, crs, transform)
        kinds = sorted(set(raster.dtypes))
        if len(kinds) > 1 or kinds[0].startswith("complex"):
            raise DataError(f"{where}: has bands of {', '.join(kinds)}; one kind of real numbers is read")
        how = str(raster.compression.value).upper() if raster.compression else str(raster.driver).upper()
        lossy = next((name for name in LOSSY if name in how or raster.driver == name), None)
        return Header(grid, raster.count, kinds[0], tuple(text or "" for text in raster.descriptions), lossy)


def read_bands(
    path: Path,
    order: tuple[int, ...],
    rect: Rect,
    nodata: float | None = None,
    where: str = "",
    step: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """([C, h, w] of the file's numbers, bool [h, w]: whether all of them were measured) of a part of it.

    Not measured are `nodata`, the no-data value and the mask of the file, its transparency unless that is one
    of the bands asked for, and NaN. DataError: an infinite number, or a damaged file. `where`: for messages.
    `step`: about each so many-th pixel and row.
    """
    where = where or path.name
    library = rasterio()
    width, height = rect[2] - rect[0], rect[3] - rect[1]
    window = library.windows.Window(rect[0], rect[1], width, height)
    how = {"window": window, "out_shape": (len(order), -(-height // step), -(-width // step))}
    with _opened(path, where) as raster:
        values = raster.read(list(order), **how)
        valid = np.ones(values.shape[1:], bool)
        flags = raster.mask_flag_enums[order[0] - 1]
        meant = any(raster.colorinterp[band - 1] == library.enums.ColorInterp.alpha for band in order)
        is_alpha = library.enums.MaskFlags.alpha in flags
        if library.enums.MaskFlags.all_valid not in flags and not (is_alpha and meant):
            valid &= (raster.read_masks(list(order), **how) > 0).all(axis=0)
    if nodata is not None:
        valid &= (values != nodata).all(axis=0)
    if values.dtype.kind == "f":
        valid &= ~np.isnan(values).any(axis=0)
        endless = int(np.isinf(np.where(valid, values, 0)).sum())
        if endless:
            raise DataError(f"{where}: has {endless} infinite values; mend it, or set nodata: .inf")
    return values, valid


def write_ids(path: Path, grid: Grid, colors: tuple[tuple[int, int, int], ...]) -> Any:
    """An open GeoTIFF of uint8 class ids on a grid, 255 being no-data, to be written window by window."""
    library = rasterio()
    place: dict[str, Any] = {}
    if grid.transform is not None:
        place = {"crs": grid.crs, "transform": library.Affine(*grid.transform)}
    raster = library.open(
        path, "w", driver="GTiff", width=grid.width, height=grid.height, count=1, dtype="uint8",
        nodata=255, compress="deflate", tiled=True, blockxsize=256, blockysize=256, BIGTIFF="IF_SAFER",
        **place,
    )  # fmt: skip
    raster.write_colormap(1, {number: (*color, 255) for number, color in enumerate(colors)})
    return raster


@contextmanager
def _opened(path: Path, where: str) -> Iterator[Any]:
    """The open raster; a few stay open, since their windows are read one after another."""
    library = rasterio()
    found = path.stat()
    with warnings.catch_warnings(), library.Env(GDAL_CACHEMAX=CACHE_MB):
        warnings.simplefilter("ignore", library.errors.NotGeoreferencedWarning)
        try:
            yield _open(path, found.st_size, found.st_mtime_ns)
        except library.errors.RasterioError as error:
            if path.name.lower().endswith(VECTORS):
                raise DataError(
                    f"{where}: holds shapes, not pixels; draw them on the image's grid first, such as by "
                    "gdal_rasterize -a CLASS -te ... -tr ... -ot Byte"
                ) from error
            reason = str(error.__cause__ or error).splitlines()[0]
            raise DataError(f"{where}: cannot be read as a raster ({reason})") from error


@functools.lru_cache(4)
def _open(path: Path, size: int, time: int) -> Any:
    return rasterio().open(path)
