"""A profile of some steps as text: kernels by kind, gaps between them, and the host's time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from .cases import GOALS, cases
from .results import Teller
from .speed import BF16
from .workload import build, timed, wait

STEPS = 20
GAP_US = 10.0  # a pause of the device that is longer is a gap
# The first kind of which a name holds a word, in lower case.
KINDS = (
    ("attention", ("flash", "fmha", "attention")),
    (
        "convolutions and matrix products",
        ("conv", "gemm", "cudnn", "cutlass", "xmma", "wgrad", "dgrad", "matmul", "mm_"),
    ),
    ("batch and layer norms", ("batch_norm", "batchnorm", "bn_", "layer_norm", "layernorm", "welford")),
    ("optimiser and teacher", ("multi_tensor", "fused_sgd", "fused_adam", "foreach", "lerp")),
    ("softmax and losses", ("softmax", "nll_loss", "cross_entropy")),
    ("resizing", ("upsample", "interpolate")),
    (
        "copies and conversions",
        ("memcpy", "copy", "memset", "cat", "convert", "transpose", "nchwtonhwc", "nhwctonchw"),
    ),
    ("reductions", ("reduce", "sum", "max", "min", "any")),
    (
        "element by element",
        ("elementwise", "vectorized", "unrolled", "where", "add", "mul", "clamp", "relu", "silu"),
    ),
)
OTHER = "everything else"


@dataclass(frozen=True)
class Span:
    """A kernel, or without a GPU an operation."""

    name: str
    start_us: float
    end_us: float


def kind_of(name: str) -> str:
    low = name.lower()
    return next((kind for kind, words in KINDS if any(word in low for word in words)), OTHER)


def busy_us(spans: Sequence[Span]) -> tuple[float, float, int]:
    """(time in which any of the spans runs, time in gaps longer than GAP_US, number of such gaps)."""
    busy = gaps = 0.0
    count, end = 0, None
    for span in sorted(spans, key=lambda one: one.start_us):
        if end is not None and span.start_us - end > GAP_US:
            gaps += span.start_us - end
            count += 1
        busy += max(0.0, span.end_us - max(span.start_us, end if end is not None else span.start_us))
        end = span.end_us if end is None else max(end, span.end_us)
    return busy, gaps, count


def run(teller: Teller) -> None:
    for key in GOALS[:1] if teller.rehearsal else GOALS:
        if teller.left_s < 8:
            teller.tell(key, note="not measured: no time was left")
            continue
        case = cases(teller.rehearsal)[key]
        workload = build(case, BF16)
        steps = 1 if teller.rehearsal else STEPS
        for _ in range(1 if teller.rehearsal else 5):
            workload.step()
        wait()
        on_gpu = torch.cuda.is_available()
        # Of a GPU its kernels alone: with the host's operations reading the profile would take minutes.
        with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as found:
            spent = timed(workload.step, steps)
        wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
        spans = [
            Span(event.name, event.time_range.start, event.time_range.end)
            for event in found.events()
            if event.device_type == wanted and (on_gpu or not event.cpu_children)
        ]
        _tell(teller, case.name, spans, steps, spent.wall)
        teller.tell(
            f"{case.name}: the host",
            step_ms=round(1e3 * spent.wall / steps, 2),
            launch_ms=round(1e3 * spent.launched / steps, 2),
            own_time_ms=round(1e3 * spent.own / steps, 2),
            note="while the profiler watches, which slows launches",
        )


def _tell(teller: Teller, case: str, spans: Sequence[Span], steps: int, wall_s: float) -> None:
    by_kind: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        by_kind[kind_of(span.name)].append(span)
    busy, gaps, count = busy_us(spans)
    for kind, members in sorted(
        by_kind.items(), key=lambda pair: -sum(s.end_us - s.start_us for s in pair[1])
    ):
        total = sum(span.end_us - span.start_us for span in members)
        longest: dict[str, float] = defaultdict(float)
        for span in members:
            longest[span.name[:90]] += span.end_us - span.start_us
        name, most = max(longest.items(), key=lambda pair: pair[1])
        teller.tell(
            f"{case}: {kind}",
            ms_a_step=round(total / 1e3 / steps, 3),
            share=round(total / max(busy, 1e-9), 3),
            launches_a_step=len(members) // steps,
            most=f"{name} ({most / 1e3 / steps:.2f} ms)",
        )
    teller.tell(
        f"{case}: the device",
        busy_ms=round(busy / 1e3 / steps, 2),
        gaps_ms=round(gaps / 1e3 / steps, 2),
        gaps_a_step=count // steps,
        busy_share=round(busy / 1e6 / wall_s, 3),
    )
