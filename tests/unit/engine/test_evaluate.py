"""Evaluation over several ranks, which threads play: each image once, sums over all, nothing undefined."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.change_set import CHANGES, sample, write_change_run, write_changes
from tests.support.tiny_set import damage, image_bytes, write_samples
from unimatch import config as config_io
from unimatch.codecs.encode import png
from unimatch.data.evaluation import eval_loader
from unimatch.engine.build import build_trainer
from unimatch.engine.evaluate import Evaluator, report
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import open_data
from unimatch.engine.runtime import Runtime
from unimatch.engine.selection import samples_hash
from unimatch.errors import ConfigError, DataError, UserError
from unimatch.packing.pack import NewSample
from unimatch.shardset.archive import ShardSet
from unimatch.tasks import ChangeTask, ChangeTaskConfig
from unimatch.views.change import ChangeViewConfig


class Rank:
    """A runtime of one thread among `world`: sums pass over a board."""

    device = torch.device("cpu")

    def __init__(self, rank: int, board: list, barrier: threading.Barrier, reduces: bool = True) -> None:
        self.rank, self.board, self.barrier, self.reduces = rank, board, barrier, reduces

    def sum_on_host(self, values):
        if not self.reduces:
            return values
        self.board[self.rank] = values
        self.barrier.wait(20)
        total = torch.stack(self.board).sum(0)
        self.barrier.wait(20)
        return total

    sum_on_device = sum_on_host

    def alive(self) -> None:
        pass

    def autocast(self):
        return contextlib.nullcontext()

    def together(self):
        return contextlib.nullcontext()


class DifferenceNet(nn.Module):
    """Says "changed" where the dates differ much; starts in train mode, in which it must not be asked."""

    def forward(self, image, perturb=None):
        assert not self.training
        difference = (image[:, 0] - image[:, 1]).abs().sum(1)
        return {"logits": torch.stack([torch.full_like(difference, 4.5), difference], dim=1)}


def make_task() -> ChangeTask:
    return ChangeTask(ChangeTaskConfig(ChangeViewConfig(crop=16)), CHANGES, (0.5,) * 3, (0.25,) * 3)


def in_threads(world: int, work: Callable[[int], object]) -> list:
    results: list = [None] * world
    threads = [threading.Thread(target=lambda r=r: results.__setitem__(r, work(r))) for r in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return ShardSet.open(write_changes(tmp_path_factory.mktemp("changes") / "set", train=2, val=7))


def evaluate(shards: ShardSet, world: int, batch: int, seen: list, reduces: bool = True) -> list[dict]:
    """The figures on each rank; `seen` gets every key that the metric was given."""
    rows, board, barrier = shards.rows("val"), [None] * world, threading.Barrier(world)

    def one(rank: int) -> dict:
        task = make_task()
        loader = partial(
            eval_loader, shards, rows, rank=rank, world=world, workers=0, batch=batch, decode=task.decode
        )

        def noted():
            for loaded in loader():
                seen.extend(loaded["keys"])
                yield loaded

        evaluator = Evaluator(Rank(rank, board, barrier, reduces), task, noted, len(rows))
        return evaluator(DifferenceNet().train())

    return in_threads(world, one)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("world", [1, 2, 3, 5, 9])
def test_every_pair_counts_once_on_any_number_of_ranks(shards, world, batch):
    """Seven pairs of two sizes: no number of ranks here divides them, and nine have none for two."""
    expected = evaluate(shards, 1, 1, [])[0]
    assert 0 < expected["iou_changed"] < 1
    seen: list[str] = []
    for found in evaluate(shards, world, batch, seen):
        assert {k: v for k, v in found.items() if k != "seconds"} == {
            k: v for k, v in expected.items() if k != "seconds"
        }, "all ranks have the figures of the whole set"
    assert sorted(seen) == sorted(shards.keys(shards.rows("val"))), "no duplicates, none left out"


def test_masks_that_were_labelled_anew_are_told_by_their_checksum(tmp_path):
    """Two classes that changed places, or two masks: the same keys and sizes."""

    def of(name: str, *labels: np.ndarray) -> str:
        pairs = [replace(sample(f"val/{i}", i, 48, 64), label=png(one), label_ext="png")
                 for i, one in enumerate(labels)]  # fmt: skip
        return evaluate(ShardSet.open(write_samples(tmp_path / name, CHANGES, {"val": pairs})), 1, 2, [])[0][
            "labels"
        ]

    first, second = np.zeros((2, 48, 64), np.uint8)
    first[:24] = 1
    assert of("a", first, second) == of("b", first, second)
    assert len({of("c", first, second), of("d", second, first), of("e", 1 - first, second)}) == 3


def test_the_hash_of_samples_is_of_keys_and_of_what_they_hold(tmp_path):
    def of(name: str, *samples: tuple[str, bytes]) -> str:
        new = [NewSample(key, image, "png", None, 16, 12, None) for key, image in samples]
        shards = ShardSet.open(write_samples(tmp_path / name, CHANGES, {"val": new}))
        return samples_hash(shards, shards.rows("val"))

    first, other = image_bytes(1), image_bytes(2)
    expected = of("a", ("x", first), ("y", first))
    assert of("b", ("x", first), ("y", first)) == expected
    assert len({expected, of("c", ("x", first)), of("d", ("x", first), ("z", first))}) == 3
    assert of("e", ("x", first), ("y", other)) != expected


def test_ranks_that_are_not_summed_are_noticed(shards):
    """Figures of a part of the set must not pass for the set's."""
    rows = shards.rows("val")
    loader = partial(eval_loader, shards, rows[:3], workers=0, batch=1, decode=ChangeTask.decode)
    rank = Rank(0, [None], threading.Barrier(1), reduces=False)
    with pytest.raises(AssertionError, match="evaluated 3 images of 7"):
        Evaluator(rank, make_task(), loader, len(rows))(DifferenceNet())


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
def test_a_unit_stays_on_one_rank_and_without_units_nothing_moves(shards, world):
    rows = shards.rows("val")
    keys = shards.keys(rows)
    unit = {key: f"volume {number // 3}" for number, key in enumerate(keys)}  # 3 + 3 + 1
    dealt: dict[str, set[int]] = {}
    given: list[str] = []
    for rank in range(world):
        options = {"rank": rank, "world": world, "workers": 0, "batch": 2, "decode": ChangeTask.decode}
        mine = [key for b in eval_loader(shards, rows, unit=unit.__getitem__, **options) for key in b["keys"]]
        given += mine
        for key in mine:
            dealt.setdefault(unit[key], set()).add(rank)
        single = [key for b in eval_loader(shards, rows, **options) for key in b["keys"]]
        named = [
            key for b in eval_loader(shards, rows, unit=make_task().unit, **options) for key in b["keys"]
        ]
        assert single == named and sorted(single) == sorted(keys[rank::world])
    assert sorted(given) == sorted(keys)
    assert all(len(ranks) == 1 for ranks in dealt.values()) and len(dealt) == 3
    assert len(set.union(*dealt.values())) == min(world, 3), "units are spread over the ranks"


def test_a_report_has_classes_single_figures_and_what_is_undefined():
    task = make_task()
    task.units = {"distance": "px"}
    figures = {"iou_changed": 0.25, "f1": None, "distance": 3.5, "iou": {"unchanged": 0.9, "changed": 0.25},
               "distances": {"unchanged": None, "changed": 0.5}, "images": 3, "seconds": 1.0,
               "samples": "0f", "labels": "0f"}  # fmt: skip
    lines = [line.split() for line in report(figures, task)]
    assert lines == [
        ["iou", "distances"], ["unchanged", "90.00", "undefined"], ["changed", "25.00", "50.00"],
        ["f1", "undefined"], ["distance", "3.50", "px"], ["iou_changed", "25.00"],
    ]  # fmt: skip
    figures["iou"] = {"unchanged": 0.9, "changed": None}
    assert report(figures, task)[-1].endswith(" 25.00 over 1 of 2 classes (none of changed)")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_change_run(tmp_path / "change", train=9, val=3)


def settings(path: Path, *overrides: str) -> RunConfig:
    return config_io.load(path, RunConfig, overrides)


class Log:
    """Takes what a run tells."""

    problem = None
    active = True

    def __init__(self) -> None:
        self.said: list[str] = []
        self.records: list[tuple] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def record(self, *values) -> None:
        self.records.append(values)

    def __getattr__(self, name: str):
        return lambda *_: None


def built(config):
    return build_trainer(config, open_data(config), Runtime(), resume=False)


def test_no_pass_inherits_the_mode_of_the_one_before(run):
    """Steps, evaluations and pictures take turns: whatever has gradients is in train mode, the rest is not,
    but for the pseudo-labels of the partner, which are made in eval mode too.
    """
    options = ("schedule.steps=3", "evaluation.every_steps=1", "log.pictures_every_steps=1")
    trainer, _ = built(settings(run, *options))
    passes = []
    trainer.net.register_forward_pre_hook(
        lambda net, _: passes.append((torch.is_grad_enabled(), net.training, net.encoder.training))
    )
    trainer._save = lambda *_: None
    trainer.config.out.mkdir()
    trainer.train(Log())
    assert {(grad, mode, mode) for grad, mode, _ in passes} == set(passes)
    assert {grad for grad, mode, _ in passes} == {True, False}
    assert all(grad == mode for grad, mode, _ in passes)
    assert len(passes) == 3 * (1 + 2 + 2 + 3)  # partner, two trained, two pictures, three pairs


def test_training_goes_on_where_the_headline_is_undefined(run):
    """A validation set without change, in which the network sees none: 0/0."""
    trainer, _ = built(settings(run))
    trainer.evaluator = lambda net: {"iou_changed": None, "images": 3, "seconds": 0.0}
    log = Log()
    trainer._evaluate(log)
    assert "val iou_changed undefined" in log.said[0] and trainer.state.best is None
    assert "iou_changed" not in trainer.result()
    trainer.config.out.mkdir()
    trainer.evaluator = lambda net: {"iou_changed": 0.5, "images": 3, "seconds": 0.0}
    trainer._evaluate(log)
    trainer.evaluator = lambda net: {"iou_changed": None, "images": 3, "seconds": 0.0}
    trainer._evaluate(log)
    assert trainer.state.best == 0.5 and "last undefined, best 50.00" in trainer.result()


def test_task_network_and_samples_must_fit(run, tiny_run, tmp_path):
    with pytest.raises(ConfigError, match="in_channels is 1, but task change reads images of 3 channel"):
        built(settings(run, "model.encoder.in_channels=1"))
    natural = "task={name: natural, views: {crop: 48}}"
    with pytest.raises(UserError, match="5 of the 5 samples .* are pairs of images .*for task change"):
        built(settings(run, natural))
    eight = settings(tiny_run, "task={name: change, views: {crop: 48}}")
    with pytest.raises(ConfigError, match="two classes apart"):
        built(eight)
    single = [replace(sample(f"single/{i}", i, 48, 64), second=None) for i in range(4)]
    root = write_samples(tmp_path / "single", CHANGES, {"train": single})
    overrides = (f"data.shards={root}", "data.labeled=train", "data.unlabeled=train", "data.val=null")
    with pytest.raises(UserError, match="4 of the 4 samples of 'train' are single images .*has `second`"):
        built(settings(run, *overrides))


def test_a_damaged_second_date_names_shard_key_and_date(tmp_path):
    root = write_changes(tmp_path / "set", train=2, val=3)
    damage(root, "val/1", "second")
    shards = ShardSet.open(root)
    loader = partial(eval_loader, shards, shards.rows("val"), workers=0, batch=1, decode=ChangeTask.decode)
    with pytest.raises(DataError, match=r"val-00000.tar:val/1, second date"):
        Evaluator(Rank(0, [None], threading.Barrier(1)), make_task(), loader, 3)(DifferenceNet())


def test_single_images_cannot_pass_for_pairs(tiny_shards):
    shards = ShardSet.open(tiny_shards)
    with pytest.raises(DataError, match="holds a single image, but change detection reads pairs"):
        next(iter(eval_loader(shards, shards.rows("val"), workers=0, batch=1, decode=ChangeTask.decode)))
    assert np.array_equal(np.sort(shards.rows("val")), shards.rows("val"))
