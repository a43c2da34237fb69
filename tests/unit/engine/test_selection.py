"""Some of many samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unimatch.engine.selection import evenly, select
from unimatch.shardset.archive import ShardSet


def test_samples_are_spread_over_all(tiny_shards: Path) -> None:
    val = select(ShardSet.open(tiny_shards), "val")
    assert val.spread(10) is val
    assert (val.spread(3).rows == val.rows[[0, 4, 9]]).all() and val.spread(3).name == "val"
    names = np.array([Path("a"), Path("b"), Path("c")], dtype=object)
    assert evenly(names, 2).tolist() == [Path("a"), Path("c")]
    assert evenly(names, 1).tolist() == [Path("a")] and evenly(names, 9).tolist() == names.tolist()
