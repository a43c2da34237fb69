"""The splits that travel with the package: as published, in the keys that our recipes make."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.conftest import ROOT
from tests.support.folder_source import RECIPES
from unimatch import config, shipped
from unimatch.packing.layout import find_layout
from unimatch.packing.names import sample_key
from unimatch.packing.recipe import Recipe
from unimatch.shardset.key_list import HEADER_LINE, list_hash, read_list

SPLITS = shipped.of_kind("splits")
# Of each data set: the recipe, how many samples it trains on, and where the recipe looks for an id's image.
SETS = {
    "pascal": ("pascal_aug", 10582, "{}"),
    "cityscapes": ("cityscapes", 2975, "{}"),
    "coco": ("coco_masks", 118287, "{}"),
    "ade20k": ("ade20k", 20210, "{}"),
    "levir": ("levir", 7120, "A/{}"),
    "whu": ("whu", 5947, "A/{}"),
    "acdc": ("acdc", 1312, "{}"),
}


@pytest.mark.parametrize("name", SPLITS)
def test_a_split_is_whole_and_says_what_it_divides(name: str) -> None:
    path = shipped.names()[f"splits/{name}"]
    keys, published = read_list(path)
    assert published is not None
    assert (published.total, published.subset) == (SETS[name.split("/")[0]][1], "train")
    assert published.source.startswith("LiheYoung/UniMatch") and keys == sorted(set(keys))
    told = HEADER_LINE.fullmatch(path.read_text().splitlines()[0])
    assert told is not None and told["hash"] == list_hash(keys) and len(keys) < published.total


def test_every_published_list_is_there_and_holds_its_ids(real_data: Path) -> None:
    files = sorted((real_data / "published_ids").glob("*/*.txt"))
    assert [
        path.relative_to(real_data / "published_ids").with_suffix("").as_posix() for path in files
    ] == SPLITS
    for path in files:
        ids = path.read_text().split()
        place = SETS[path.parent.name][2]
        keys, _ = read_list(shipped.names()[f"splits/{path.parent.name}/{path.stem}"])
        assert keys == sorted(sample_key(place.format(one)) for one in ids)


def test_the_amounts_are_the_published_ones() -> None:
    def sizes(dataset: str, *names: str) -> list[int]:
        return [len(read_list(shipped.names()[f"splits/{dataset}/{name}"])[0]) for name in names]

    assert sizes("pascal", "92", "183", "366", "732", "1464") == [92, 183, 366, 732, 1464]
    assert sizes("pascal", "1_16", "1_8", "1_4") == sizes("pascal", "u2pl_1_16", "u2pl_1_8", "u2pl_1_4")
    assert sizes("pascal", "1_16", "1_8", "1_4") == [662, 1323, 2646]
    assert sizes("cityscapes", "1_16", "1_8", "1_4", "1_2", "1_30") == [186, 372, 744, 1488, 100]
    assert sizes("coco", "1_512", "1_256", "1_128", "1_64", "1_32") == [232, 463, 925, 1849, 3697]
    assert sizes("ade20k", "1_64", "1_32", "1_16", "1_8", "1_4", "1_2") == [316, 631, 1263, 2526, 5052, 10105]
    assert sizes("acdc", "1", "3", "7") == [32, 68, 136]


@pytest.mark.parametrize("dataset", SETS)
def test_our_recipes_make_these_keys(dataset: str, tmp_path: Path) -> None:
    """The recipe finds files named as its data set names them, and gives them the keys of the list."""
    recipe_name, _, _ = SETS[dataset]
    mine = [name for name in SPLITS if name.startswith(f"{dataset}/")]
    keys = sorted({key for name in mine for key in read_list(_path(name))[0][:20]})
    suffix = {"pascal": "jpg", "coco": "jpg", "ade20k": "jpg", "acdc": "h5"}.get(dataset, "png")
    for key in keys:
        for path in _files(dataset, key, suffix):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
            if suffix == "h5":
                with h5py.File(tmp_path / path, "w") as file:
                    file["image"], file["label"] = np.zeros((2, 2), np.float32), np.zeros((2, 2), np.uint8)
    recipe = config.load(RECIPES / f"{recipe_name}.yaml", Recipe, _without_others(recipe_name))
    if dataset in ("levir", "whu"):
        (tmp_path / "list").mkdir()
        (tmp_path / "list" / "train.txt").write_text("".join(f"{key[2:]}.png\n" for key in keys))
    layout = find_layout(recipe, ("one",), tmp_path)
    assert layout.problems == [] and sorted(job.key for job in layout.jobs["train"]) == keys


def _path(name: str) -> Path:
    return shipped.names()[f"splits/{name}"]


def _without_others(recipe: str) -> list[str]:
    """Overrides that make the other subsets of the recipe optional: there are no files of theirs here."""
    whole = config.load(ROOT / f"shards/recipes/{recipe}.yaml", Recipe)
    changes = [f"subsets.{name}={{lists: [], images: none/*.png, optional: true}}" for name in whole.subsets]
    return [change for change in changes if not change.startswith("subsets.train=")]


def _files(dataset: str, key: str, suffix: str) -> list[str]:
    """The image of a key and what belongs to it, below the source folder."""
    name = key.rpartition("/")[2]
    others = {
        "pascal": [f"SegmentationClassAug/{name}.png"],
        "cityscapes": [
            key.replace("leftImg8bit/", "gtFine/", 1).removesuffix("_leftImg8bit") + "_gtFine_labelIds.png"
        ],
        "coco": [f"masks/{name}.png"],
        "ade20k": [f"annotations/training/{name}.png"],
        "acdc": [],
    }
    return [f"{key}.{suffix}", *others.get(dataset, [f"B/{name}.png", f"label/{name}.png"])]


@pytest.mark.parametrize(
    "name", ["pascal/92", "pascal/1464", "pascal/1_16", "cityscapes/1_2", "cityscapes/1_16", "ade20k/1_64"]
)
def test_with_the_published_rest_they_are_the_number_that_is_told(real_data: Path, name: str) -> None:
    folder = real_data / "published_splits" / name
    labeled, rest = (
        {sample_key(line.split()[0]) for line in (folder / file).read_text().splitlines()}
        for file in ("labeled.txt", "unlabeled.txt")
    )
    keys, published = read_list(_path(name))
    assert published is not None and set(keys) == labeled
    assert not labeled & rest and len(labeled) + len(rest) == published.total
