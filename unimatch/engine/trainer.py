"""The training loop: the same lines for every method, task, device and number of processes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from unimatch import keyed
from unimatch.data.sample import Batch
from unimatch.data.stages import Monitor
from unimatch.engine import checkpoint
from unimatch.engine.agreement import Agreement, Asked, RawBatch
from unimatch.engine.copies import Copies
from unimatch.engine.evaluate import Evaluator, over, shown
from unimatch.engine.log import RunLog
from unimatch.engine.optim import set_lr
from unimatch.engine.paces import Paces
from unimatch.engine.pseudo_labels import LabelQuality
from unimatch.engine.run_config import RunConfig
from unimatch.engine.runtime import Layout, Runtime
from unimatch.engine.saver import Held, Saver
from unimatch.engine.schedule import lr_factor
from unimatch.engine.signals import Remembered, Stopped
from unimatch.engine.step_log import SHOWN, means, rates
from unimatch.engine.timing import StepClock, Timed
from unimatch.errors import UserError
from unimatch.methods.base import Logs, Method, Progress
from unimatch.tasks.base import Task

PICTURES_EVERY = 500  # steps, where nothing else is asked for
STEP_TAG = 0x57E9  # keeps a step's torch seed apart from the data's keys


class StepModule(nn.Module):
    """One method step as one module call, so that any parallel wrapper sees one forward and one backward."""

    def __init__(self, net: nn.Module, method: Method) -> None:
        super().__init__()
        self.net = net
        self.parts = method.parts
        self.method = method

    def followers(self) -> list[nn.Module]:
        """The networks beside it that no gradient trains: teachers."""
        nets = checkpoint.modules(self.net, self.method).values()
        return [each for each in nets if each not in set(self.modules())]

    def forward(self, batch: Batch, progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        return self.method.step(self.net, batch, progress)


@dataclass
class Trainer:
    """Everything a run is made of; built by engine.build."""

    config: RunConfig
    runtime: Runtime
    net: nn.Module
    method: Method
    task: Task
    optimizer: torch.optim.Optimizer
    loader: Iterable[tuple[int, RawBatch]]  # yields (step, this process's micro-batches) from `state.step` on
    evaluator: Evaluator | None
    state: checkpoint.TrainerState
    total_steps: int
    steps_per_epoch: int
    optimizer_state: dict[str, Any] | None = None  # of the checkpoint that the run continues
    monitor: Monitor = field(default_factory=Monitor)  # of the loader's workers
    pseudo_labels: LabelQuality | None = None  # measures them at each evaluation
    label_passes: float = math.inf  # over the labelled pixels, of a step

    def __post_init__(self) -> None:
        batch, uses_unlabeled = self.config.batch, self.method.views.unlabeled
        self._images_per_step = batch.labeled + (batch.unlabeled or 0 if uses_unlabeled else 0)
        self.num_parameters = sum(p.numel() for p in self.net.parameters())
        self._module = StepModule(self.net, self.method)
        self._layout: Layout | Timed = self.runtime.prepare(
            self._module,
            self.optimizer,
            self.config.optimizer.clip_norm,
            same_buffers=self.config.sync_batchnorm == "off",
        )
        if self.config.log.timing:
            self._layout = Timed(self._layout, self.runtime.device)
        if self.optimizer_state is not None:
            self._layout.load_optimizer_state(self.optimizer_state)
            self.optimizer_state = None
        self._follows = type(self.method).after_update is not Method.after_update  # else: no gather
        self._copies = Copies(self.runtime.device)
        self._signals = Remembered()
        over_all = self.config.loss_normalization == "global"
        self._agreement = Agreement(self.runtime, self.method.views, self._signals, over_all)
        self._paces = Paces(self.runtime, self.config.sync_batchnorm != "off")
        self._headline: float | None = None
        self._over = ""  # what it leaves out
        self._losses = torch.zeros((), device=self.runtime.device)  # all so far: NaN stays in a sum
        self._saved_step = self.state.step
        settings = self.config.checkpoint
        self._snapshots = checkpoint.snapshots(settings.snapshots, self.total_steps)
        self._saver = Saver(
            self.runtime, self.config.out, settings.keep, self._snapshots, settings.background
        )

    def train(self, log: RunLog) -> None:
        """Runs to the last step. When a signal arrives: saves, and raises Stopped, on all processes."""
        with self._signals:
            try:
                self._run(log)
                self._saver.finish()
            except BaseException as error:
                self._saver.leave(error)
                raise
            log.flush()
            with self.runtime.together():
                if log.problem:
                    raise log.problem

    def _run(self, log: RunLog) -> None:
        config = self.config
        clock = StepClock(self.runtime.device)
        samples = self._paces.loaded(iter(self.loader))
        asked = self._ask(self.state.step, samples, log)
        while (step := self.state.step) < self.total_steps:
            raw, shares = self._agreed(asked)
            if step + 1 < self.total_steps:
                asked = self._ask(step + 1, samples, log)
            clock.data_ready()
            told, batch = self.step(step, raw, shares)
            self.state.step = done = step + 1
            is_last = done == self.total_steps
            log.progress(done)
            if is_last or done % config.log.every_steps == 0:
                self._log_step(log, done, told, clock)
            if self._shows_pictures(done):
                self._log_pictures(log, done, batch)
            best = False
            if self.evaluator and (is_last or done % config.evaluation.every_steps == 0):
                best = self._evaluate(log)
                clock.restart()
            due = is_last or done in self._snapshots or done % config.checkpoint.every_steps == 0
            if best or due:
                self._save(due, best)
                clock.restart()
            clock.step_done()

    def _shows_pictures(self, done: int) -> bool:
        every = self.config.log.pictures_every_steps
        if every is None:
            every = min(PICTURES_EVERY, max(1, self.total_steps // 4))
        return every > 0 and (done in (1, self.total_steps) or done % every == 0)

    def _ask(self, step: int, samples: Iterator[tuple[int, RawBatch]], log: RunLog) -> Asked:
        """Tells the others of this process's micro-batches of a step, or that there are none."""
        try:
            number, raw = next(samples)
        except UserError as error:
            return self._agreement.ask(error)
        assert number == step, "the loader and the trainer disagree about the step"
        return self._agreement.ask(log.problem or self._saver.problem or raw)

    def _agreed(self, asked: Asked) -> tuple[RawBatch, list[Tensor]]:
        """The micro-batches and their loss shares, once every process has its own. If one got a signal, all
        save and leave.
        """
        agreed = self._agreement.answer(asked)
        if agreed.signal:
            self._save()
            self._saver.finish()
            raise Stopped(agreed.signal, self.state.step)
        if agreed.failed:
            with self.runtime.together():
                if isinstance(asked.raw, UserError):
                    raise asked.raw
        assert not isinstance(asked.raw, UserError)
        self.state.skipped += agreed.skipped
        return asked.raw, agreed.shares

    def step(self, step: int, raw: RawBatch, shares: list[Tensor]) -> tuple[list[Logs], Batch]:
        """One optimiser step over this process's micro-batches; what each has to log, and the last one."""
        epoch = step // self.steps_per_epoch
        progress = Progress(step, self.total_steps, epoch, self.label_passes)
        set_lr(self.optimizer, lr_factor(step, self.total_steps, self.config.schedule))
        self.runtime.seed(keyed.key(self.config.seed, STEP_TAG, step, self.runtime.rank) >> 1)
        told: list[Logs] = []
        for index, (micro, share) in enumerate(zip(raw, shares, strict=True)):
            batch = self.task.to_device(self._copies.start(micro), self.runtime.device, share)
            with self._layout.micro_batch(last=index == len(raw) - 1):
                with self._paces.forward():
                    loss, logs = self._layout(batch, progress)
                self._layout.backward(loss / len(raw))
            self._losses += loss.detach()
            told.append(logs)
        self._saver.copied()
        norm = self._layout.update()
        if norm is not None:
            for logs in told:
                logs["grad_norm"] = norm
        if self._follows:
            with self._layout.readable(self._module, parts=self.method.elementwise):
                self.method.after_update(self.net, progress)
        return told, batch

    def _log_step(self, log: RunLog, done: int, told: list[Logs], clock: StepClock) -> None:
        own = self._paces.own(clock.steps)
        values, losses, table = means(told, self._losses, own, self.runtime, self.task.taxonomy.names)
        self._require_finite(losses)
        values |= rates(self.optimizer)
        values |= clock.figures(self._images_per_step)
        values |= {f"data_{name}": value for name, value in self.monitor.figures().items()}
        if isinstance(self._layout, Timed):
            values |= self._layout.figures()
        values |= self._paces.figures(table)
        for line in self._paces.slow(table, values["step_s"]):
            log.say(f"step {done}: {line}")
        values["epoch"] = done / self.steps_per_epoch
        if self.state.skipped:
            values["skipped_samples"] = self.state.skipped
        log.record("train", done, values)
        seconds_left = (self.total_steps - done) * values["step_s"]
        log.figures(done, {name: values[name] for name in SHOWN if name in values}, seconds_left)

    def _log_pictures(self, log: RunLog, done: int, batch: Batch) -> None:
        with self._layout.whole(self.net) as net:
            if log.active:
                log.pictures(done, self.task.pictures(net, batch))

    def _check_finite(self) -> None:
        """Every process checks before anything is logged or saved: poisoned weights become no checkpoint."""
        self._require_finite(self.runtime.sum_on_device(self._losses).item())

    def _require_finite(self, losses: float) -> None:
        if not math.isfinite(losses):
            raise UserError(
                f"the loss became NaN or infinite at or before step {self.state.step}; a checkpoint, if "
                f"there is one, is from before that. Lower optimizer.lr, set optimizer.clip_norm or use "
                f"precision bf16"
            )

    def _evaluate(self, log: RunLog) -> bool:
        """Whether the figure is the best one so far."""
        assert self.evaluator is not None
        self._check_finite()
        if self.config.sync_batchnorm == "off":
            for net in {checkpoint.NETWORK: self.net, **self.method.eval_nets(self.net)}.values():
                self.runtime.broadcast_buffers(net)
        results = {}
        for name, net in self.method.eval_nets(self.net).items():
            with self._layout.whole(net) as whole:
                results[name] = self.evaluator(whole)
        name, result = next(iter(results.items()))  # a method names its headline network first
        for net_name, values in results.items():
            group = "eval" if net_name == name else f"eval_{net_name}"
            log.record("eval", self.state.step, {"network": net_name, **values}, group)
        if self.pseudo_labels is not None:
            with self._layout.whole(self.method.eval_nets(self.net)[name]) as whole:
                log.record("pseudo_labels", self.state.step, self.pseudo_labels(whole))
        headline = self.task.headline
        self._headline, self._over = (figure := result[headline]), over(result)
        log.headline(self.state.step, headline, figure)
        log.say(
            f"step {self.state.step}: {self.config.data.val} {headline} {shown(headline, figure, self.task)}"
            f"{self._over} ({name} network)"
        )
        if figure is None or (self.state.best is not None and figure <= self.state.best):
            return False
        self.state.best, self.state.best_step = figure, self.state.step
        self.state.best_over = self._over
        return True

    def _save(self, whole: bool = True, best: bool = False) -> None:
        """Begins a checkpoint, if this step has none yet, and <run>/best if these are the best weights."""
        self._check_finite()
        whole = whole and self.state.step != self._saved_step
        if not (whole or best):
            return
        nets = checkpoint.modules(self.net, self.method)
        networks = {name: self._layout.network_part(net) for name, net in nets.items()}
        engine, optimizer = self._layout.optimizer_part()
        engine["method"] = self.method.state_dict()
        self._saver.save(self.state, Held(networks, optimizer, engine), whole, best)
        if whole:
            self._saved_step = self.state.step

    def result(self) -> str:
        """How the run ended, in one line."""
        text = f"finished after step {self.state.step}"
        if self.state.best is not None:
            last = "undefined" if self.evaluator else "not evaluated"
            if self._headline is not None:
                last = f"{100 * self._headline:.2f}{self._over}"
            best = f"{100 * self.state.best:.2f} (step {self.state.best_step}){self.state.best_over}"
            text += f"; {self.state.headline}: last {last}, best {best}"
        if self.state.skipped:
            text += f"; {self.state.skipped} unreadable samples were replaced"
        return f"{text}; {self.config.out}"
