"""What a run tells: metrics.jsonl, trackers, a progress bar, the start banner. One process writes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from tqdm import tqdm

from unimatch.durable import replace_file
from unimatch.engine.run_config import RunConfig
from unimatch.engine.trackers import open_trackers
from unimatch.errors import UserError


class RunLog:
    """Writes one run's log. On processes other than the main one, every call does nothing.

    `problem` says why the log could not be written. It is kept and not raised: all processes must leave
    together, and only one of them writes.
    """

    def __init__(
        self, run: Path, active: bool, start_step: int, total_steps: int, config: RunConfig | None = None
    ) -> None:
        """Lines after `start_step` are dropped: a killed run left them, and they will be written again.

        config: of the run, for its trackers; None: TensorBoard alone. UserError: one is not installed.
        """
        self.active = active
        self.problem: UserError | None = None
        self._run = run
        self._total = total_steps
        if not active:
            return
        threading.excepthook = _hide_write_errors
        path = run / "metrics.jsonl"
        _keep_until(path, start_step)
        self._file = path.open("a", buffering=1)
        self._trackers = open_trackers(run, start_step, config)
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.1,
            mininterval=1.0,
            disable=None,
        )

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.active:
            self._bar.close()
            for close in (self._file.close, *(tracker.close for tracker in self._trackers)):
                with suppress(OSError):  # what could not be written is a `problem` by now
                    close()
            self._tell_failures()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
            self._tell_failures()
        except OSError as error:
            self.problem = UserError(
                f"cannot write the log in {self._run}: {error.strerror or error}. Checkpoints are intact: "
                f"make room and start again with --resume"
            )

    def _tell_failures(self) -> None:
        for failure in filter(None, (tracker.failure() for tracker in self._trackers)):
            self.say(failure)

    def flush(self) -> None:
        """Waits until all is written, or is a `problem`."""
        if self.active:
            with self._writing():
                for tracker in self._trackers:
                    tracker.flush()

    def say(self, text: str) -> None:
        """A line for the person at the terminal."""
        if self.active:
            self._bar.write(text)

    def progress(self, step: int) -> None:
        if self.active and not self._bar.disable:
            self._bar.update(step - self._bar.n)

    def figures(self, step: int, figures: Mapping[str, float], seconds_left: float) -> None:
        """Shows some figures in the bar, or as a line where the output is no terminal."""
        if not self.active:
            return
        shown = {name: f"{value:.4g}" for name, value in figures.items()}
        if not self._bar.disable:
            self._bar.set_postfix(shown, refresh=False)
        else:
            left = str(timedelta(seconds=round(seconds_left)))
            self.say(
                f"step {step}/{self._total} {' '.join(f'{k} {v}' for k, v in shown.items())} left {left}"
            )

    def headline(self, step: int, name: str, value: float | None) -> None:
        """The figure by which runs are compared, as TensorBoard's first scalar: capitals sort first."""
        if self.active and value is not None:
            with self._writing():
                self._scalars({f"Result/{name}": value}, step)

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        for tracker in self._trackers:
            tracker.scalars(values, step)

    def record(self, kind: str, step: int, values: Mapping[str, Any], group: str | None = None) -> None:
        """One JSON line; numbers among `values` become scalars <group>/<name> of the trackers too.

        group: by default the kind; another one where a step has several lines of a kind.
        """
        if not self.active:
            return
        group = group or kind
        with self._writing():
            self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
            numbers: dict[str, float] = {}
            for name, value in values.items():
                if isinstance(value, Mapping):
                    numbers |= {f"{group}/{name}/{key}": one for key, one in value.items() if one is not None}
                elif isinstance(value, int | float):
                    numbers[f"{group}/{name}"] = value
            self._scalars(numbers, step)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """uint8 [H, W, 3] pictures by name."""
        if self.active:
            with self._writing():
                for tracker in self._trackers:
                    tracker.pictures(pictures, step)


def _hide_write_errors(failure: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread would print the traceback of an error that the next call to it raises here."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def _keep_until(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:
            break  # the line that was being written when the run was killed
    replace_file(path, "".join(line + "\n" for line in kept).encode())


def read_metrics(run: Path, kind: str) -> list[dict[str, Any]]:
    """All lines of one kind ("train", "eval") of a run's metrics.jsonl, in order.

    UserError for a line that is not ours; the last one may be cut, as a killed run leaves it.
    """
    path = run / "metrics.jsonl"
    texts = path.read_text().splitlines()
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            lines.append(json.loads(text))
        except ValueError:
            if number < len(texts):
                raise UserError(f"{path}:{number} is damaged; remove this line") from None
    return [line for line in lines if line["kind"] == kind]


def evaluations(run: Path) -> list[dict[str, Any]]:
    """The evaluations of a run's headline network, in order of steps; none: it was not evaluated."""
    try:
        lines = read_metrics(run, "eval")
    except FileNotFoundError:
        return []
    # Those on the samples of the last one: a resumed run may go on with another data.val.
    last = lines[-1] if lines else {}
    masks = last.get("labels")  # runs of older versions do not say it
    same = [one for one in lines if one.get("samples") == last.get("samples")]
    same = [one for one in same if one.get("labels", masks) == masks]
    return [one for one in same if one["network"] == lines[0]["network"]]


def banner(title: str, rows: Mapping[str, str]) -> str:
    """A small two-column table."""
    width = max(len(name) for name in rows)
    lines = [title]
    for name, value in rows.items():
        first, *more = value.splitlines()
        lines += [f"  {name:<{width}}  {first}", *(f"  {'':<{width}}  {line}" for line in more)]
    return "\n".join(lines)
