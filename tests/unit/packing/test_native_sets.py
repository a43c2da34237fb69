"""The recipes of known data sets on real samples: class pixels against counts straight from the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.support.folder_source import RECIPES, labels_of, save
from unimatch import config
from unimatch.codecs.decode import decode_image
from unimatch.errors import DataError
from unimatch.packing.folder import pack
from unimatch.packing.recipe import Recipe
from unimatch.shardset.archive import ShardSet

# labelIds of the 19 classes of Cityscapes, in the order of their training ids.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def packed(name: str, source: Path, out: Path, *changes: str) -> ShardSet:
    pack(config.load(RECIPES / f"{name}.yaml", Recipe, changes), source, out)
    return ShardSet.open(out)


def pixels(shards: ShardSet, subset: str) -> list[int]:
    counts = shards.class_pixels(subset)
    assert counts is not None
    return counts.tolist()


def count(files: list[Path], values: tuple[int, ...]) -> list[int]:
    """How many pixels of the label files have each value."""
    assert files
    arrays = [np.asarray(Image.open(file)) for file in files]
    return [sum(int((array == value).sum()) for array in arrays) for value in values]


def listed(path: Path) -> list[str]:
    return path.read_text().split()


def test_camvid(tmp_path: Path, real_data: Path) -> None:
    """Images of val at full size; the recipe halves them, which only `downscale` is for."""
    source, absent = real_data / "camvid", "{images: none/*.jpg, optional: true}"
    changes = [f"subsets.{subset}={absent}" for subset in ("train", "test")]
    changes += ["downscale=1", "subsets.val.images=images/val/0016E5_07*.jpg"]
    shards = packed("camvid", source, tmp_path / "out", *changes)
    assert shards.subsets == ["val"] and shards.taxonomy.names[:2] == ("Sky", "Building")
    files = sorted((source / "labels" / "val").glob("0016E5_07*.png"))
    assert pixels(shards, "val") == count(files, tuple(range(11)))


def test_pascal(tmp_path: Path, real_data: Path) -> None:
    source = real_data / "voc2012" / "VOCdevkit" / "VOC2012"
    with pytest.raises(DataError, match="ImageSets/Segmentation/val.txt"):
        packed("pascal", source, tmp_path / "none")
    shards = packed("pascal", source, tmp_path / "out", "subsets.val.optional=true")
    names = listed(source / "ImageSets" / "Segmentation" / "train.txt")
    assert sorted(shards.keys(shards.rows("train"))) == [f"JPEGImages/{name}" for name in sorted(names)]
    files = [source / "SegmentationClass" / f"{name}.png" for name in names]
    assert shards.subsets == ["train"] and pixels(shards, "train") == count(files, tuple(range(21)))


def test_pascal_with_augmented_masks(tmp_path: Path, real_data: Path) -> None:
    """One image of the sample becomes val, one has no augmented mask: it is left over for `extra`."""
    source, native = tmp_path / "source", real_data / "voc2012" / "VOCdevkit" / "VOC2012"
    names = listed(native / "ImageSets" / "Segmentation" / "train.txt")
    for folder, kept in (("JPEGImages", names), ("SegmentationClass", names[:1])):
        for path in (native / folder).iterdir():
            if path.stem in kept:
                save(source / folder / path.name, path.read_bytes())
    for name in names[:3]:  # the published masks of this kind are grey; that of val is there too
        values = np.asarray(Image.open(native / "SegmentationClass" / f"{name}.png"))
        save(source / "SegmentationClassAug" / f"{name}.png", values)
    save(source / "ImageSets" / "Segmentation" / "val.txt", names[0].encode())
    shards = packed("pascal_aug", source, tmp_path / "out")
    keys = {subset: sorted(shards.keys(shards.rows(subset))) for subset in shards.subsets}
    assert keys["val"] == [f"JPEGImages/{names[0]}"] and keys["extra"] == [f"JPEGImages/{names[3]}"]
    assert keys["train"] == sorted(f"JPEGImages/{name}" for name in names[1:3])
    files = [native / "SegmentationClass" / f"{name}.png" for name in names[1:3]]
    assert pixels(shards, "train") == count(files, tuple(range(21)))


def test_cityscapes(tmp_path: Path, real_data: Path) -> None:
    """One of the pairs, with ready training ids beside it and an image of leftImg8bit_trainextra."""
    source, native = tmp_path / "source", real_data / "cityscapes"
    images = sorted(native.glob("leftImg8bit/train/*/*.png"))[:1]
    labels = [
        native / "gtFine" / "train" / "aachen" / image.name.replace("leftImg8bit", "gtFine_labelIds")
        for image in images
    ]
    for path in (*images, *labels):
        save(source / path.relative_to(native), path.read_bytes())
    for path in labels:
        ids = np.asarray(Image.open(path))
        train_ids = np.full_like(ids, 255)
        for place, value in enumerate(CITYSCAPES_IDS):
            train_ids[ids == value] = place
        save(source / str(path.relative_to(native)).replace("labelIds", "labelTrainIds"), train_ids)
    extra = source / "leftImg8bit" / "train_extra" / "bamberg" / "bamberg_000000_000000_leftImg8bit.png"
    save(extra, np.zeros((8, 16, 3), np.uint8))
    shards = packed("cityscapes", source, tmp_path / "out", "subsets.val.optional=true")
    assert sorted(shards.subsets) == ["extra", "train"] and len(shards) == 2
    assert pixels(shards, "train") == count(labels, CITYSCAPES_IDS)
    ready = packed("cityscapes_trainids", source, tmp_path / "ready", "subsets.val.optional=true")
    assert pixels(ready, "train") == pixels(shards, "train") and ready.taxonomy == shards.taxonomy


def test_ade20k(tmp_path: Path, real_data: Path) -> None:
    source = real_data / "ade20k" / "ADEChallengeData2016"
    shards = packed("ade20k", source, tmp_path / "out")
    assert shards.subsets == ["train", "val"] and shards.taxonomy.num_classes == 150
    for subset, folder in (("train", "training"), ("val", "validation")):
        files = sorted((source / "annotations" / folder).iterdir())
        assert pixels(shards, subset) == count(files, tuple(range(1, 151)))


@pytest.mark.parametrize("name", ["levir", "whu"])
def test_change_detection(tmp_path: Path, real_data: Path, name: str) -> None:
    source = real_data / "levir"
    shards = packed(name, source, tmp_path / "out")
    for subset in ("train", "val", "test"):
        files = [source / "label" / line for line in listed(source / "list" / f"{subset}.txt")]
        assert pixels(shards, subset) == count(files, (0, 255))
        assert len(shards.rows(subset)) == len(files)
    record = shards.read(shards.rows("val")[0])
    assert record.second is not None and record.key == "A/val_27_0000_0256"
    for data, folder in ((record.image, "A"), (record.second, "B")):
        assert data == (source / folder / "val_27_0000_0256.png").read_bytes()


def test_acdc(tmp_path: Path, real_data: Path) -> None:
    source = tmp_path / "source"
    lists = real_data / "acdc" / "splits"
    slices = listed(lists / "1" / "labeled.txt")[:6]
    volumes = {subset: listed(lists / f"{subset}.txt")[:1] for subset in ("val", "test")}
    for path in (*slices, *volumes["val"], *volumes["test"]):
        save(source / path, (real_data / "acdc" / path).read_bytes())
    for subset, paths in volumes.items():
        save(source / "splits" / f"{subset}.txt", "\n".join(paths).encode())
    shards = packed("acdc", source, tmp_path / "out")
    images: dict[str, np.ndarray] = {}
    for subset, paths in {"train": slices, **volumes}.items():
        expected = np.zeros(4, np.int64)
        for path in paths:
            with h5py.File(source / path) as file:
                expected += np.bincount(file["label"][()].ravel(), minlength=4)
                key, values = path.removesuffix(".h5"), file["image"][()]
            images |= (
                {key: values} if values.ndim == 2 else {f"{key}/{d:03d}": v for d, v in enumerate(values)}
            )
        assert pixels(shards, subset) == expected.tolist()
    assert sorted(shards.keys(np.arange(len(shards)))) == sorted(images)
    for record in map(shards.read, range(len(shards))):
        stored = decode_image(record.image, record.where) / 65535
        assert np.abs(stored - images[record.key]).max() <= 0.5 / 65535 + 1e-9


def segment_ids(path: Path) -> np.ndarray:
    rgb = np.asarray(Image.open(path)).astype(int)
    return rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]


def runs(mask: np.ndarray) -> dict[str, Any]:
    flat = mask.T.ravel()
    counts = np.diff([0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def test_coco(tmp_path: Path, real_data: Path) -> None:
    """Panoptic labels against a count by segments, and against instances made from the same segments."""
    source, native = tmp_path / "source", real_data / "coco"
    (source / "annotations").mkdir(parents=True)
    total: dict[str, np.ndarray] = {}
    segment_maps: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for subset, most in (("train", 4), ("val", 3)):
        content = json.loads((native / "annotations" / f"panoptic_{subset}2017.json").read_text())
        things = sorted(entry["id"] for entry in content["categories"] if entry["isthing"])
        classes = {category: place for place, category in enumerate(things, 1)}
        # Crowds first, so that the few images that are packed hold some.
        content["annotations"].sort(key=lambda a: -max(s["iscrowd"] for s in a["segments_info"]))
        content["annotations"] = content["annotations"][:most]
        instances = []
        counts = np.zeros(81, np.int64)
        for entry in content["annotations"]:
            folder = f"annotations/panoptic_{subset}2017"
            ids = segment_ids(native / folder / entry["file_name"])
            void_or_crowd = ids == 0
            for segment in entry["segments_info"]:
                mask = ids == segment["id"]
                class_id = classes.get(segment["category_id"], 0)
                counts[class_id] += mask.sum()
                if segment["iscrowd"]:
                    void_or_crowd |= mask
                if class_id:
                    shape = {"image_id": entry["image_id"], "segmentation": runs(mask)}
                    instances.append({**segment, **shape})
            name = entry["file_name"].removesuffix(".png")
            segment_maps[f"{subset}2017/{name}"] = (ids, void_or_crowd)
            for path in (f"{subset}2017/{name}.jpg", f"{folder}/{name}.png"):
                save(source / path, (native / path).read_bytes())
        total[subset] = counts
        (source / "annotations" / f"panoptic_{subset}2017.json").write_text(json.dumps(content))
        content["categories"] = [entry for entry in content["categories"] if entry["isthing"]]
        content["annotations"] = instances
        (source / "annotations" / f"instances_{subset}2017.json").write_text(json.dumps(content))
    shards = packed("coco", source, tmp_path / "panoptic")
    drawn = packed("coco_instances", source, tmp_path / "instances")
    assert shards.subsets == ["train", "val"] and shards.taxonomy == drawn.taxonomy
    assert shards.taxonomy.names[1:4] == ("person", "bicycle", "car")
    for subset in ("train", "val"):
        assert pixels(shards, subset) == total[subset].tolist()
        panoptic = labels_of(tmp_path / "panoptic", subset)
        instance = labels_of(tmp_path / "instances", subset)
        for key, label in panoptic.items():
            ids, void_or_crowd = segment_maps[key]
            assert (label == 255).sum() == (ids == 0).sum()
            assert np.array_equal(label[~void_or_crowd], instance[key][~void_or_crowd])
    for key, label in {**labels_of(tmp_path / "panoptic"), **labels_of(tmp_path / "panoptic", "val")}.items():
        save(source / "masks" / f"{key.rpartition('/')[2]}.png", label)
    masks = packed("coco_masks", source, tmp_path / "masks")
    assert pixels(masks, "train") == total["train"].tolist()
    assert pixels(masks, "val") == total["val"].tolist() and masks.taxonomy == shards.taxonomy
