"""From measured runs to the model of step_time: what a machine is like, and how wrong the model is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median, stdev
from typing import Literal

from unimatch.scaling.step_time import Cluster, Link, Mode, OneWay, Overhead, Work, step_time

Kind = Literal["all_reduce", "gather", "scatter"]
MODES: tuple[Mode, ...] = ("ddp", "zero1", "zero2", "zero3", "fsdp")  # that `run` can start


@dataclass(frozen=True)
class Parts:
    """Median seconds of one step and of its parts, on rank 0."""

    step: float
    data: float
    forward: float
    backward: float
    update: float

    @property
    def busy(self) -> float:
        """The step without its wait for data."""
        return self.step - self.data


@dataclass(frozen=True)
class Measured:
    """One short run. `alone`: as many single processes with the same micro-batch, at the same time."""

    mode: Mode
    precision: str
    processes: int
    labeled: int  # of the global batch
    unlabeled: int
    parts: Parts
    alone: Parts
    spread: float  # standard deviation of the logarithm of a step's seconds
    memory_gib: float
    kinds: tuple[str, ...]  # "strong", "weak"

    @property
    def samples(self) -> int:
        return self.labeled + self.unlabeled

    @property
    def images_s(self) -> float:
        return self.samples / self.parts.step

    @property
    def communication(self) -> float:
        """Seconds that the step takes longer than the same work without the other processes: messages,
        waiting, ZeRO's own work, synchronised norms. Noise can make it negative."""
        return self.parts.busy - self.alone.busy


@dataclass(frozen=True)
class Exchange:
    """One timed message between all processes, which has so many bytes when it is whole."""

    processes: int
    size_bytes: int
    seconds: float
    kind: Kind = "all_reduce"


def efficiency(row: Measured, rows: Sequence[Measured], kind: str) -> float | None:
    """Images a second over N times those of one DDP process; None if that was not measured.

    The one process has the same global batch (strong) or the same batch a process (weak).
    """
    times = 1 if kind == "strong" else row.processes
    for base in rows:
        one = base.mode == "ddp" and base.processes == 1 and base.precision == row.precision
        if one and base.samples * times == row.samples:
            return row.images_s / (row.processes * base.images_s)
    return None


def fit_line(points: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """(a, b), both >= 0, that make a * u + b * v nearest to y in relative squares; points: (u, v, y).

    With both free if that gives no negative one, else the better of either alone.
    """
    scaled = [(u / y, v / y) for u, v, y in points]

    def error(a: float, b: float) -> float:
        return sum((a * u + b * v - 1) ** 2 for u, v in scaled)

    uu, vv = sum(u * u for u, _ in scaled), sum(v * v for _, v in scaled)
    uv, u1, v1 = sum(u * v for u, v in scaled), sum(u for u, _ in scaled), sum(v for _, v in scaled)
    candidates = [(u1 / uu if uu else 0.0, 0.0), (0.0, v1 / vv if vv else 0.0)]
    determinant = uu * vv - uv * uv
    if determinant > 1e-12 * uu * vv:
        both = ((u1 * vv - v1 * uv) / determinant, (v1 * uu - u1 * uv) / determinant)
        if min(both) >= 0:
            return both
    return min(candidates, key=lambda pair: error(*pair))


def fit_link(exchanges: Sequence[Exchange]) -> Link:
    """Latency and rate of the ring that explains timed all-reduces: 2 (N-1) (latency + bytes / N / rate)."""
    points = []
    for one in exchanges:
        hops = 2 * (one.processes - 1)
        points.append((hops, hops * one.size_bytes / one.processes, one.seconds))
    latency, per_byte = fit_line(points)
    return Link(gbyte_s=1e-9 / max(per_byte, 1e-15), latency_us=1e6 * latency)


def fit_one_way(exchanges: Sequence[Exchange], link: Link) -> OneWay:
    """What timed gathers, or scatters, take of the link's latency and bytes; without any as its ring."""
    if not exchanges:
        return OneWay()
    points = []
    for one in exchanges:
        hops = one.processes - 1
        sent = hops * one.size_bytes / one.processes / link.bytes_s
        points.append((hops * link.latency_s, sent, one.seconds))
    return OneWay(*fit_line(points))


@dataclass
class Calibration:
    """A machine and a workload as measured. What was fitted to is not evidence for the model."""

    work: Work
    cluster: Cluster
    slots: int  # processes that run without sharing a core or a GPU
    notes: list[str] = field(default_factory=list)
    fitted: list[Measured] = field(default_factory=list)

    def predict(self, row: Measured) -> float:
        """Seconds of a step without its wait for data."""
        crowd = max(1.0, row.processes / self.slots)
        own = {name: crowd * getattr(self.work, name) for name in ("image_s", "fixed_s", "parts_s")}
        work = replace(self.work, **own)
        found = step_time(work, self.cluster, row.processes, row.samples / row.processes, row.mode)
        return found.compute + found.messages


def calibrate(
    rows: Sequence[Measured], exchanges: Sequence[Exchange], work: Work, slots: int, on_gpus: bool
) -> Calibration:
    """The model's constants: compute from single processes, links from timed messages, nothing from DDP runs
    of several processes, which are left to check it. Processes that ran side by side without a message are
    single ones too, where each had a core or a GPU. `work`: parameters and norms as the run has them.
    """
    singles = [row for row in rows if row.processes == 1 and row.mode == "ddp"]
    rows = [row for row in rows if row.precision == singles[0].precision]
    singles = [row for row in singles if row in rows]
    per_image, fixed, count = _compute(rows, slots)
    forward, backward = (
        fmean(getattr(row.parts, name) for row in singles) for name in ("forward", "backward")
    )
    share = backward / (forward + backward) if forward + backward > 0 else 0.6
    work = replace(work, image_s=per_image, fixed_s=fixed, backward_share=share)
    links = [one for one in exchanges if one.kind == "all_reduce"]
    link = fit_link(links) if links else Link(gbyte_s=1.0, latency_us=100.0)
    cluster = Cluster(
        devices_per_node=max([row.processes for row in rows]),
        inside=link,
        between=link,
        algorithm="ring",
        gather=fit_one_way([one for one in exchanges if one.kind == "gather"], link),
        scatter=fit_one_way([one for one in exchanges if one.kind == "scatter"], link),
        overlap=0.7 if on_gpus else 0.0,
        straggler_sigma=median(row.spread for row in singles),
        data_gbyte_s_per_node=1e6,
        data_images_s_per_device=1e9,
        overhead=Overhead(**dict.fromkeys(vars(Overhead()), 0.0)),
    )
    notes = [
        f"compute: {1e3 * per_image:.3g} ms a sample + {1e3 * fixed:.3g} ms, from {count} runs of single "
        f"processes, alone or side by side ({singles[0].precision})",
        f"link: {link.gbyte_s:.3g} GB/s, {link.latency_us:.3g} us, from {len(links)} timed all-reduces",
        *(
            f"{name}s take {way.latency:.2g} of their ring's latency, {way.transfer:.2g} of its bytes' time"
            for name, way in (("gather", cluster.gather), ("scatter", cluster.scatter))
        ),
        f"spread of a process's step: sigma {cluster.straggler_sigma:.3g}",
        f"more than {slots} processes share the machine: compute grows with their number",
        "gradients hide behind 70 % of the backward pass (assumed)"
        if on_gpus
        else "nothing hides behind the backward pass: the same cores compute and send",
        "the wait for data is left out of both sides",
    ]
    result = Calibration(work, cluster, slots, notes)
    for mode in MODES[1:]:
        _fit_mode(result, [row for row in rows if row.mode == mode])
    result.fitted += singles
    return result


def _compute(rows: Sequence[Measured], slots: int) -> tuple[float, float, int]:
    """Seconds a sample, those of each pass, and from how many runs of single processes."""
    runs = {(row.samples / row.processes, row.alone.busy) for row in rows if row.processes <= slots}
    if len({samples for samples, _ in runs}) == 1:
        return fmean(busy / samples for samples, busy in runs), 0.0, len(runs)
    return *fit_line([(samples, 1.0, busy) for samples, busy in sorted(runs)]), len(runs)


def _fit_mode(model: Calibration, rows: Sequence[Measured]) -> None:
    """What a mode adds, from its run of fewest processes."""
    if not rows:
        return
    first = min(rows, key=lambda row: row.processes)
    crowd = max(1.0, first.processes / model.slots)
    found = max(0.0, first.parts.busy - model.predict(first)) / crowd
    if first.mode == "fsdp":  # copies of parameters do not grow with samples
        model.work.parts_s, told = found, f"{1e3 * found:.3g} ms"
    else:
        samples = first.samples / first.processes
        share = found / (samples * model.work.image_s + model.work.fixed_s)
        setattr(model.cluster.overhead, first.mode, share)
        told = f"{share:.0%} of compute"
    model.fitted.append(first)
    model.notes.append(f"{first.mode} adds {told}, from its run of {first.processes}")


def log_spread(seconds: Sequence[float]) -> float:
    """Standard deviation of the logarithm; 0 for fewer than two."""
    return stdev(map(math.log, seconds)) if len(seconds) > 1 else 0.0
