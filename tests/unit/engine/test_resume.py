"""A resumed run computes what it would have computed: everything that decides that must be as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.training import SUPERVISED, bare, built, changed, trained
from unimatch import config as config_io
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_folder import flat, refuse_changes, start_run_folder
from unimatch.errors import UserError
from unimatch.packing.synthetic import write_synthetic
from unimatch.shardset import index as shard_index
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.key_list import read_keys
from unimatch.taxonomy import Taxonomy

# All that a resumed run may set anew. Whatever else there is decides what the run computes.
FREE = {
    "out",
    "log.every_steps",
    "log.pictures_every_steps",
    "log.timing",
    "log.trackers",
    "log.project",
    "evaluation.every_steps",
    "evaluation.pseudo_labels",
    "evaluation.batch",
    "evaluation.workers",
    "checkpoint.every_steps",
    "checkpoint.keep",
    "checkpoint.snapshots",
    "checkpoint.background",
    "data.shards",
    "data.val",
    "data.workers",
    "data.worker_kind",
    "data.prefetch",
    "data.timeout_s",
    "data.cache.folder",
    "data.cache.size_gb",
    "data.decoded_mb",
    "data.pseudo",
    "batch.max_per_device",
    "activation_checkpointing",
    "compile",
}


def test_every_setting_outside_the_list_is_refused_by_name(tiny_run):
    config = config_io.load(tiny_run, RunConfig)
    start_run_folder(config, resume=False)
    shutil.copytree(config.out, config.out / "moved")
    names = flat(config_io.plain(config)).keys()
    assert names > FREE and len(names) > 60
    allowed = set()
    for name in names:
        try:
            refuse_changes(changed(config, name))
            allowed.add(name)
        except UserError as error:
            assert f"\n  {name}: was " in str(error) and str(error).count(": was ") == 1
    assert allowed == FREE


def test_another_method_is_refused_with_all_that_only_one_of_them_has(tiny_run):
    start_run_folder(config_io.load(tiny_run, RunConfig), resume=False)
    other = config_io.load(tiny_run, RunConfig, ["method={name: mean_teacher}"])
    with pytest.raises(UserError) as error:
        refuse_changes(other)
    for line in (
        "method.name: was 'unimatch', now 'mean_teacher'",
        "method.feature_dropout: was 0.5, now None",
        "method.ema_decay: was None, now 0.996",
    ):
        assert f"\n  {line}\n" in str(error.value)


def stopped(tiny_run: Path, *more: str) -> RunConfig:
    """The configuration of a run that was stopped after the first of three steps."""
    settings = (SUPERVISED, "schedule.steps=3", "checkpoint.every_steps=1", "checkpoint.keep=9", *more)
    config = bare(tiny_run, *settings)
    trained(built(config))
    for step in (2, 3):
        (config.out / "checkpoints" / f"step_{step:08d}").rename(config.out / f"away{step}")
    return config


def test_a_run_goes_on_with_other_free_settings_and_not_with_others(tiny_run):
    config = stopped(tiny_run)
    config.log.every_steps = 2
    assert built(config, resume=True).state.step == 1
    config.optimizer.weight_decay = 0.5
    with pytest.raises(UserError, match=r"with other settings:\n  optimizer.weight_decay: "):
        built(config, resume=True)


@pytest.mark.parametrize("name", ["labeled", "unlabeled"])
def test_a_list_that_lost_a_key_is_refused(tiny_run, tmp_path, name):
    lists = Path(bare(tiny_run).data.labeled).parent
    keys = {part: read_keys(lists / f"{part}.txt") for part in ("labeled", "unlabeled")}
    for part, found in keys.items():
        (tmp_path / f"{part}.txt").write_text("\n".join(found))
    config = stopped(tiny_run, *(f"data.{part}={tmp_path}/{part}.txt" for part in keys))
    assert built(config, resume=True).state.step == 1
    (tmp_path / f"{name}.txt").write_text("\n".join(keys[name][1:]))
    with pytest.raises(UserError, match=f"was trained with another {name} list"):
        built(config, resume=True)


def test_the_best_figure_of_another_evaluation_list_is_forgotten(tiny_run, tmp_path):
    config = stopped(tiny_run, "data.val=val", "evaluation.every_steps=1")
    same = built(config, resume=True)
    assert same.state.best is not None and same.state.best_step == 1
    keys = ShardSet.open(config.data.shards)
    keys = keys.keys(keys.rows("val"))
    (tmp_path / "val.txt").write_text("\n".join(keys[1:]))
    config.data.val = str(tmp_path / "val.txt")
    other = built(config, resume=True)
    assert (other.state.best, other.state.best_step, other.state.best_over) == (None, None, "")
    assert other.state.splits["val"] != same.state.splits["val"]


def test_as_many_classes_of_other_names_are_other_classes(tiny_run, tmp_path):
    config = stopped(tiny_run)
    write_synthetic(tmp_path / "shards", train=40, val=10, height=48, width=64, seed=0)
    config.data.shards = str(tmp_path / "shards")
    assert built(config, resume=True).state.step == 1
    old = ShardSet.open(tmp_path / "shards")
    names = old.taxonomy.names
    for others in ([*names[:-1], "other"], [names[1], names[0], *names[2:]]):
        relabel(tmp_path / "shards", Taxonomy.of(others))
        with pytest.raises(UserError, match="knows other classes than the shards"):
            built(config, resume=True)
        with pytest.raises(UserError, match=r"has other classes than asked for: 8 \("):
            ShardSet.open(tmp_path / "shards", old.taxonomy)


def test_images_that_were_packed_otherwise_are_other_images(tiny_run, tmp_path):
    """The same keys, from another recipe; an index or checkpoint of an older version says nothing of it."""
    config = stopped(tiny_run)
    write_synthetic(tmp_path / "shards", train=40, val=10, height=48, width=64, seed=0)
    config.data.shards = str(tmp_path / "shards")
    recipe(tmp_path / "shards", downscale=2)
    assert built(config, resume=True).state.step == 1, "the checkpoint does not say it"
    for state in config.out.glob("checkpoints/*/trainer.json"):
        state.write_text(json.dumps(json.loads(state.read_text()) | {"prepared": {"downscale": 1}}))
    with pytest.raises(UserError, match=r"prepared otherwise \(downscale: 1, now 2\)"):
        built(config, resume=True)
    recipe(tmp_path / "shards", downscale=1)
    assert built(config, resume=True).state.step == 1


def recipe(folder: Path, **settings: object) -> None:
    """Says in an index that a recipe packed the set."""
    info, _ = shard_index.read(folder)
    (folder / "index.json").write_text(json.dumps({**info, "created": {"recipe": "file", **settings}}))


def relabel(folder: Path, taxonomy: Taxonomy) -> None:
    """Gives a set other classes."""
    info, _ = shard_index.read(folder)
    (folder / "index.json").write_text(json.dumps({**info, "taxonomy": taxonomy.to_json()}))
