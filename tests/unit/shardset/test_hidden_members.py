"""Tars that were made on a Mac: a `._a.jpg` before each a.jpg, and `._x.tar` beside x.tar."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.unit.packing.test_tools import tool
from unimatch.codecs.encode import jpeg, png
from unimatch.inspection.foreign import describe, survey
from unimatch.shardset.archive import ShardSet, index_tars
from unimatch.taxonomy import Taxonomy

APPLE_DOUBLE = b"\0\5\x16\7Mac OS X"


def mac_tar(folder: Path, count: int = 5) -> Path:
    folder.mkdir()
    with tarfile.open(folder / "train-00000.tar", "w") as tar:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))

        add("./.DS_Store", b"Bud1")
        for number in range(count):
            image = np.random.default_rng(number).integers(0, 255, (12, 16, 3), np.uint8)
            files = {"jpg": jpeg(image, 90), "label.png": png(image[..., 0] % 3)}
            for ending, data in files.items():
                add(f"./._img{number}.{ending}", APPLE_DOUBLE)
                add(f"./img{number}.{ending}", data)
    (folder / "._train-00000.tar").write_bytes(APPLE_DOUBLE)
    return folder


def test_hidden_members_are_no_samples(tmp_path: Path) -> None:
    folder = mac_tar(tmp_path / "tars")
    text = describe(survey(folder))
    assert "5 samples" in text and "11 members whose names begin with a dot are left out" in text
    assert len(text.splitlines()) == 2 + 2 + 1 and "COPYFILE_DISABLE=1" in text


def test_they_are_left_out_when_tars_are_indexed_and_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = mac_tar(tmp_path / "tars")
    index_tars(folder, Taxonomy.of(["a", "b", "c"]))
    shards = ShardSet.open(folder)
    assert sorted(shards.keys(np.arange(5))) == [f"img{number}" for number in range(5)]
    assert tool("check_shards", folder) == 0 and "sound" in capsys.readouterr().out
