import re
from dataclasses import replace

import numpy as np
import pytest

from unimatch.engine import build, preflight
from unimatch.engine.run_config import BatchConfig
from unimatch.engine.run_folder import refuse_changes, start_run_folder
from unimatch.engine.runtime import Runtime
from unimatch.errors import UserError
from unimatch.shardset.archive import ShardSet


@pytest.mark.parametrize(
    ("labeled", "unlabeled", "limit", "world", "steps"),
    [
        (8, 8, None, 1, 1),
        (8, 8, 16, 1, 1),
        (8, 8, 15, 1, 2),
        (8, 8, 4, 1, 4),
        (8, 8, 4, 2, 2),
        (2, 6, 4, 1, 2),
        (3, 9, 4, 1, 3),
        (8, None, 3, 2, 2),
    ],
)
def test_the_fewest_micro_batches_that_fit(labeled, unlabeled, limit, world, steps):
    batch = BatchConfig(labeled, unlabeled, limit)
    assert build.accumulation_steps(batch, unlabeled is not None, world) == steps


def test_batches_that_cannot_be_shared_say_why():
    with pytest.raises(UserError, match="batch.unlabeled is 6, which 4 processes cannot share evenly"):
        build.accumulation_steps(BatchConfig(8, 6), True, 4)
    with pytest.raises(UserError, match="max_per_device is 3, but batch.labeled 3 and batch.unlabeled 9"):
        build.accumulation_steps(BatchConfig(3, 9, 3), True, 1)


def test_a_trainer_is_built_and_described(tiny_config):
    trainer, banner = build.build_trainer(tiny_config, build.open_data(tiny_config), Runtime(), resume=False)
    assert trainer.total_steps == 20 and trainer.steps_per_epoch == 34 // 4
    for part in ("4 labelled + 4 unlabelled", "6 labeled", "34 unlabeled", "10 val", "random initialisation"):
        assert part in banner


@pytest.mark.parametrize(("size_mb", "row"), [(1000, "kept decoded.* 6 of 6 labelled samples, "), (0, None)])
def test_what_is_kept_decoded_is_told_and_may_differ_between_hosts_and_parts_of_a_run(
    tiny_config, size_mb, row
):
    start_run_folder(tiny_config, resume=False)
    same = preflight._settings(tiny_config)
    tiny_config.data.decoded_mb = size_mb
    refuse_changes(tiny_config)
    assert preflight._settings(tiny_config) == same
    _, banner = build.build_trainer(tiny_config, build.open_data(tiny_config), Runtime(), resume=False)
    assert re.search(row, banner) if row else "kept decoded" not in banner


def test_training_and_evaluation_samples_must_differ(tiny_config):
    tiny_config.data.val = "train"
    with pytest.raises(UserError, match=r"samples are in data\.(un)?labeled and in data\.val"):
        build.build_trainer(tiny_config, build.open_data(tiny_config), Runtime(), resume=False)


def test_pairs_need_even_micro_batches(tiny_config):
    tiny_config.method = replace(
        tiny_config.method, config=replace(tiny_config.method.config, mix_partner="batch")
    )
    tiny_config.batch.unlabeled = 3
    with pytest.raises(UserError, match="mix_partner.*even number"):
        build.build_trainer(tiny_config, build.open_data(tiny_config), Runtime(), resume=False)


def test_a_selection_is_hashed_by_its_keys_whatever_their_order(tiny_config, tmp_path):
    shards = ShardSet.open(tiny_config.data.shards)
    keys = shards.keys(np.arange(3))
    hashes = []
    for order in (keys, keys[::-1], keys[:2]):
        path = tmp_path / "list.txt"
        path.write_text("\n".join(order))
        hashes.append(build.select(shards, str(path)).hash)
    assert hashes[0] == hashes[1] != hashes[2]
