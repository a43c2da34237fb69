"""The settings of a recipe for rasters: which bands, how their numbers are scaled, tiles of scenes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unimatch.errors import ConfigError

MAX_BANDS = 64
RASTER_KINDS = ("ids", "colors")  # label kinds whose files are rasters themselves
ALL_OF = ("scaling", "depth", "show", "nodata", "tiles")  # settings that need `bands`


@dataclass(frozen=True)
class Scaling:
    """Which numbers in the files become 0 and the largest value that is stored: exactly one of the three.

    Numbers outside are clipped, and counted.
    """

    range: tuple[float, float] | None = None  # of all bands
    ranges: tuple[tuple[float, float], ...] = ()  # of each of `bands`
    # Measured at up to 200 places of subsets that are not called val... or test..., and kept in the index.
    percentiles: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        given = [self.range is not None, bool(self.ranges), self.percentiles is not None]
        if sum(given) != 1:
            raise ConfigError("range, ranges or percentiles: give exactly one of them")
        pairs = [("range", self.range), ("percentiles", self.percentiles)]
        pairs += [("ranges", pair) for pair in self.ranges]
        for name, pair in pairs:
            if pair is not None and not pair[0] < pair[1]:
                raise ConfigError(f"{name} goes from low to high, found {list(pair)}")
        if self.percentiles is not None and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ConfigError(f"percentiles go from 0 to 100, found {list(self.percentiles)}")


@dataclass(frozen=True)
class Tiles:
    """How scenes are cut: squares of `size` pixels that share `overlap` or more with their neighbours.

    As few as cover the scene, evenly spread, so all have one size; a smaller scene is one tile.
    """

    size: int
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.size < 16:
            raise ConfigError(f"size must be at least 16 pixels, found {self.size}")
        if not 0 <= self.overlap < self.size:
            raise ConfigError(f"overlap must be from 0 to below size, found {self.overlap}")


def check_bands(recipe: Any) -> None:
    """ConfigError: settings of a Recipe that do not go together with `bands`, or need it."""
    bands = recipe.bands
    if not bands:
        needing = [name for name in ALL_OF if getattr(recipe, name) not in (None, (), 8)]
        if needing:
            raise ConfigError(
                f"{needing[0]} is for recipes with `bands`; list the bands, such as [1, 2, 3, 4]"
            )
        return
    if min(bands) < 1 or len(set(bands)) != len(bands) or len(bands) > MAX_BANDS:
        raise ConfigError(f"bands are numbers from 1, each once, at most {MAX_BANDS}; found {list(bands)}")
    if recipe.scaling is not None and recipe.scaling.ranges and len(recipe.scaling.ranges) != len(bands):
        raise ConfigError(f"scaling: ranges needs one pair for each of the {len(bands)} bands")
    if recipe.show and (len(recipe.show) != 3 or not set(recipe.show) <= set(bands)):
        raise ConfigError(f"show names three of the bands {list(bands)}, found {list(recipe.show)}")
    if recipe.downscale > 1:
        raise ConfigError("downscale is not for rasters of bands; resample them first (gdalwarp -tr)")
    if recipe.png != "keep":
        raise ConfigError("png is not for rasters of bands, which are stored as TIFF; leave it at keep")
    if recipe.tiles is not None and recipe.label_kind not in RASTER_KINDS:
        raise ConfigError(f"tiles are cut from label rasters; labels of kind {recipe.label_kind} have none")
    for name, where in recipe.subsets.items():
        if any("#" in path for path in (where.images, where.labels or "", where.second or "")):
            raise ConfigError(f"subsets: {name}: bands are read from rasters, not from HDF5 files")
