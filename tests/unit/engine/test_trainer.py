"""The trainer's step against a loop written out, what it draws, and what it does with a loss that is none."""

from __future__ import annotations

import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.training import SUPERVISED, bare, built, trained
from unimatch import config as config_io
from unimatch import keyed
from unimatch.engine import checkpoint
from unimatch.engine.run_config import RunConfig
from unimatch.engine.schedule import lr_factor
from unimatch.engine.signals import Stopped
from unimatch.engine.trainer import Trainer
from unimatch.errors import UserError
from unimatch.methods import Progress

TEACHER = "method={name: mean_teacher, threshold: 0, ema_decay: 0.6}"
OPTIMIZER = "optimizer={lr: 0.05, head_lr_multiplier: 2, weight_decay: 0.01, clip_norm: 0.5}"


def by_hand(trainer: Trainer) -> tuple[list[float], list[float]]:
    """Trains the networks of a trainer that never runs, in plain torch; losses and gradient norms."""
    net, method, task, config = trainer.net, trainer.method, trainer.task, trainer.config
    rates = (config.optimizer.lr, config.optimizer.lr * config.optimizer.head_lr_multiplier)
    parts = (net.encoder, net.head)
    optimizer = torch.optim.SGD(
        [{"params": list(part.parameters()), "lr": lr} for part, lr in zip(parts, rates, strict=True)],
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
        fused=True,  # which rounds otherwise than a loop over the parameters
    )
    teacher, losses, norms = method.teacher.net, [], []
    for step, raw in trainer.loader:
        factor = lr_factor(step, trainer.total_steps, config.schedule)
        for group, lr in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = lr * factor
        torch.manual_seed(keyed.key(config.seed, 0x57E9, step, 0) >> 1)
        counts = torch.tensor([task.pixel_counts(micro) for micro in raw]).double()
        shares = counts / counts.mean(0)
        optimizer.zero_grad()
        total = 0.0
        for micro, share in zip(raw, shares, strict=True):
            batch = task.to_device(micro, torch.device("cpu"), share)
            loss, _ = method.step(net, batch, Progress(step, trainer.total_steps, 0))
            (loss / len(raw)).backward()
            total += loss.item() / len(raw)
        norms.append(nn.utils.clip_grad_norm_(net.parameters(), config.optimizer.clip_norm).item())
        optimizer.step()
        decay = min(1 - 1 / (step + 1), config.method.config.ema_decay)
        with torch.no_grad():
            follow(teacher, net, decay)
        losses.append(total)
    return losses, norms


def follow(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Moves each value of the teacher towards the student's."""
    theirs = student.state_dict()
    for name, own in teacher.state_dict().items():
        if own.is_floating_point():
            own.lerp_(theirs[name], 1 - decay)
        else:
            own.copy_(theirs[name])


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_steps_are_those_of_a_loop_written_out_to_the_last_bit(tiny_run, micro_batches):
    settings = (TEACHER, OPTIMIZER, "schedule={steps: 3, warmup_steps: 1}")
    limit = f"batch.max_per_device={8 // micro_batches}"
    ours, theirs = (built(bare(tiny_run, *settings, limit)) for _ in range(2))
    before = {name: value.clone() for name, value in ours.net.state_dict().items()}
    lines = trained(ours)
    losses, norms = by_hand(theirs)
    assert [line["loss"] for line in lines] == pytest.approx(losses, rel=1e-6)
    assert [line["grad_norm"] for line in lines] == pytest.approx(norms, rel=1e-6)
    assert min(norms) > 2 * 0.5 and all(line["loss_s"] > 0 for line in lines)
    for mine, other in ((ours.net, theirs.net), (ours.method.teacher.net, theirs.method.teacher.net)):
        moved = 0
        for name, value in other.state_dict().items():
            assert torch.equal(mine.state_dict()[name], value), name
            moved += not torch.equal(value, before[name])
        assert moved > 0.9 * len(before)
    student, teacher = ours.net.state_dict(), ours.method.teacher.net.state_dict()
    assert any(not torch.equal(student[name], teacher[name]) for name in student)


class Drawn:
    """Stands before a method and notes the random numbers of each pass, and the keys of its noise."""

    def __init__(self, trainer: Trainer) -> None:
        self.masks: list[list[float]] = []
        self.keys: list[list[int]] = []
        self._step = trainer.method.step
        trainer.method.step = self.step

    def step(self, net: nn.Module, batch, progress: Progress):
        state = torch.get_rng_state()
        self.masks.append(torch.rand(8).tolist())
        torch.set_rng_state(state)
        parts = (batch.labeled, batch.unlabeled) if batch.unlabeled else (batch.labeled,)
        self.keys.append([key for part in parts for key in part.noise_key.tolist()])
        return self._step(net, batch, progress)


def differ(values: list) -> bool:
    return len({tuple(value) for value in values}) == len(values)


def dropping(tiny_run: Path, *more: str) -> RunConfig:
    """UniMatch with dropout of features and in the head, two micro-batches a step."""
    batch = "batch={labeled: 2, unlabeled: 2, max_per_device: 2}"
    settings = ("method={name: unimatch, threshold: 0}", batch)
    head = config_io.load(tiny_run, RunConfig, ["model.head={name: pspnet, dropout: 0.5}"]).model.head
    config = bare(tiny_run, *settings, *more)
    config.model.head = head
    return config


def test_what_is_dropped_differs_between_steps_and_survives_a_resume(tiny_run):
    """The run that is resumed after two steps of four draws, loses and learns what the other does."""
    whole = built(dropping(tiny_run, "schedule.steps=4", "checkpoint.every_steps=2", "checkpoint.keep=9"))
    drawn = Drawn(whole)
    lines = trained(whole)
    assert len(drawn.masks) == 8 and differ(drawn.masks) and differ(drawn.keys)

    last = whole.config.out / "checkpoints" / "step_00000004"
    last.rename(last.with_name("away"))
    resumed = built(dropping(tiny_run, "schedule.steps=4"), resume=True)
    assert resumed.state.step == 2
    again = Drawn(resumed)
    torch.manual_seed(12345)  # whatever came before does not count
    rest = trained(resumed, resume=True)
    assert (again.masks, again.keys) == (drawn.masks[4:], drawn.keys[4:])
    assert [line["loss"] for line in rest] == [line["loss"] for line in lines[2:]]
    for name, value in whole.net.state_dict().items():
        assert torch.equal(resumed.net.state_dict()[name], value), name


def test_seeds_and_processes_drop_differently(tiny_run):
    draws = []
    for seed, rank in ((0, 0), (1, 0), (0, 1)):
        settings = (SUPERVISED, "schedule.steps=1", f"seed={seed}", f"out={tiny_run.parent}/{seed}{rank}")
        trainer = built(bare(tiny_run, *settings))
        trainer.runtime.rank = rank
        trainer._save = lambda *_: None  # which the first process begins
        draws.append(Drawn(trainer))
        trained(trainer)
    assert differ([mask for one in draws for mask in one.masks])


def not_a_number(trainer: Trainer, passes: set[int], value: float = math.nan) -> Trainer:
    """The losses of some passes are no number, their gradients are sound: nothing shows in the weights."""
    step, count = trainer.method.step, iter(range(1000))

    def bad(net: nn.Module, batch, progress: Progress):
        loss, logs = step(net, batch, progress)
        return (loss + value if next(count) in passes else loss), logs

    trainer.method.step = bad
    return trainer


@pytest.mark.parametrize("passes", [{0}, {1}, {2}, {3}, {4}, {5}])
def test_a_loss_that_is_no_number_in_any_micro_batch_of_any_step_ends_the_run(tiny_run, passes):
    """Two micro-batches in each of three steps; only the last one is logged and saved."""
    settings = ("batch.labeled=4", "batch.max_per_device=2", "schedule.steps=3", "log.every_steps=9")
    trainer = not_a_number(built(bare(tiny_run, SUPERVISED, *settings)), passes)
    with pytest.raises(UserError, match="the loss became NaN or infinite at or before step 3;"):
        trained(trainer)
    assert checkpoint.last_checkpoint(trainer.config.out) is None


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_infinite_loss_ends_the_run_too(tiny_run, value):
    trainer = not_a_number(built(bare(tiny_run, SUPERVISED, "schedule.steps=1")), {0}, value)
    with pytest.raises(UserError, match="the loss became NaN or infinite"):
        trained(trainer)


def test_a_loss_that_is_no_number_elsewhere_ends_this_process_too(tiny_run):
    """Where it is logged: the others raise there, and would wait in vain for one that goes on."""
    trainer = built(bare(tiny_run, SUPERVISED, "schedule.steps=2", "log.every_steps=1"))
    plain = trainer.runtime.sum_on_device

    def with_anothers(values: Tensor) -> Tensor:
        total = plain(values).clone()
        total.view(-1)[-1] = math.nan  # the sum of losses comes last
        return total

    trainer.runtime.sum_on_device = with_anothers
    with pytest.raises(UserError, match="the loss became NaN or infinite at or before step 1;"):
        trained(trainer)
    assert checkpoint.last_checkpoint(trainer.config.out) is None


def test_a_step_has_one_message_which_is_sent_before_the_step_before_it(tiny_run):
    """So that it travels while that is computed, and a slow network is waited for by gradients alone."""
    trainer = built(bare(tiny_run, SUPERVISED, "schedule.steps=4", "log.every_steps=9"))
    told: list[str] = []
    later, now, step = trainer.runtime.sum_later, trainer.runtime.sum_on_host, trainer.method.step

    def noted(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: (told.append(name), plain(*given))[1]

    trainer.runtime.sum_later = noted("ask", later)
    trainer.runtime.sum_on_host = noted("wait", now)
    trainer.method.step = noted("step", step)
    trained(trainer)
    last = len(told) - told[::-1].index("step")  # the end of a run may say more
    assert told[:last] == ["ask", "ask", "step", "ask", "step", "ask", "step", "step"]


class Judge:
    """Stands in for a trainer's evaluator: the figures of the headline network, one an evaluation."""

    def __init__(self, trainer: Trainer, *figures: float) -> None:
        self.trainer = trainer
        self.figures = list(figures)
        self.steps: list[int] = []
        trainer.evaluator = self

    def __call__(self, net: nn.Module) -> dict[str, object]:
        if net is not next(iter(self.trainer.method.eval_nets(self.trainer.net).values())):
            return {"miou": 0.99, "images": 0, "seconds": 0.0}  # of a network that is no headline
        self.steps.append(self.trainer.state.step)
        return {"miou": self.figures[len(self.steps) - 1], "images": 0, "seconds": 0.0}


def test_what_happens_every_so_often_happens_then_and_at_the_end(tiny_run):
    """Of equal figures the first is the best one, and its weights are kept: teacher's and student's."""
    every = ("log.every_steps=2", "evaluation.every_steps=2", "checkpoint={every_steps: 3, keep: 9}")
    small = "batch={labeled: 2, unlabeled: 2}"
    trainer = built(bare(tiny_run, TEACHER, "schedule.steps=7", *every, small))
    judge = Judge(trainer, 0.2, 0.5, 0.5, 0.4)
    weights = {}
    after = trainer.method.after_update

    def noted(net: nn.Module, progress: Progress) -> None:
        after(net, progress)
        name = next(iter(net.state_dict()))
        nets = (net, trainer.method.teacher.net)
        weights[progress.step + 1] = [one.state_dict()[name].clone() for one in nets]

    trainer.method.after_update = noted
    lines = trained(trainer)
    assert [line["step"] for line in lines] == judge.steps == [2, 4, 6, 7]
    saved = sorted(path.name for path in (trainer.config.out / "checkpoints").iterdir())
    assert saved == [f"step_{step:08d}" for step in (3, 6, 7)]
    assert (trainer.state.best, trainer.state.best_step) == (0.5, 4)
    assert "last 40.00, best 50.00 (step 4)" in trainer.result()
    best = checkpoint.find(trainer.config.out, "best")
    assert checkpoint.load_state(best).step == 4
    name = next(iter(trainer.net.state_dict()))
    for place, network in enumerate(("model", "ema")):
        assert torch.equal(checkpoint.load_network(best, network)[name], weights[4][place])
    assert not torch.equal(weights[4][0], weights[7][0]) and not torch.equal(*weights[4])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_that_was_under_way(tiny_run, number):
    trainer = built(bare(tiny_run, SUPERVISED, "schedule.steps=5", "checkpoint.every_steps=100"))
    step = trainer.method.step

    def signalled(net: nn.Module, batch, progress: Progress):
        if progress.step == 1:
            os.kill(os.getpid(), number)
        return step(net, batch, progress)

    trainer.method.step = signalled
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match="after step 2; saved: continue with --resume") as stopped:
        trained(trainer)
    assert stopped.value.code == 128 + number and signal.getsignal(number) is before
    last = checkpoint.last_checkpoint(trainer.config.out)
    assert last is not None and checkpoint.load_state(last).step == 2
    for name, value in checkpoint.load_network(last).items():
        assert torch.equal(trainer.net.state_dict()[name], value)


def test_a_methods_own_state_is_saved_and_given_back(tiny_run):
    config = bare(tiny_run, SUPERVISED, "schedule.steps=2", "checkpoint.every_steps=1")
    trainer = built(config)
    trainer.method.state_dict = lambda: {"seen": trainer.state.step}
    trained(trainer)
    last = checkpoint.last_checkpoint(config.out)
    assert last is not None and checkpoint.load_engine(last)["method"] == {"seen": 2}
    shutil.rmtree(last)
    with pytest.raises(UserError, match=r"state that Supervised does not have \(seen\)"):
        built(config, resume=True)


def test_a_loss_that_is_no_number_keeps_the_checkpoints_from_before(tiny_run):
    settings = ("schedule.steps=4", "checkpoint.every_steps=1", "log.every_steps=9")
    trainer = not_a_number(built(bare(tiny_run, SUPERVISED, *settings)), {2})
    with pytest.raises(UserError, match="at or before step 3;"):
        trained(trainer)
    assert checkpoint.load_state(checkpoint.find(trainer.config.out, "last")).step == 2


class ThreeTimes:
    """Makes of a process one of two: all that is summed over both is three times its own."""

    def __init__(self, trainer: Trainer) -> None:
        self.shares: list[Tensor] = []
        runtime = trainer.runtime
        runtime.world = 2
        runtime.sum_on_host = runtime.sum_on_device = lambda values: 3 * values
        runtime.sum_later = lambda values: lambda: 3 * values
        runtime.gather = runtime.gather_beside = lambda value: [value, value]
        self._to_device = trainer.task.to_device
        trainer.task.to_device = self.to_device

    def to_device(self, raw, device: torch.device, shares: Tensor):
        self.shares.append(shares)
        return self._to_device(raw, device, shares)


@pytest.mark.parametrize("normalization", ["global", "rank"])
def test_shares_and_logged_means_are_over_all_processes(tiny_run, normalization):
    """Two micro-batches here, two there; there are twice as many pixels there, and twice the loss."""
    settings = ("schedule.steps=1", "batch={labeled: 4, unlabeled: 4, max_per_device: 4}")
    twin = built(bare(tiny_run, *settings))
    (_, raw), *_ = list(twin.loader)
    counts = torch.tensor([twin.task.pixel_counts(micro) for micro in raw]).double()
    assert not torch.equal(counts[0], counts[1])
    trainer = built(bare(tiny_run, *settings, f"loss_normalization={normalization}"))
    seen, losses = ThreeTimes(trainer), []
    step = trainer.method.step

    def noted(net: nn.Module, batch, progress: Progress):
        loss, logs = step(net, batch, progress)
        losses.append(loss.item())
        return loss, logs

    trainer.method.step = noted
    (line,) = trained(trainer)
    expected = counts / (3 * counts.sum(0) / 4) if normalization == "global" else torch.ones_like(counts)
    torch.testing.assert_close(torch.stack(seen.shares), expected.float())
    assert line["loss"] == pytest.approx(1.5 * (losses[0] + losses[1]) / 2, rel=1e-5)


def test_another_seed_begins_with_other_weights_whatever_was_drawn_before(tiny_run):
    torch.manual_seed(7)
    first = built(bare(tiny_run, SUPERVISED)).net.state_dict()
    torch.manual_seed(8)
    second = built(bare(tiny_run, SUPERVISED)).net.state_dict()
    third = built(bare(tiny_run, SUPERVISED, "seed=1")).net.state_dict()
    weights = [name for name, value in first.items() if value.ndim == 4]
    assert len(weights) > 5
    assert all(torch.equal(first[name], second[name]) for name in weights)
    assert not any(torch.equal(first[name], third[name]) for name in weights)
