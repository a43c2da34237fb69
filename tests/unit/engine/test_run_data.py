from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import open_data
from unimatch.engine.selection import select
from unimatch.errors import DataError, UserError
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.key_list import Published, list_hash, write_keys


def test_a_selection_is_hashed_by_its_keys_whatever_their_order(tiny_config, tmp_path):
    shards = ShardSet.open(tiny_config.data.shards)
    keys = shards.keys(np.arange(3))
    hashes = []
    for order in (keys, keys[::-1], keys[:2]):
        path = tmp_path / "list.txt"
        path.write_text("\n".join(order))
        hashes.append(select(shards, str(path)).hash)
    assert hashes[0] == hashes[1] != hashes[2]


def keys_of(config: RunConfig, subset: str = "train") -> list[str]:
    shards = ShardSet.open(config.data.shards)
    return shards.keys(shards.rows(subset))


def with_split(config: RunConfig, path: Path) -> RunConfig:
    config.data.split, config.data.labeled, config.data.unlabeled = str(path), None, None
    return config


def test_a_split_leaves_the_rest_unlabelled_and_both_are_hashed(tiny_config, tmp_path):
    keys = keys_of(tiny_config)
    write_keys(tmp_path / "mine.txt", keys[3:9], Published(len(keys), "train", "ours"))
    data = open_data(with_split(tiny_config, tmp_path / "mine.txt"))
    found = {name: data.shards.keys(one.rows) for name, one in data.selections.items()}
    assert found["labeled"] == sorted(keys[3:9], key=keys.index)
    assert found["unlabeled"] == keys[:3] + keys[9:] and found["val"] == keys_of(tiny_config, "val")
    assert {name: list_hash(one) for name, one in found.items()} == {
        name: one.hash for name, one in data.selections.items()
    }
    tiny_config.batch.unlabeled = None  # the baseline's epochs are those of the labelled samples
    assert open_data(tiny_config).selections.keys() == {"labeled", "val"}


def test_a_plain_key_list_divides_train(tiny_config, tmp_path):
    keys = keys_of(tiny_config)
    (tmp_path / "mine.txt").write_text("\n".join(keys[:2]))
    data = open_data(with_split(tiny_config, tmp_path / "mine.txt"))
    assert data.shards.keys(data.selections["unlabeled"].rows) == keys[2:]


@pytest.mark.parametrize(
    ("total", "subset", "chosen", "told"),
    [
        (41, "train", slice(0, 6), "divides 41 samples, but subset .train. of .* has 40: pack"),
        (10, "val", slice(0, 6), "6 of its keys are not in subset 'val'"),
        (
            9,
            "other",
            slice(0, 6),
            "other: neither a subset .*for a set packed otherwise",
        ),
        (40, "train", slice(0, 40), "names all samples of 'train': none is left"),
    ],
)
def test_a_split_of_other_data_is_refused(tiny_config, tmp_path, total, subset, chosen, told):
    write_keys(tmp_path / "mine.txt", keys_of(tiny_config)[chosen], Published(total, subset, "ours"))
    with pytest.raises(DataError, match=told):
        open_data(with_split(tiny_config, tmp_path / "mine.txt"))


def test_a_published_split_on_other_shards_says_what_to_do(tiny_config):
    with pytest.raises(DataError, match="92 of 92 keys are not in .*unimatch split .*--list pascal/92"):
        open_data(with_split(tiny_config, Path("pascal/92")))
    with pytest.raises(UserError, match="data.split 'pascal/93': no such file.* did you mean 'pascal/92'"):
        open_data(with_split(tiny_config, Path("pascal/93")))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"split": "pascal/92"}, "one of the two"),
        ({"labeled": None}, "one of the two"),
        ({"split": "pascal/92", "labeled": None}, "unlabeled must be left out beside split"),
    ],
)
def test_a_run_says_what_is_labelled_in_one_way(tiny_config, changes, told):
    with pytest.raises(ValueError, match=told):
        replace(tiny_config.data, **changes)


def test_subsets_are_joined_by_a_plus(tiny_config):
    shards = ShardSet.open(tiny_config.data.shards)
    both = shards.rows("val+train")
    assert shards.keys(both) == shards.keys(np.arange(len(shards))) and len(both) == 50
    with pytest.raises(DataError, match="train\\+test: neither a subset"):
        shards.rows("train+test")
