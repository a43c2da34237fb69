"""Slices and volumes in HDF5 files."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.support.folder_source import labels_of, recipe, refused
from unimatch.codecs.decode import decode_image
from unimatch.errors import ConfigError
from unimatch.packing.folder import pack
from unimatch.packing.recipe import SubsetSource
from unimatch.shardset.archive import ShardSet

H5 = {"train": SubsetSource("data/*.h5#image", "data/{stem}.h5#label")}


def save_h5(path: Path, **data: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in data.items():
            file[name] = values


def volume(depth: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (12, 16) if depth is None else (depth, 12, 16)
    return rng.random(shape, np.float32), rng.integers(0, 3, shape, np.uint8)


def test_slices_and_volumes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    image, label = volume()
    deep_image, deep_label = volume(3, seed=1)
    save_h5(source / "data" / "a_slice_1.h5", image=image, label=label)
    save_h5(source / "data" / "b.h5", image=deep_image.astype(np.float64), label=deep_label.astype(np.int64))
    assert pack(recipe(subsets=H5), source, tmp_path / "out").subsets == {"train": (4, 4)}
    expected = {"data/a_slice_1": (image, label)}
    expected |= {f"data/b/{d:03d}": (deep_image[d], deep_label[d]) for d in range(3)}
    shards, labels = ShardSet.open(tmp_path / "out"), labels_of(tmp_path / "out")
    assert sorted(labels) == sorted(expected)
    keys = shards.keys(shards.rows("train"))
    first = keys.index("data/b/000")
    assert keys[first : first + 3] == [f"data/b/{d:03d}" for d in range(3)]  # slices stay together
    for record in map(shards.read, range(4)):
        values, ids = expected[record.key]
        stored = decode_image(record.image, record.where)
        assert stored.dtype == np.uint16 and stored.shape == (12, 16) and record.image_ext == "png"
        assert np.abs(stored / 65535 - values).max() <= 0.5 / 65535 + 1e-9
        assert np.array_equal(labels[record.key], ids)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integer_images_are_kept(tmp_path: Path, dtype: type) -> None:
    values = np.arange(12 * 16, dtype=dtype).reshape(12, 16) * (1 if dtype == np.uint8 else 300)
    save_h5(tmp_path / "source" / "data" / "a.h5", image=values)
    pack(recipe(subsets={"train": SubsetSource("data/*.h5#image")}), tmp_path / "source", tmp_path / "out")
    stored = decode_image(ShardSet.open(tmp_path / "out").read(0).image, "a")
    assert np.array_equal(stored if dtype == np.uint16 else stored[..., 0], values)


def test_downscale(tmp_path: Path) -> None:
    image, label = volume()
    save_h5(tmp_path / "source" / "data" / "a.h5", image=image, label=label)
    pack(recipe(subsets=H5, downscale=4), tmp_path / "source", tmp_path / "out")
    stored = decode_image(ShardSet.open(tmp_path / "out").read(0).image, "a")
    mean = image.reshape(3, 4, 4, 4).mean((1, 3))
    assert stored.shape == (3, 4) and np.abs(stored / 65535 - mean).max() < 1 / 65535
    assert np.array_equal(labels_of(tmp_path / "out")["data/a"], label[2::4, 2::4])


def test_bad_files_are_all_told(tmp_path: Path) -> None:
    source = tmp_path / "source"
    image, label = volume()
    (source / "data").mkdir(parents=True)
    (source / "data" / "a.h5").write_bytes(b"no HDF5")
    save_h5(source / "data" / "b.h5", img=image)
    save_h5(source / "data" / "c.h5", image=image * 255, label=label)
    save_h5(source / "data" / "d.h5", image=np.where(image < 0.1, np.nan, image), label=label)
    save_h5(source / "data" / "e.h5", image=image, label=label + np.float32(0.5))
    save_h5(source / "data" / "f.h5", image=image, label=label[:, :8])
    save_h5(source / "data" / "g.h5", image=image[0], label=label)
    save_h5(source / "data" / "h.h5", image=volume(2)[0], label=label)
    save_h5(source / "data" / "i.h5", image=image, label=label + 7)
    save_h5(source / "data" / "j.h5", image=image)
    save_h5(source / "data" / "k.h5", image=(image * 9).astype(np.int32), label=label)
    text = refused(source, tmp_path / "out", subsets=H5, ignore_id=None)
    high = f"{255 * image.max():g}"
    for line in (
        "data/a.h5#image: no HDF5 file, or damaged",
        "data/b.h5#image: no data set 'image'; the file has img",
        f"data/c.h5#image: pixels go from {255 * image.min():g} to {high}, expected 0 to 1; scale them first",
        "data/d.h5#image: pixels go from nan to nan, expected 0 to 1",
        "data/e.h5#label: has float32 values, and 192 of them are no whole numbers",
        "data/f.h5#label: is 8x12 pixels, its image data/f.h5#image 16x12",
        "data/g.h5#image: has the shape [16], expected [H, W] or [D, H, W]",
        "data/h.h5#label: has the shape [12, 16], expected [D, H, W] with D > 0",
        "data/i.h5#label: unknown id 7",
        "data/j.h5#label: no data set 'label'; the file has image",
        "data/k.h5#image: has int32 pixels; expected uint8, uint16 or floats from 0 to 1",
    ):
        assert f"  {line}" in text
    assert text.startswith("12 problems")  # h.h5 has two slices


def test_label_kinds_that_hdf5_does_not_hold() -> None:
    with pytest.raises(ConfigError, match="labels in HDF5 files are ids, not colors"):
        recipe(subsets=H5, label_kind="colors", colors=((1, 1, 1), (2, 2, 2), (3, 3, 3)))
