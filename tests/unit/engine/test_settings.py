"""Every setting of a run does what it says: none is read and dropped, none is taken for another."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from tests.support.training import SUPERVISED, Log, bare, built, trained
from unimatch import config as config_io
from unimatch.engine import build, evaluate
from unimatch.engine.batchnorm import GlobalBatchNorm2d, cost_on_cpus
from unimatch.engine.restore import restore
from unimatch.engine.run_config import CacheConfig, LogConfig, RunConfig
from unimatch.engine.run_data import open_shards
from unimatch.engine.run_folder import start_run_folder
from unimatch.engine.runtime import Runtime
from unimatch.engine.trainer import Trainer
from unimatch.errors import DataError, UserError


def passed_on(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str) -> dict[str, Any]:
    """What a module hands to a function of this name, by argument."""
    seen: dict[str, Any] = {}
    real = getattr(module, name)

    def noted(*args: Any, **options: Any) -> Any:
        seen.update(options)
        return real(*args, **options)

    monkeypatch.setattr(module, name, noted)
    return seen


def test_what_the_configuration_says_of_data_reaches_the_loaders(tiny_run, tmp_path, monkeypatch):
    for_training = passed_on(monkeypatch, build, "train_loader")
    for_evaluation = passed_on(monkeypatch, evaluate, "eval_loader")
    settings = ("data.workers=3", "data.worker_kind=threads", "data.prefetch=5", "data.timeout_s=77")
    settings += ("data.skip_ceiling=4", "evaluation={batch: 6, workers: 7}", "batch.max_per_device=4")
    settings += ("data.decoded_mb=3", "schedule.steps=9")
    config = config_io.load(tiny_run, RunConfig, settings)
    trainer = built(config)
    expected = {"workers": 3, "threads": True, "prefetch": 5, "timeout_s": 77.0, "skip_ceiling": 4}
    expected |= {"accumulation": 2, "start_step": 0, "stop_step": 9, "rank": 0, "world": 1, "num_classes": 8}
    assert {name: for_training[name] for name in expected} == expected
    assert len(for_training["decoded"].memory) == 3 * 10**6
    trainer.evaluator.loader()
    expected = {"batch": 6, "workers": 7, "timeout_s": 77.0, "rank": 0, "world": 1}
    assert {name: for_evaluation[name] for name in expected} == expected


def test_the_cache_is_where_and_as_large_as_it_should_be(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("unimatch.shardset.archive.ShardSet.open", lambda place, cache: seen.append(cache))
    open_shards("https://host/set", CacheConfig(tmp_path, 2.5))
    monkeypatch.setenv("UNIMATCH_CACHE", str(tmp_path / "other"))
    open_shards("https://host/set", CacheConfig())
    assert [(one.folder, one.limit_bytes) for one in seen] == [
        (tmp_path, 2_500_000_000),
        (tmp_path / "other", 100_000_000_000),
    ]


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Accelerate keeps the first precision of a process."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", None), ("bf16", torch.bfloat16)])
def test_passes_are_of_the_precision_and_weights_are_not(forgotten, tiny_run, precision, dtype):
    config = bare(tiny_run, SUPERVISED, "schedule.steps=1", f"precision={precision}")
    trainer = built(config, runtime=Runtime(config.precision))
    seen = []
    head = trainer.net.head
    head.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    trained(trainer)
    assert seen == [dtype is not None]
    with trainer.runtime.autocast():
        assert trainer.net(torch.zeros(2, 3, 48, 48))["logits"].dtype == (dtype or torch.float32)
    assert {p.dtype for p in trainer.net.parameters()} == {torch.float32}


@pytest.mark.parametrize("recomputes", [False, True])
def test_activations_are_computed_again_only_if_asked(tiny_run, recomputes):
    setting = f"activation_checkpointing={str(recomputes).lower()}"
    trainer = built(bare(tiny_run, SUPERVISED, "schedule.steps=1", setting))
    convolutions = [module for module in trainer.net.encoder.modules() if isinstance(module, nn.Conv2d)]
    counts = dict.fromkeys(convolutions, 0)

    def count(module: nn.Module, *_: object) -> None:
        counts[module] += 1

    for module in convolutions:
        module.register_forward_hook(count)
    trained(trainer)
    assert (max(counts.values()) == 2) is recomputes


@pytest.mark.parametrize("backend", ["off", "eager"])
def test_the_network_is_compiled_only_if_asked(tiny_run, backend, monkeypatch):
    seen = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: seen.append((module, options)))
    net = built(bare(tiny_run, SUPERVISED, f"compile={backend}")).net
    expected = [(part, {"backend": "eager"}) for part in (net.encoder, net.head)]
    assert seen == (expected if backend == "eager" else [])


@pytest.mark.parametrize("backend", ["inductor", "eager"])
def test_batch_norms_are_compiled_or_computed_again_and_not_both(tiny_run, backend):
    settings = ("activation_checkpointing=true", f"compile={backend}")
    with pytest.raises(UserError, match="compile: the batch norms of this encoder would count a batch twice"):
        built(bare(tiny_run, SUPERVISED, *settings))


@pytest.mark.parametrize(
    ("world", "setting", "is_global"), [(1, "global", False), (2, "global", True), (2, "off", False)]
)
def test_norms_are_global_where_there_are_several_processes(tiny_run, world, setting, is_global):
    runtime = Runtime()
    runtime.world = world
    runtime.gather = lambda value: [value] * world  # type: ignore[method-assign]
    net = built(bare(tiny_run, SUPERVISED, f"sync_batchnorm={setting}"), runtime=runtime).net
    count = sum(isinstance(module, GlobalBatchNorm2d) for module in net.modules())
    assert bool(count) is is_global
    told = cost_on_cpus(net)
    assert len(told) == is_global and all(f"each of {count} norms wait" in text for text in told)


def test_pictures_and_times_are_logged_as_often_as_asked(tiny_run):
    class Gallery(Log):
        def __init__(self) -> None:
            super().__init__()
            self.shown: list[int] = []

        def pictures(self, step: int, pictures: dict[str, Any]) -> None:
            self.shown.append(step)

    settings = ("schedule.steps=4", "log={every_steps: 2, pictures_every_steps: 2, timing: true}")
    trainer = built(bare(tiny_run, SUPERVISED, *settings))
    start_run_folder(trainer.config, resume=False)
    log = Gallery()
    trainer.train(log)
    assert {2, 4} <= set(log.shown) and 3 not in log.shown
    lines = [line for line in log.records if line["kind"] == "train"]
    assert [line["step"] for line in lines] == [2, 4]
    assert all(line[f"{part}_s"] > 0 for line in lines for part in ("forward", "backward", "update"))


@pytest.mark.parametrize(
    ("every", "total", "shown"),
    [
        (None, 8, [1, 2, 4, 6, 8]),
        (None, 2600, [1, 500, 1000, 1500, 2000, 2500, 2600]),
        (0, 8, []),
        (5, 8, [1, 5, 8]),
    ],
)
def test_pictures_come_first_last_and_between(every, total, shown):
    trainer = SimpleNamespace(
        config=SimpleNamespace(log=LogConfig(pictures_every_steps=every)), total_steps=total
    )
    assert [step for step in range(1, total + 1) if Trainer._shows_pictures(trainer, step)] == shown


def test_a_line_counts_epochs_images_and_skipped_samples(tiny_run, tmp_path):
    """34 unlabelled samples: an epoch of 8 steps of 4 for the baseline, which sees none, or of 17 of 2."""
    for method, images in ((SUPERVISED, 4), ("method={name: fixmatch}", 4 + 2)):
        settings = ("schedule.steps=2", "batch={labeled: 4, unlabeled: 2}", "log.every_steps=2")
        config = bare(tiny_run, method, *settings)
        config.out = tmp_path / str(images)
        trainer = built(config)
        steps = iter(trainer.loader)
        trainer.loader = ((step, [{**micro, "skipped": 3} for micro in raw]) for step, raw in steps)
        (line,) = trained(trainer)
        assert line["epoch"] == 2 / (8 if images == 4 else 17)
        assert line["images_per_s"] * line["step_s"] == pytest.approx(images)
        assert line["skipped_samples"] == trainer.state.skipped == 6
        assert "6 unreadable samples were replaced" in trainer.result()


def test_data_that_cannot_be_used_ends_the_run_with_its_message(tiny_run):
    trainer = built(bare(tiny_run, SUPERVISED, "schedule.steps=3", "checkpoint.every_steps=1"))
    first = next(iter(trainer.loader))

    def broken():
        yield first
        raise DataError("train-00000.tar:key: is damaged")

    trainer.loader = broken()
    with pytest.raises(Exception, match=r"^train-00000\.tar:key: is damaged$"):
        trained(trainer)
    assert trainer.state.step == 1


def test_a_restored_network_is_the_one_that_was_asked_for(tiny_run):
    settings = ("method={name: mean_teacher, threshold: 0, ema_decay: 0.9}", "schedule.steps=3")
    trainer = built(bare(tiny_run, *settings, "optimizer.lr=0.1", "checkpoint.every_steps=2"))
    trained(trainer)
    nets = {"model": trainer.net, "ema": trainer.method.teacher.net}
    name = next(name for name, value in trainer.net.state_dict().items() if value.ndim == 4)
    for network, expected in (("model", "model"), ("ema", "ema"), (None, "ema")):
        found = restore(trainer.config.out, "last", network, Runtime())
        assert torch.equal(found.net.state_dict()[name], nets[expected].state_dict()[name])
        assert not found.net.training and found.state.step == 3
    older = restore(trainer.config.out, "2", "model", Runtime())
    assert not torch.equal(older.net.state_dict()[name], trainer.net.state_dict()[name])
