"""Tars in layouts that other programs write with the webdataset package."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from tests.unit.packing.test_tools import tool
from unimatch.codecs.decode import decode_label
from unimatch.codecs.encode import jpeg, png
from unimatch.shardset.archive import ShardSet


def write(folder: Path, samples: list[dict[str, Any]], name: str = "train-000000.tar") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(folder / name), encoder=False) as sink:
        for sample in samples:
            sink.write(sample)
    return folder


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def mask(seed: int) -> np.ndarray:
    label = np.random.default_rng(seed).integers(0, 3, (12, 16), dtype=np.uint8)
    label[0] = 255
    return label


def palette(seed: int) -> bytes:
    image = Image.fromarray(mask(seed)).convert("P")
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def told(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert tool("check_shards", "--foreign", folder, *arguments) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("ending", ["seg.png", "mask.png", "png"])
def test_labels_under_another_ending(tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str) -> None:
    samples = [
        {"__key__": f"s{i:03d}", "jpg": jpeg(picture(i), 90), ending: png(mask(i)), "json": b"{}"}
        for i in range(5)
    ]
    folder = write(tmp_path / "t", samples)
    text = told(folder, capsys)
    assert "5 samples; subsets: train (1 tars)" in text and "8-bit grey, ids 0 to 2 and 255" in text
    assert f"- .{ending}: looks like the label (5 of 5 samples): --label-ext {ending}" in text
    assert text.splitlines()[-1].endswith(f"--foreign {folder} --classes NAMES --label-ext {ending}")
    text = told(folder, capsys, "--classes", "road,tree,car", "--label-ext", ending)
    assert f"{folder}: 5 samples" in text and "sound" in text and "tree" in text
    shards = ShardSet.open(folder)
    assert shards.taxonomy.names == ("road", "tree", "car") and shards.check() == []
    for row in range(5):
        record = shards.read(row)
        assert record.label is not None and record.label_ext == "png" and record.image_ext == "jpg"
        assert np.array_equal(decode_label(record.label, ""), mask(row))
    assert "indexed already" in told(folder, capsys)
    assert tool("check_shards", folder) == 0


def test_our_own_ending_needs_only_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "t", [{"__key__": "a", "jpg": jpeg(picture(0), 90), "label.png": png(mask(0))}])
    assert told(folder, capsys).splitlines()[-1].endswith("--classes NAMES")
    (tmp_path / "names.txt").write_text("0 road 1 2 3\n2 car 7 8 9\n1 tree 4 5 6\n255 void\n")
    assert "#070809" in told(folder, capsys, "--classes", tmp_path / "names.txt")
    assert ShardSet.open(folder).taxonomy.names == ("road", "tree", "car")


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ({"seg.png": palette(0)}, "palette PNG"),
        ({"seg.png": png(picture(1))}, "3-channel PNG"),
        ({"cls": b"3"}, "no labels (.label.npy.zst or .label.png"),
        ({"png": png(picture(1))}, "1 samples have more than one image"),
        ({"seg.png": b"broken"}, "cannot be read"),
    ],
)
def test_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sample: dict[str, bytes], expected: str
) -> None:
    folder = write(tmp_path / "t", [{"__key__": "a", "jpg": jpeg(picture(0), 90), **sample}])
    assert expected in told(folder, capsys)


def test_images_under_another_name_and_many_subsets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(21):
        write(
            tmp_path / "t", [{"__key__": f"a{number}", "rgb.jpg": jpeg(picture(0), 90)}], f"{number:06d}.tar"
        )
    text = told(tmp_path / "t", capsys)
    assert "- no images: they are the members that end on .jpg" in text and "- 21 subsets" in text


def test_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(*arguments: object) -> str:
        assert tool("check_shards", "--foreign", *arguments) == 1
        return capsys.readouterr().err

    assert "no such folder" in error(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "holds no tars" in error(tmp_path / "empty")
    folder = write(tmp_path / "t", [{"__key__": "a", "jpg": jpeg(picture(0), 90), "seg.png": png(mask(0))}])
    assert "labels end on npy.zst or png, found 'seg.tif'" in error(
        folder, "--classes", "a,b,c", "--label-ext", "seg.tif"
    )
    (tmp_path / "names.txt").write_text("0 road\n2 car\n")
    assert "the ids must be 0 to 1" in error(folder, "--classes", tmp_path / "names.txt")
    assert "2 to 255 classes" in error(folder, "--classes", "road")
    assert "label value(s) 2" in error(folder, "--classes", "a,b", "--label-ext", "seg.png")
    (folder / "train-000000.tar").write_bytes((folder / "train-000000.tar").read_bytes()[:1000])
    assert tool("check_shards", "--foreign", folder) == 0
    assert "- train-000000.tar: " in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--classes", "a,b"], ["--foreign", "--label-ext", "x.png"]])
def test_arguments_that_do_not_go_together(tmp_path: Path, arguments: list[str]) -> None:
    assert tool("check_shards", tmp_path, *arguments) == 2
