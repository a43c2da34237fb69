"""A class without a pixel is named by every tool that sees the masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.folder_source import picture, save
from tests.unit.packing.test_tools import tool

RECIPE = """
classes: [background, crack]
ignore_id: 255
subsets:
  train: {images: "train/*.png", labels: "masks/{stem}.png"}
  val: {images: "val/*.png", labels: "masks/{stem}.png"}
"""


@pytest.mark.parametrize("ignore", ["ignore_id: 255", "id_map: {0: 0, 255: 1}"])
def test_a_foreground_that_became_not_labelled(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], ignore: str
) -> None:
    """Masks of 0 and 255, where the recipe that was copied says that 255 is "not labelled"."""
    for number in range(6):
        name = f"{number}.png"
        save(tmp_path / "source" / ("train" if number < 4 else "val") / name, picture(seed=number))
        label = np.zeros((12, 16), np.uint8)
        label[3:9, 4:10] = 255
        save(tmp_path / "source" / "masks" / name, label)
    (tmp_path / "r.yaml").write_text(RECIPE.replace("ignore_id: 255", ignore))
    shards = tmp_path / "shards"
    options = ("--recipe", tmp_path / "r.yaml", "--source", tmp_path / "source", "--workers", 1)
    told = {}
    for name, arguments in {
        "make_shards": (*options, "--out", shards),
        "check_shards": (shards,),
        "make_splits": ("--shards", shards, "--count", 2, "--out", tmp_path / "split"),
    }.items():
        assert tool(name, *arguments) == 0
        warnings = capfd.readouterr().err.splitlines()
        told[name] = [line for line in warnings if "a class has no pixel in any mask: crack" in line]
    subsets = ["train", "val"] if ignore.startswith("ignore_id") else []
    for name in ("make_shards", "check_shards"):
        assert [line.split(": ")[1] for line in told[name]] == subsets
        assert all("18.8% of the pixels are 'not labelled'" in line for line in told[name])
    assert [line.split(": ")[1] for line in told["make_splits"]] == subsets[:1]
