"""Files as a network knows them: read and changed as packing read and changed those that it learnt from.

Everything that people give to predict comes through here; packing reads by the same functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from unimatch.codecs.decode import PNG_SIGNATURE, decode_grey, image_header
from unimatch.codecs.encode import AsPacked, ImageRules, PngStorage, as_packed, downscaled
from unimatch.codecs.nifti import AXCODES
from unimatch.codecs.opening import UNREADABLE
from unimatch.codecs.scans import ScanRules
from unimatch.codecs.volume_files import STRETCHED, Volume, read_volume
from unimatch.errors import DataError

GREY_MODES = ("1", "L", "LA")


@dataclass(frozen=True)
class Preparation:
    """What a recipe did to images, beside turning photos upright: settings of the same names.

    scans: how NIfTI files became slices; None: the slices were in HDF5 files, or there were none.
    axcodes: how the slices of HDF5 files lie, see codecs.nifti; None: the recipe does not say it.
    """

    downscale: int = 1
    png: PngStorage = "keep"
    drop_extra: bool = False
    scans: ScanRules | None = None
    axcodes: str | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Preparation:
        """From a recipe's settings as an index keeps them, or from what `to_json` gave."""
        found = {name: settings[name] for name in cls.__dataclass_fields__ if name in settings}
        if found.get("scans") is not None:
            found["scans"] = ScanRules(**{name: as_tuple(value) for name, value in found["scans"].items()})
        return cls(**found)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def scan_rules(self) -> ScanRules:
        """How NIfTI files are read, also where the recipe does not say it."""
        return self.scans or replace(STRETCHED, axcodes=self.axcodes or AXCODES)

    @property
    def knows_axcodes(self) -> bool:
        return self.scans is not None or self.axcodes is not None

    def turned_to(self, axcodes: str) -> Preparation:
        """The same with NIfTI files turned otherwise."""
        scans = None if self.scans is None else replace(self.scans, axcodes=axcodes)
        return replace(self, scans=scans, axcodes=axcodes)

    def read_photo(self, path: Path) -> tuple[np.ndarray, tuple[int, int]]:
        """uint8 [h, w, 3] of a picture, and its height and width as people see it.

        DataError with the true reason: a file that packing would refuse. OSError: it cannot be opened.
        """
        found = self._picture(path.read_bytes(), str(path))
        return found.pixels, found.full_size

    def read_grey(self, path: Path) -> tuple[np.ndarray, tuple[int, int]]:
        """uint16 [h, w] of a grey picture of 8 bits or a grey PNG of 16, and its height and width.

        DataError: a colour or palette picture, and as `read_photo`.
        """
        data, where = path.read_bytes(), str(path)
        if data.startswith(PNG_SIGNATURE) and image_header(data, where).depth > 8:
            deep = decode_grey(data, where)
            return downscaled(deep, self.downscale, where), (deep.shape[0], deep.shape[1])
        found = self._picture(data, where)
        if found.mode not in GREY_MODES:
            raise DataError(
                f"{where}: a colour or palette picture ({found.mode}), but this run reads greyscale; convert "
                "it to greyscale"
            )
        return found.pixels[..., 0].astype(np.uint16) * np.uint16(257), found.full_size

    def read_volume(self, path: Path) -> Volume:
        """The slices of an HDF5 or NIfTI file. DataError as `volume_files.read_volume`."""
        return read_volume(path, self.scan_rules, self.downscale)

    def _picture(self, data: bytes, where: str) -> AsPacked:
        try:
            rules = ImageRules(self.downscale, self.png, drop_extra=self.drop_extra)
            return as_packed(data, where, rules)
        except DataError:
            raise
        except UNREADABLE as error:
            text = str(error) or type(error).__name__
            raise DataError(f"{where}: is damaged or cut short ({text.splitlines()[0]})") from error


def as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def restored(ids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [..., H, W] of class ids [..., h, w]: each pixel takes the id of the nearest one."""
    if ids.shape[-2:] == size:
        return ids
    height, width = size
    flat = ids.reshape(-1, *ids.shape[-2:])
    large = [cv2.resize(one, (width, height), interpolation=cv2.INTER_NEAREST_EXACT) for one in flat]
    return np.stack(large).reshape(*ids.shape[:-2], height, width)
