import numpy as np

from unimatch.engine.run_data import select
from unimatch.shardset.archive import ShardSet


def test_a_selection_is_hashed_by_its_keys_whatever_their_order(tiny_config, tmp_path):
    shards = ShardSet.open(tiny_config.data.shards)
    keys = shards.keys(np.arange(3))
    hashes = []
    for order in (keys, keys[::-1], keys[:2]):
        path = tmp_path / "list.txt"
        path.write_text("\n".join(order))
        hashes.append(select(shards, str(path)).hash)
    assert hashes[0] == hashes[1] != hashes[2]
