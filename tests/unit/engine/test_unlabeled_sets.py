"""`data.unlabeled` as a list of sets: what is refused, recorded, and asked of a resumed run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.change_set import write_changes
from tests.support.tiny_set import write_tiny
from tests.support.training import BARE, built, trained
from unimatch import config as config_io
from unimatch.engine.preflight import PER_HOST, preflight
from unimatch.engine.run_config import FREE_ON_RESUME, RunConfig
from unimatch.engine.run_data import open_data
from unimatch.engine.run_folder import flat, within
from unimatch.engine.runtime import Runtime
from unimatch.errors import ConfigError, DataError, UserError
from unimatch.scaling import forecast as forecasts
from unimatch.scaling.cost import Activations, Passes
from unimatch.scaling.forecast import forecast
from unimatch.shardset import index as shard_index


def given(path: Path, text: str, *more: str) -> RunConfig:
    """The tiny run with this as data.unlabeled."""
    return config_io.load(path, RunConfig, [*BARE, f"data.unlabeled={text}", *more])


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """Another shard set, of other classes: four samples in `val`, eleven in `train`, most without masks."""
    return write_tiny(tmp_path / "more")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "unlabeled is an empty list: name a set, or leave it out"),
        (
            "[{samples: train, weight: 0}]",
            r"unlabeled\[0\]: weight must be above 0, found 0: leave out",
        ),
        ("[{samples: train, weight: -1}]", "weight must be above 0, found -1"),
        ("[{samples: train, weight: .inf}]", "weight must be above 0, found inf"),
        ("[{samples: train, weight: much}]", "expected a number, found 'much'"),
        ("[train]", r"unlabeled\[0\]: expected a mapping .* found 'train'"),
        ("[{shards: more}]", r"unlabeled\[0\].samples: required, but not given"),
        ("[{samples: train, share: 1}]", "unknown key; did you mean 'shards'"),
        (
            "[{samples: a, weight: 1}, {samples: b}]",
            "'b' has no weight, but another set has one; give all sets",
        ),
        ("{samples: train}", "data.unlabeled: expected text, found a mapping"),
        ("[{samples: train, shards: '~/more'}]", "home folder written in full"),
        ("[{samples: train, shards: 'https://me:pass@host/more'}]", "must not hold a user or password"),
    ],
)
def test_a_list_that_says_nothing_sensible_is_refused(tiny_run, text, told):
    with pytest.raises(ConfigError, match=told):
        given(tiny_run, text)


def test_a_sample_of_two_sets_is_refused_however_the_shards_are_called(tiny_run, tiny_shards, tmp_path):
    (tmp_path / "link").symlink_to(tiny_shards)
    config = given(tiny_run, f"[{{samples: train}}, {{samples: train, shards: {tmp_path}/link}}]")
    with pytest.raises(UserError, match=r"40 samples are in data.unlabeled\[0\] and in data.unlabeled\[1\]"):
        open_data(config)


def test_sets_that_are_not_there_are_named(tiny_run, more):
    with pytest.raises(DataError, match=r"data.unlabeled\[1\]: extra: neither a subset of .*more"):
        open_data(given(tiny_run, f"[{{samples: train}}, {{samples: extra, shards: {more}}}]"))
    with pytest.raises(DataError, match="nowhere: no such folder"):
        open_data(given(tiny_run, "[{samples: train, shards: nowhere}]"))


def test_pairs_and_bands_beside_photographs_are_refused(tiny_run, tmp_path):
    write_changes(tmp_path / "pairs", train=6)
    config = given(tiny_run, f"[{{samples: train}}, {{samples: train, shards: {tmp_path}/pairs}}]")
    with pytest.raises(
        UserError, match="6 of the 6 samples of 'train' are pairs of images .*for task change"
    ):
        built(config)


def test_images_of_other_bands_are_refused(tiny_run, more):
    info, _ = shard_index.read(more)
    bands = {"order": [4, 2, 1], "names": ["", "", ""], "ranges": [[0, 9]] * 3, "depth": 8, "show": [0, 1, 2]}
    (more / "index.json").write_text(json.dumps({**info, "bands": bands}))
    config = given(tiny_run, f"[{{samples: train}}, {{samples: train, shards: {more}}}]")
    told = r"unlabeled\[1\]: .*more has 3 channels of 8 bits \(bands 4, 2, 1\) .*are ordinary pictures; pack"
    with pytest.raises(UserError, match=told):
        open_data(config)


def test_validation_images_are_kept_out_of_every_set(tiny_run, more):
    config = given(tiny_run, f"[{{samples: train, shards: {more}}}, {{samples: val}}]", "data.val=val")
    with pytest.raises(UserError, match=r"10 samples are in data.unlabeled\[1\] and in data.val"):
        built(config)


def test_a_set_smaller_than_a_batch_is_refused(tiny_run, more):
    config = given(tiny_run, f"[{{samples: train}}, {{samples: val, shards: {more}}}]", "batch.unlabeled=6")
    with pytest.raises(
        DataError, match=r"data.unlabeled\[1\] has 4 samples, fewer than one global batch of 6"
    ):
        built(config)


def test_the_hash_is_of_all_sets_and_of_one_that_of_its_keys(tiny_run, tiny_config, more):
    alone = open_data(tiny_config)
    split = tiny_config.data.unlabeled
    listed = open_data(given(tiny_run, f"[{{samples: {split}}}]", "data.val=val"))
    assert listed.hashes == alone.hashes and listed.selections.keys() == {"labeled", "unlabeled", "val"}
    two = open_data(given(tiny_run, f"[{{samples: {split}}}, {{samples: train, shards: {more}}}]"))
    assert two.hashes.keys() == {"labeled", "unlabeled"}
    assert two.selections.keys() == {"labeled", "unlabeled[0]", "unlabeled[1]"}
    assert two.unlabeled is not None and len(two.unlabeled) == 34 + 11
    assert two.unlabeled.shares() == pytest.approx([34 / 45, 11 / 45])
    other = open_data(given(tiny_run, f"[{{samples: {split}}}, {{samples: val, shards: {more}}}]"))
    assert len({one.hashes["unlabeled"] for one in (alone, two, other)}) == 3


def test_a_run_trains_on_both_sets_and_tells_of_them(tiny_run, more):
    text = f"[{{samples: train, weight: 1}}, {{samples: train, shards: {more}, weight: 3}}]"
    config = given(
        tiny_run, text, "schedule={epochs: 1, steps: null}", "method={name: unimatch_v2, threshold: 0}"
    )
    data, told = preflight(config, Runtime(), resume=False)
    trainer = built(config)
    lines = trained(trainer)
    assert len(lines) == trainer.total_steps == (40 + 11) // 4 and lines[-1]["loss_s1"] > 0
    assert trainer.state.splits == data.hashes
    assert "settings" in told


OTHER = [
    ("[{samples: train, weight: 2}, {samples: train, shards: MORE, weight: 3}]", "was 1.0, now 2.0"),
    ("[{samples: train, weight: 1}, {samples: val, shards: MORE, weight: 3}]", "was 'train', now 'val'"),
    ("[{samples: train}]", r"data.unlabeled\[1\].samples: was 'train', now None"),
    ("train", r"data.unlabeled: was None, now 'train'"),
]


def test_a_resumed_run_has_the_same_sets_wherever_they_lie(tiny_run, tmp_path, more):
    first = "[{samples: train, weight: 1}, {samples: train, shards: MORE, weight: 3}]"
    steps = ("checkpoint.every_steps=2", "schedule.steps=4", "method={name: fixmatch}")
    config = given(tiny_run, first.replace("MORE", str(more)), *steps)
    whole = trained(built(config))
    (config.out / "checkpoints" / "step_00000004").rename(tmp_path / "away")
    for text, told in OTHER:
        with pytest.raises(UserError, match=told):
            built(given(tiny_run, text.replace("MORE", str(more)), *steps), resume=True)
    (tmp_path / "moved").symlink_to(more)
    moved = given(tiny_run, first.replace("MORE", f"{tmp_path}/moved"), *steps)
    again = trained(built(moved, resume=True), resume=True)
    assert [line["loss"] for line in again] == [line["loss"] for line in whole[2:]]


def test_settings_in_lists_have_names():
    tree = {"a": {"b": [{"c": 1}, {"c": 2}]}, "d": [1, 2], "e": []}
    assert flat(tree) == {"a.b[0].c": 1, "a.b[1].c": 2, "d": [1, 2], "e": []}
    assert within("data.unlabeled[3].shards", FREE_ON_RESUME) and within("data.unlabeled[3].shards", PER_HOST)
    assert not within("data.unlabeled[3].weight", FREE_ON_RESUME)
    assert not within("data.unlabeled[3].samples", PER_HOST)


def test_the_forecast_counts_the_images_of_all_sets(tiny_run, more, monkeypatch):
    line = Activations.through(((2, 2.0), (4, 4.0))), Passes(1, 1), ((2, 2.0), (4, 4.0))
    monkeypatch.setattr(forecasts, "_activations", lambda *_: line)
    alone = forecast(given(tiny_run, "train"), 1, 1e9, 1e12)
    two = given(tiny_run, f"[{{samples: train}}, {{samples: train, shards: {more}}}]")
    both = forecast(two, 1, 1e9, 1e12)
    assert (alone.steps_per_epoch, both.steps_per_epoch) == (10, 12)
    assert both.read_bytes < alone.read_bytes  # the other images are smaller
