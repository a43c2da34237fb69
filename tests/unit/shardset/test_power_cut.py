"""Shard sets and the cache after a power cut at any moment: whole, or known not to be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.power_cut import cuts
from tests.support.tiny_set import TAXONOMY, write_tiny
from unimatch.errors import DataError
from unimatch.shardset.archive import ShardSet, index_tars
from unimatch.shardset.cache import Cache, RemoteFile
from unimatch.shardset.scan import members


def every_file(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.iterdir())}


def test_a_set_is_whole_once_it_opens(tmp_path):
    root, whole = tmp_path / "set", every_file(write_tiny(tmp_path / "whole"))
    opened = []
    for _ in cuts(lambda: write_tiny(root), root, lambda: shutil.rmtree(root, ignore_errors=True)):
        try:
            shards = ShardSet.open(root)
        except DataError as error:
            assert "no such folder" in str(error) or "has no index.json: an unfinished set" in str(error)
            opened.append(False)
        else:
            assert shards.check() == []
            assert {name: data for name, data in every_file(root).items() if name[0] != "."} == whole
            opened.append(True)
    assert opened == sorted(opened) and opened.count(False) >= 8, "the index comes last"


def test_tars_whose_indexing_was_cut_are_indexed_again(tmp_path):
    whole = every_file(write_tiny(tmp_path / "whole"))
    root = tmp_path / "set"
    root.mkdir()

    def fresh() -> None:
        for name in every_file(root):
            (root / name).unlink()
        for name, data in whole.items():
            if name.endswith(".tar"):
                (root / name).write_bytes(data)

    for _ in cuts(lambda: index_tars(root, TAXONOMY), root, fresh):
        try:
            shards = ShardSet.open(root)
        except DataError as error:
            assert "has no index.json: an unfinished set" in str(error)
            shards = ShardSet.open(root, TAXONOMY)
        assert shards.check() == [] and len(shards) == 15


def test_a_cached_file_is_right_whenever_the_power_goes(tmp_path):
    """Its name says its size, and whoever opens it believes its bytes."""
    data = b"some bytes of a shard" * 100
    wanted = RemoteFile("https://host/train-00000.tar", len(data), "0" * 64)
    cache = Cache(tmp_path / "cache", 10**6)
    fetched = []

    def fetch(_: RemoteFile, number: int) -> None:
        os.ftruncate(number, 0)
        os.pwrite(number, data, 0)
        fetched.append(number)

    def opened() -> bytes:
        number = cache.open(wanted, fetch)
        try:
            return os.pread(number, len(data) + 1, 0)
        finally:
            os.close(number)

    for _ in cuts(opened, tmp_path, lambda: shutil.rmtree(cache.folder, ignore_errors=True)):
        assert opened() == data
        before = len(fetched)
        assert opened() == data and len(fetched) == before
    assert len(fetched) > 3


def test_a_shard_cut_inside_a_member_is_never_a_shorter_sample(tmp_path):
    """After it was opened, at every place of the first sample's image and label."""
    root = write_tiny(tmp_path / "set", train=4, labeled=4)
    path = root / "train-00000.tar"
    whole = path.read_bytes()
    (_, image, image_size), (_, label, label_size) = list(members(path))[:2]
    for start, size in ((image, image_size), (label, label_size)):
        for kept in (0, 1, size // 2, size - 1):
            path.write_bytes(whole)
            shards = ShardSet.open(root)
            os.truncate(path, start + kept)
            with pytest.raises(
                DataError, match=rf"train-00000\.tar:t000: .* after {kept} of {size} bytes at {start};"
            ):
                shards.read(0)
            if start == label:
                assert shards.read(0, with_label=False).image
        path.write_bytes(whole)
        os.truncate(path, start + size)
        assert shards.read(0, with_label=start == label).key == "t000"
