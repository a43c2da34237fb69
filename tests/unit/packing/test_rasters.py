"""Recipes with `bands`: scenes and chips of many bands become samples, or are refused with what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.folder_source import save
from tests.support.raster_files import rasterio, scene, write, write_scenes
from unimatch import config, split
from unimatch.codecs.decode import decode_image, decode_label
from unimatch.errors import ConfigError, DataError
from unimatch.packing.folder import pack
from unimatch.packing.pack import Packed
from unimatch.packing.recipe import Recipe
from unimatch.packing.survey import starts, tile_rects
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.key_list import read_keys

RECIPE = """
classes: [soil, trees, water]
bands: [3, 2, 1, 4]
scaling: {range: [0, 4000]}
subsets: {train: {images: "scenes/*.tif", labels: "labels/{stem}.tif"}}
"""


def recipe(*changes: str, text: str = RECIPE) -> Recipe:
    return config.from_text(text, Recipe, changes)


def packed(source: Path, *changes: str, text: str = RECIPE, **options: Any) -> tuple[Packed, ShardSet]:
    out = source.parent / "out"
    return pack(recipe(*changes, text=text), source, out, overwrite=True, **options), ShardSet.open(out)


def refused(source: Path, *changes: str, text: str = RECIPE) -> str:
    out = source.parent / "refused"
    with pytest.raises(DataError) as error:
        pack(recipe(*changes, text=text), source, out)
    assert not out.exists()
    return str(error.value)


def samples(shards: ShardSet) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    records = [shards.read(row) for row in range(len(shards))]
    return {
        r.key: (decode_image(r.image, r.where), None if r.label is None else decode_label(r.label, r.where))
        for r in records
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_scenes(tmp_path / "src", {"a": (40, 60), "b": (40, 60)})


def test_bands_in_the_order_of_the_recipe_scaled_as_it_says(source: Path) -> None:
    _, shards = packed(source)
    found = samples(shards)
    assert sorted(found) == ["scenes/a", "scenes/b"]
    values, label = scene(40, 60, 0)
    expected = np.rint(np.clip(values[[2, 1, 0, 3]].astype(float), 0, 4000) * 255 / 4000)
    image, ids = found["scenes/a"]
    assert image.dtype == np.uint8 and np.array_equal(image, np.moveaxis(expected, 0, -1))
    assert np.array_equal(ids, label)
    bands = shards.bands()
    assert bands is not None and bands.order == (3, 2, 1, 4) and bands.ranges == ((0.0, 4000.0),) * 4
    both = np.concatenate([image.reshape(-1, 4) for image, _ in found.values()]) / 255
    assert np.allclose(bands.mean, both.mean(axis=0)) and np.allclose(bands.std, both.std(axis=0))


def test_sixteen_bits_and_a_range_a_band(source: Path) -> None:
    ranges = "scaling={range: null, ranges: [[0, 1000], [0, 2000], [100, 3000], [0, 10000]]}"
    _, shards = packed(source, ranges, "depth=16")
    values, _ = scene(40, 60, 1)
    low, high = np.array([[0, 1000], [0, 2000], [100, 3000], [0, 10000]], float).T[..., None, None]
    expected = np.rint((np.clip(values[[2, 1, 0, 3]], low, high) - low) / (high - low) * 65535)
    image = samples(shards)["scenes/b"][0]
    assert image.dtype == np.uint16 and np.array_equal(image, np.moveaxis(expected, 0, -1))


def test_percentiles_are_measured_without_validation_scenes_and_kept(source: Path) -> None:
    bright = scene(40, 60, 3)[0] * 3
    write(source / "held" / "c.tif", bright)
    text = RECIPE.replace("range: [0, 4000]", "percentiles: [1, 99]").replace(
        "subsets: {", 'subsets: {val: {images: "held/*.tif"}, '
    )
    made, shards = packed(source, text=text)
    both = np.concatenate([scene(40, 60, seed)[0][[2, 1, 0, 3]].reshape(4, -1) for seed in (0, 1)], axis=1)
    bands = shards.bands()
    assert bands is not None and np.allclose(bands.ranges, np.percentile(both, (1, 99), axis=1).T)
    assert any("percentiles [1.0, 99.0] of the bands [3, 2, 1, 4]" in text for text in made.told)
    assert shards.info["subsets"]["val"]["bands"]["mean"] > shards.info["subsets"]["train"]["bands"]["mean"]
    train = shards.bands(shards.rows("train"))
    assert train is not None and np.allclose(train.mean, shards.info["subsets"]["train"]["bands"]["mean"])


def test_eight_bits_need_no_scaling(tmp_path: Path) -> None:
    values = scene(40, 60)[0] // 40
    write(tmp_path / "src" / "scenes" / "a.tif", values.astype(np.uint8))
    text = RECIPE.replace("scaling: {range: [0, 4000]}", "").replace(', labels: "labels/{stem}.tif"', "")
    _, shards = packed(tmp_path / "src", text=text)
    assert np.array_equal(samples(shards)["scenes/a"][0], np.moveaxis(values[[2, 1, 0, 3]], 0, -1))


def test_the_bytes_depend_on_neither_workers_nor_interruptions(tmp_path: Path) -> None:
    source = write_scenes(tmp_path / "src", dict.fromkeys("abcdefgh", (70, 90)))
    tiles = "tiles={size: 32, overlap: 8}"
    packed(source, tiles)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    pack(recipe(tiles, "shard_mb=256"), source, tmp_path / "again", workers=2)
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == first


# Scenes


def test_scenes_are_cut_into_tiles_that_cover_them(tmp_path: Path) -> None:
    source = write_scenes(tmp_path / "src", {"a": (70, 100), "small": (20, 100)})
    _, shards = packed(source, "tiles={size: 32, overlap: 8}")
    for name, seed, height in (("a", 0, 70), ("small", 1, 20)):
        values, label = scene(height, 100, seed)
        whole = np.rint(np.clip(values[[2, 1, 0, 3]].astype(float), 0, 4000) * 255 / 4000)
        seen = np.zeros((height, 100), int)
        for key, (image, ids) in samples(shards).items():
            scene_key, _, place = key.rpartition("/")
            if scene_key == f"scenes/{name}":
                y, x = map(int, place.split("_"))
                side = min(32, height)
                assert image.shape == (side, 32, 4)
                assert np.array_equal(image, np.moveaxis(whole[:, y : y + side, x : x + 32], 0, -1))
                assert ids is not None and np.array_equal(ids, label[y : y + side, x : x + 32])
                seen[y : y + side, x : x + 32] += 1
        assert seen.all()


@pytest.mark.parametrize(("size", "overlap"), [(32, 0), (32, 8), (32, 31), (100, 5)])
@pytest.mark.parametrize("length", [1, 31, 32, 33, 56, 57, 300])
def test_tiles_are_few_evenly_spread_and_share_what_is_asked(length: int, size: int, overlap: int) -> None:
    found = starts(length, size, overlap)
    assert found[0] == 0 and found[-1] == max(length - size, 0)
    steps = np.diff(found)
    assert (steps <= size - overlap).all() and (len(steps) == 0 or steps.max() - steps.min() <= 1)
    assert len(found) == max(1, -(-(length - overlap) // (size - overlap)))
    assert tile_rects(length, 10, size, overlap)[-1][2:] == (length, 10)


def test_tiles_without_data_are_left_out_and_counted(tmp_path: Path) -> None:
    values, label = scene(64, 96)
    values[:, :, :40] = 0
    write(tmp_path / "src" / "scenes" / "a.tif", values, nodata=0)
    write(tmp_path / "src" / "labels" / "a.tif", label)
    made, shards = packed(tmp_path / "src", "tiles={size: 32}")
    found = samples(shards)
    assert sorted(key[-11:] for key in found) == ["00000_00032", "00000_00064", "00032_00032", "00032_00064"]
    image, ids = found["scenes/a/00000_00032"]
    assert ids is not None and (ids[:, :8] == 255).all() and np.array_equal(ids[:, 8:], label[:32, 40:64])
    assert not image[:, :8].any() and image[:, 8:].all()
    assert any(text.startswith("2 tiles or images hold no data at all") for text in made.told)
    assert any(text.startswith("512 pixels of 2 images hold no data") for text in made.told)
    inside = np.rint(values[[2, 1, 0, 3], :, 40:] * (255 / 4000)) / 255
    bands = shards.bands()
    assert bands is not None and np.allclose(bands.mean, inside.mean(axis=(1, 2)), atol=1e-9)


def test_pairs_of_two_dates(tmp_path: Path) -> None:
    source = write_scenes(tmp_path / "src", {"a": (64, 64)})
    later = scene(64, 64, 9)[0]
    later[:, 0, 0] = 7
    write(source / "later" / "a.tif", later, nodata=7)
    text = RECIPE.replace("subsets: {train: {", 'subsets: {train: {second: "later/{stem}.tif", ')
    _, shards = packed(source, "tiles={size: 32}", text=text)
    record = shards.read(0)
    assert record.second is not None and record.label is not None
    assert decode_image(record.second, "x").shape == (32, 32, 4)
    assert decode_label(record.label, "x")[0, 0] == 255, "no data at one date"
    write(source / "later" / "a.tif", later, origin=(0, 0))
    assert "the second image of scenes/a.tif has the transform" in refused(source, text=text)


# Labels


def test_labels_of_another_grid_are_refused_with_the_numbers(source: Path) -> None:
    label = scene(40, 60)[1]
    for options, text in (
        ({"crs": "EPSG:32633"}, "has the CRS EPSG:32633 instead of EPSG:32632"),
        ({"origin": (500100.0, 5200000.0)}, "has the transform [10.0, 0.0, 500100.0"),
        ({"metres": 20.0}, "has the transform [20.0"),
    ):
        write(source / "labels" / "a.tif", label, **options)
        assert f"labels/a.tif: the label of scenes/a.tif {text}" in refused(source)
    write(source / "labels" / "a.tif", label[:, :50])
    message = refused(source, "tiles={size: 32}")
    assert "1 x grid mismatch" in message and "is 50x40 pixels instead of 60x40" in message


def test_a_png_beside_a_scene_is_taken_pixel_by_pixel_and_told(source: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        save(source / "labels" / f"{name}.png", scene(40, 60, seed)[1])
    made, shards = packed(source, text=RECIPE.replace("{stem}.tif", "{stem}.png"))
    assert np.array_equal(samples(shards)["scenes/a"][1], scene(40, 60, 0)[1])
    assert any(text.startswith("2 files beside georeferenced images have no place") for text in made.told)


def test_no_data_in_a_label_is_not_labelled_unless_it_is_a_class(source: Path) -> None:
    label = scene(40, 60, 0)[1]
    label[0] = 77
    write(source / "labels" / "a.tif", label, nodata=77)
    write(source / "labels" / "b.tif", scene(40, 60, 1)[1], nodata=0)
    made, shards = packed(source)
    found = samples(shards)["scenes/a"][1]
    assert found is not None and (found[0] == 255).all() and np.array_equal(found[1:], label[1:])
    assert np.array_equal(samples(shards)["scenes/b"][1], scene(40, 60, 1)[1])
    assert any(text.startswith("60 pixels of 1 label rasters are no-data") for text in made.told)
    assert any("which is a class" in text and "labels/b.tif" in text for text in made.told)
    write(source / "labels" / "a.tif", label)
    assert "labels/a.tif" in refused(source) and "77" in refused(source)


def test_labels_as_colours_and_as_floats(source: Path) -> None:
    colors = np.array([[9, 9, 9], [0, 200, 0], [0, 0, 255]], np.uint8)
    for name, seed in (("a", 0), ("b", 1)):
        label = scene(40, 60, seed)[1]
        write(source / "colors" / f"{name}.tif", np.moveaxis(colors[label], -1, 0))
        floats = label.astype(np.float32)
        floats[0] = np.nan
        write(source / "floats" / f"{name}.tif", floats)
    _, shards = packed(
        source, "label_kind=colors", f"colors={colors.tolist()}", text=RECIPE.replace("labels/", "colors/")
    )
    assert np.array_equal(samples(shards)["scenes/b"][1], scene(40, 60, 1)[1])
    _, shards = packed(source, text=RECIPE.replace("labels/", "floats/"))
    found = samples(shards)["scenes/b"][1]
    assert found is not None and (found[0] == 255).all()
    assert np.array_equal(found[1:], scene(40, 60, 1)[1][1:])
    assert "has 3 bands, expected 1; is it label_kind colors?" in refused(
        source, text=RECIPE.replace("labels/", "colors/")
    )


def test_lossy_and_vector_labels_are_refused(source: Path) -> None:
    write(source / "labels" / "a.tif", scene(40, 60)[1], compress="jpeg")
    assert "JPEG" in refused(source)
    (source / "labels" / "a.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    text = RECIPE.replace("{stem}.tif", "{stem}.geojson")
    assert "holds shapes, not pixels" in refused(source, text=text)


# What is wrong with images


def test_a_band_that_is_not_there(source: Path) -> None:
    message = refused(source, "bands=[4, 3, 2, 8]")
    assert (
        "2 x missing band" in message and "scenes/a.tif: has 4 bands, the recipe asks for band 8" in message
    )


def test_rasters_that_are_not_alike(source: Path) -> None:
    values = scene(40, 60, 1)[0]
    for other, options, text in (
        (np.concatenate([values, values]), {}, "has other bands than scenes/a.tif (8 against 4)"),
        (values.astype(np.float32), {}, "has other numbers than scenes/a.tif (float32 against uint16)"),
        (
            values,
            {"names": ("nir", "r", "g", "b")},
            "has other band names than scenes/a.tif (nir, r, g, b against",
        ),
    ):
        write(source / "scenes" / "b.tif", other, **options)
        message = refused(source)
        assert "1 x mixed rasters" in message and f"scenes/b.tif: {text}" in message


def test_numbers_without_a_scaling_are_refused_with_what_they_are(source: Path) -> None:
    text = RECIPE.replace("scaling: {range: [0, 4000]}", "")
    message = refused(source, text=text)
    assert "holds uint16 numbers, of which 8 bits are to be stored" in message
    both = np.concatenate([scene(40, 60, seed)[0].reshape(4, -1) for seed in (0, 1)], axis=1)
    low = both[[2, 1, 0, 3]].min(axis=1)
    assert str(low.astype(float).tolist()) in message


def test_negative_numbers_and_nan(source: Path) -> None:
    values = scene(40, 60)[0].astype(np.int16)
    values[0, 0, :5] = -50
    for name in "ab":
        write(source / "scenes" / f"{name}.tif", values)
    made, shards = packed(source)
    assert any(text.startswith("10 values of 2 images lie outside the scaling") for text in made.told)
    assert samples(shards)["scenes/a"][0][0, :5, 2].tolist() == [0] * 5
    floats = values.astype(np.float32)
    floats[1, 3, 3] = np.nan
    for name in "ab":
        write(source / "scenes" / f"{name}.tif", floats)
    made, shards = packed(source, "nodata=-50")
    found = samples(shards)["scenes/a"][1]
    assert found is not None and (found == 255).sum() == 6 and found[3, 3] == 255
    floats[1, 3, 4] = np.inf
    write(source / "scenes" / "b.tif", floats)
    assert "scenes/b.tif: has 1 infinite values" in refused(source)


def test_a_scaling_that_leaves_nothing_is_a_warning(source: Path) -> None:
    made, _ = packed(source, "scaling={range: [0, 1]}")
    assert any("the bands [3, 2, 1, 4] hardly vary" in text for text in made.warnings)
    assert not packed(source)[0].warnings


def test_damaged_files_are_told_with_the_others(source: Path) -> None:
    whole = (source / "scenes" / "b.tif").read_bytes()
    (source / "scenes" / "b.tif").write_bytes(whole[:900])
    (source / "labels" / "a.tif").unlink()
    message = refused(source)
    assert "1 x missing label" in message and "scenes/b.tif: cannot be read as a raster" in message


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (["scaling={range: [4000, 0]}"], "range goes from low to high, found [4000.0, 0.0]"),
        (["scaling={range: [5, 5]}"], "range goes from low to high"),
        (["scaling={range: [0, 1], percentiles: [2, 98]}"], "give exactly one of them"),
        (["scaling={range: null, percentiles: [2, 101]}"], "percentiles go from 0 to 100"),
        (["scaling={range: null, ranges: [[0, 1]]}"], "one pair for each of the 4 bands"),
        (["bands=[0, 1]"], "numbers from 1"),
        (["bands=[1, 1]"], "each once"),
        (["bands=[]"], "scaling is for recipes with `bands`"),
        (["show=[1, 2]"], "three of the bands"),
        (["show=[1, 2, 8]"], "three of the bands"),
        (["downscale=2"], "downscale is not for rasters"),
        (["png=webp"], "png is not for rasters"),
        (["tiles={size: 8}"], "size must be at least 16"),
        (["tiles={size: 32, overlap: 32}"], "overlap must be from 0 to below size"),
        (["depth=12"], "expected one of 8, 16"),
    ],
)
def test_settings_that_cannot_be(changes: list[str], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        recipe(*changes)
    assert text in str(error.value)


def test_recipes_without_bands_say_nothing_of_them() -> None:
    text = 'classes: [a, b]\nsubsets: {train: {images: "*.jpg"}}'
    assert not {"bands", "scaling", "depth", "show", "nodata", "tiles"} & set(recipe(text=text).settings())
    assert rasterio is not None


def test_tiles_of_a_scene_stay_on_one_side_of_every_split(tmp_path: Path, capsys) -> None:
    source = write_scenes(tmp_path / "src", dict.fromkeys("abcdef", (48, 64)))
    packed(source, "tiles={size: 32, overlap: 8}")
    place = ["--shards", str(tmp_path / "out"), "--out", str(tmp_path / "split")]
    assert split.main([*place, "--count", "2"]) == 0
    assert "counts are those of scenes" in capsys.readouterr().out
    lists = [read_keys(tmp_path / "split" / f"{name}.txt") for name in ("labeled", "unlabeled")]
    scenes = [{key.rpartition("/")[0] for key in keys} for keys in lists]
    assert len(scenes[0]) == 2 and len(scenes[1]) == 4 and not scenes[0] & scenes[1]
    assert split.main([*place, "--folds", "3"]) == 0
    for fold in (1, 2, 3):
        lists = [read_keys(tmp_path / "split" / str(fold) / f"{name}.txt") for name in ("train", "val")]
        train, val = ({key.rpartition("/")[0] for key in keys} for keys in lists)
        assert len(val) == 2 and len(train) == 4 and not train & val
    assert split.main([*place, "--count", "7", "--group-by", "none"]) == 0
    assert len(read_keys(tmp_path / "split" / "labeled.txt")) == 7
