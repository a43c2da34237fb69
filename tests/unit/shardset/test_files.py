from __future__ import annotations

import os
from pathlib import Path

from unimatch.shardset.files import OpenShards


def test_the_least_recently_used_shard_is_closed(tmp_path: Path):
    opened: list[int] = []

    def open_shard(number: int) -> int:
        opened.append(number)
        path = tmp_path / str(number)
        path.write_bytes(b"x")
        return os.open(path, os.O_RDONLY)

    shards = OpenShards(open_shard, limit=2, cached=False)
    for number in (0, 1, 0, 2, 0, 2, 1):
        assert os.pread(shards.get(number).number, 1, 0) == b"x"
        assert len(shards) <= 2 and number in shards
    assert opened == [0, 1, 2, 1]


def test_a_shard_that_is_read_stays_open_for_its_reader(tmp_path: Path):
    path = tmp_path / "shard"
    path.write_bytes(b"x")
    shards = OpenShards(lambda _: os.open(path, os.O_RDONLY), limit=1, cached=False)
    held = shards.get(0)
    shards.get(1)
    shards.close()
    assert len(shards) == 0 and os.pread(held.number, 1, 0) == b"x"
