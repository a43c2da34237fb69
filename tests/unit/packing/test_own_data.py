"""The five steps of docs/data.md, as far as they make data, on a folder with names as people give them."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from tests.unit.packing.test_tools import ROOT, tool
from unimatch.codecs.decode import decode_label
from unimatch.shardset.archive import ShardSet

IMAGES = [
    "Z\u00fcrich 1/v1.2 final.JPG",
    "Z\u00fcrich 1/50% (copy).png",
    "Z\u00fcrich 1/# 7.jpg",
    "other day/IMG_0001.jpeg",
    "other day/\u732b.png",
    "other day/dots..and...more.jpg",
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """ "My Photos" of docs/data.md; the label of image number i is i % 3 everywhere but in its first row."""
    root = tmp_path / "My Photos"
    random = np.random.default_rng(0)
    for number, name in enumerate([*IMAGES, *(f"plain/{i}.png" for i in range(6))]):
        image, label = root / "images" / name, (root / "masks" / name).with_suffix(".png")
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(image)
        mask = np.full((24, 32), number % 3, np.uint8)
        mask[0] = 255
        Image.fromarray(mask).save(label)
    (root / "holiday" / "a b").mkdir(parents=True)
    for name in ("a b/sea.webp", "x.tiff", "y.bmp"):
        Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(root / "holiday" / name)
    return root


def test_own_data(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, out, splits = tmp_path / "my.yaml", tmp_path / "data", tmp_path / "splits"
    block = re.search(r"```yaml\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.DOTALL)
    assert block is not None
    recipe.write_text(re.sub(r"^   ", "", block[1], flags=re.MULTILINE))
    assert tool("make_shards", "--recipe", recipe, "--source", source, "--out", out, "--workers", 1) == 0
    shards = ShardSet.open(out)
    assert [len(shards.rows(name)) for name in ("train", "extra")] == [12, 3]
    labels = {}
    for row in shards.rows("train"):
        record = shards.read(int(row))
        assert record.label is not None
        labels[unquote(record.key)] = int(decode_label(record.label, record.where)[1, 0])
    expected = {f"images/{name.rpartition('.')[0]}": number % 3 for number, name in enumerate(IMAGES)}
    assert {key: labels.get(key) for key in expected} == expected
    assert tool("check_shards", out, "--picture", tmp_path / "sheet.png") == 0
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
    stratified = ["--count", 3, "--method", "stratified", "--also", "extra", "--out", splits / "3"]
    assert tool("make_splits", "--shards", out, *stratified) == 0
    assert "labeled.txt: 3 keys" in capsys.readouterr().out
    assert tool("make_splits", "--shards", out, "--fraction", "1/4", "1/2", "--out", splits) == 0
    (tmp_path / "chosen.txt").write_text(
        "\n".join([IMAGES[0], f"My Photos/images/{IMAGES[1]}", "# 7.jpg", f"{IMAGES[5]} masks/more.png"]),
        encoding="utf-8",
    )
    assert (
        tool("make_splits", "--shards", out, "--list", tmp_path / "chosen.txt", "--out", splits / "own") == 0
    )
    chosen = {unquote(key) for key in shards.keys(shards.rows(splits / "own" / "labeled.txt"))}
    assert chosen == {f"images/{IMAGES[i].rpartition('.')[0]}" for i in (0, 1, 2, 5)}
    lists = [splits / "3" / f"{name}.txt" for name in ("labeled", "unlabeled")]
    assert tool("check_shards", out, "--splits", *lists) == 0


def test_two_images_that_differ_in_the_extension_only(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "images" / "plain" / "1.jpg").write_bytes((source / "images" / IMAGES[2]).read_bytes())
    recipe = tmp_path / "my.yaml"
    recipe.write_text(
        "classes: [a, b, c]\nignore_id: 255\n"
        'subsets: {train: {images: "images/plain/*.*", labels: "masks/plain/{stem}.png"}}\n'
    )
    assert (
        tool("make_shards", "--recipe", recipe, "--source", source, "--out", tmp_path / "x", "--workers", 1)
        == 1
    )
    assert "duplicate key" in capsys.readouterr().err
