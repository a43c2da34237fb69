"""Rasters as other programs write them: grids, numbers, and what was not measured."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.raster_files import rasterio, write
from unimatch.codecs.rasters import Grid, read_bands, read_header, write_ids
from unimatch.errors import DataError, UserError

GRID = Grid(40, 30, "EPSG:32632", (10.0, 0.0, 5e5, 0.0, -10.0, 52e5))


def four(dtype: str = "uint16") -> np.ndarray:
    return np.arange(4 * 30 * 40).reshape(4, 30, 40).astype(dtype)


def test_a_window_of_bands_in_their_order(tmp_path: Path) -> None:
    for compress in ("none", "deflate", "lzw", "zstd"):
        path = write(tmp_path / f"{compress}.tif", four(), compress=compress)
        values, valid = read_bands(path, (4, 1), (5, 2, 25, 12))
        assert values.dtype == np.uint16 and np.array_equal(values, four()[[3, 0], 2:12, 5:25])
        assert valid.all()


def test_a_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", four(), names=("blue", "green", "red", "nir"))
    header = read_header(path)
    assert header.grid == GRID and (header.count, header.dtype) == (4, "uint16")
    assert header.names == ("blue", "green", "red", "nir") and header.lossy is None
    assert read_header(write(tmp_path / "b.tif", four(), crs=None)).grid == Grid(40, 30, None, None)
    jpeg = write(tmp_path / "c.tif", four("uint8")[:3], compress="jpeg", photometric="ycbcr")
    assert read_header(jpeg).lossy == "JPEG"


def test_what_was_not_measured(tmp_path: Path) -> None:
    values = four()
    values[1, 3, 4] = 7
    values[2, 5, 6] = 7
    declared = write(tmp_path / "declared.tif", values, nodata=7)
    silent = write(tmp_path / "silent.tif", values)
    wanted = np.ones((30, 40), bool)
    wanted[3, 4] = wanted[0, 7] = False  # values[0, 0, 7] is 7 too
    whole = (0, 0, 40, 30)
    assert np.array_equal(read_bands(declared, (1, 2), whole)[1], wanted), "of the bands asked for only"
    assert np.array_equal(read_bands(silent, (1, 2), whole, nodata=7)[1], wanted)
    assert read_bands(silent, (1, 2), whole)[1].all()


@pytest.mark.parametrize("declared", [None, float("nan"), -9999.0])
def test_nan_is_no_number_whatever_the_file_declares(tmp_path: Path, declared: float | None) -> None:
    values = four("float32")
    values[0, 3, 4] = np.nan
    path = write(tmp_path / "a.tif", values, **({} if declared is None else {"nodata": declared}))
    valid = read_bands(path, (1, 2), (0, 0, 40, 30))[1]
    assert not valid[3, 4] and valid.sum() == valid.size - 1
    values[0, 5, 5] = np.inf
    with pytest.raises(DataError, match="has 1 infinite values"):
        read_bands(write(tmp_path / "b.tif", values), (1,), (0, 0, 40, 30))


def test_transparency_hides_pixels_unless_it_is_a_band_asked_for(tmp_path: Path) -> None:
    values = four("uint8")
    values[3] = 255
    values[3, 2, 2] = 0
    path = write(tmp_path / "a.tif", values, photometric="rgb", alpha="yes")
    with rasterio.open(path) as file:
        assert file.colorinterp[3] == rasterio.enums.ColorInterp.alpha
    valid = read_bands(path, (1, 2, 3), (0, 0, 40, 30))[1]
    assert not valid[2, 2] and valid.sum() == valid.size - 1
    assert read_bands(path, (1, 4), (0, 0, 40, 30))[1].all()


def test_grids_differ_with_numbers() -> None:
    assert GRID.differs(GRID) is None
    assert GRID.differs(replace(GRID, width=41)) == "is 41x30 pixels instead of 40x30"
    assert GRID.differs(replace(GRID, crs="EPSG:4326")) == "has the CRS EPSG:4326 instead of EPSG:32632"
    assert GRID.differs(replace(GRID, crs=None, transform=None)) is None, "only the size can be compared"

    def moved(metres: float) -> Grid:
        return replace(GRID, transform=(10.0, 0.0, 5e5 + metres, 0.0, -10.0, 52e5))

    assert GRID.differs(moved(0.05)) is None
    assert "transform [10.0, 0.0, 500005.0" in str(GRID.differs(moved(5.0)))
    coarser = replace(GRID, transform=(10.1, 0.0, 5e5, 0.0, -10.0, 52e5))
    assert "has the transform" in str(GRID.differs(coarser)), "the far corners are compared too"


def test_what_is_no_raster_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0 nothing")
    (tmp_path / "roads.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(DataError, match="a.tif: cannot be read as a raster"):
        read_header(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"roads.geojson: holds shapes, not pixels; .* gdal_rasterize"):
        read_header(tmp_path / "roads.geojson")
    with pytest.raises(DataError, match="bands of complex64"):
        read_header(write(tmp_path / "c.tif", four("complex64")))
    with pytest.raises(FileNotFoundError):
        read_header(tmp_path / "none.tif")
    data = write(tmp_path / "cut.tif", four(), compress="deflate").read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="cut.tif: cannot be read as a raster"):
        read_bands(tmp_path / "cut.tif", (1, 2, 3, 4), (0, 0, 40, 30))


def test_without_the_library_it_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    path = write(tmp_path / "a.tif", four())
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(UserError, match=r"pip install 'unimatch\[geo\]'"):
        read_header(path)


def test_ids_go_back_onto_the_grid(tmp_path: Path) -> None:
    ids = np.arange(30 * 40, dtype=np.uint8).reshape(30, 40) % 3
    with write_ids(tmp_path / "ids.tif", GRID, ((1, 2, 3), (4, 5, 6), (7, 8, 9))) as file:
        file.write(ids, 1)
    assert read_header(tmp_path / "ids.tif").grid == GRID
    with rasterio.open(tmp_path / "ids.tif") as file:
        assert np.array_equal(file.read(1), ids) and file.nodata == 255
        assert file.colormap(1)[2] == (7, 8, 9, 255)
