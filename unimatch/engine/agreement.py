"""What all processes must know of a step before any of them begins it.

One message a step, which travels while the step before is computed: a process that waits for a slow network
would compute nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unimatch.data.training import RawMicro
from unimatch.engine.runtime import Runtime
from unimatch.engine.signals import SIGNALS, Remembered
from unimatch.errors import UserError
from unimatch.methods.base import ViewNeeds

RawBatch = list[RawMicro]  # one process's micro-batches as the data workers made them


@dataclass(frozen=True)
class Asked:
    """This process's part of a step, and the sum over all processes, once it is there."""

    raw: RawBatch | UserError
    counts: list[list[int]]  # of each of its micro-batches the pixels of each term
    total: Callable[[], Tensor]


@dataclass(frozen=True)
class Agreed:
    """What all processes know."""

    signal: int | None  # one got it: all save and leave
    failed: bool  # one has no samples
    skipped: int  # unreadable samples that were replaced
    shares: list[Tensor]  # [A, terms] float32 on the CPU, of this process's micro-batches


class Agreement:
    """Asks and answers for the steps of a run, in their order."""

    def __init__(self, runtime: Runtime, views: ViewNeeds, signals: Remembered, over_all: bool) -> None:
        """over_all: whether losses are means over the pixels of the global batch."""
        self._runtime = runtime
        self._signals = signals
        self._over_all = over_all
        self._terms = 2 + views.num_strong if views.unlabeled else 1

    def ask(self, raw: RawBatch | UserError) -> Asked:
        """Sends this process's part: its micro-batches, or why there are none."""
        counts: list[list[int]] = []
        told = [0] * (len(SIGNALS) + 2)
        if self._signals.number:
            told[SIGNALS.index(self._signals.number)] = 1
        if isinstance(raw, UserError):
            told[-2] = 1
        else:
            told[-1] = sum(micro["skipped"] for micro in raw)
            counts = [micro["counts"] for micro in raw]
        sums = [sum(term) for term in zip(*counts, strict=True)] or [0] * self._terms
        message = torch.tensor(told + sums, dtype=torch.float64)
        return Asked(raw, counts, self._runtime.sum_later(message))

    def answer(self, asked: Asked) -> Agreed:
        """Waits for the parts of all processes.

        A loss is a mean over the pixels of one micro-batch. Its share, own pixels over the mean pixels of all
        processes' micro-batches, makes the mean of all losses the mean over the pixels of the global batch.
        """
        told = asked.total().tolist()
        *signals, failed, skipped = told[: len(SIGNALS) + 2]
        sent = (int(number) for number, count in zip(SIGNALS, signals, strict=True) if count)
        got = next(sent, None)
        if self._runtime.world == 1:  # nobody else must know: as soon as it came
            got = self._signals.number or None
        micros = len(asked.counts)
        means = [1.0] * self._terms
        counts: list[list[int]] = [[1] * self._terms] * micros
        if self._over_all and micros:
            means = [max(total / (micros * self._runtime.world), 1.0) for total in told[len(SIGNALS) + 2 :]]
            counts = asked.counts
        # On the host in plain numbers: a tensor's operation costs as much for three of them as for a million.
        shares = [[own / mean for own, mean in zip(micro, means, strict=True)] for micro in counts]
        return Agreed(got, bool(failed), int(skipped), list(torch.tensor(shares).unbind()))
