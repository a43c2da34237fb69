"""Images a second and memory of a step in every mode, in turns with plain PyTorch of the same losses."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from unimatch.engine.build import build_network
from unimatch.engine.runtime import Runtime

from .cases import GOALS, Case, cases
from .plain import Plain
from .results import Teller
from .workload import Mode, allow_tf32, build, device, read_config, taxonomy, timed, wait

PLAIN, PLAIN_TF32 = "plain fp32", "plain, torch's defaults (TF32 convolutions)"
FP32, TF32 = Mode("fp32"), Mode("tf32", tf32=True)
BF16 = Mode("bf16", precision="bf16", tf32=True)
COMPILED = replace(BF16, name="bf16, compiled", compile=True)
VIEWS = replace(BF16, name="bf16, device views", views="accelerator")
ORDERED = replace(BF16, name="bf16, channels_last off", channels_last=False)
TRIED = replace(BF16, name="bf16, cuDNN tries its kernels", benchmark=True)
SPEEDUP, MEMORY = 3.0, 0.6  # goals: images/s and memory of a mode over the plain step's
# In this order: what matters most first, and what is compiled, which takes a minute, last.
MODES: dict[str, tuple[Mode, ...]] = {
    "r101-321": (FP32, TF32, BF16, TRIED, ORDERED, VIEWS),
    "vit-b-518": (FP32, TF32, BF16, VIEWS),
    "r50-321": (BF16,),
    "vit-s-518": (BF16,),
    "r101-801": (BF16, VIEWS),
    "r50-801": (BF16,),
    "change": (FP32, BF16),
    "medical": (FP32, BF16),
}
NO_TIME = "not measured: no time was left; --parts speed gives it more"


@dataclass(frozen=True)
class Pace:
    """How often steps are made: not counted at first, and in each turn after one that is not counted."""

    turns: int = 3
    steps: int = 4
    warm_up: int = 2


@dataclass
class Contestant:
    """One way to make a step, and what it took."""

    name: str
    step: Callable[[], None]
    own_bytes: int  # weights and what the optimiser keeps
    rates: list[float] = field(default_factory=list)  # images a second, one a turn
    launch_ms: list[float] = field(default_factory=list)  # until the host had launched a step
    peak: int = 0  # bytes

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


@dataclass(frozen=True)
class Measured:
    """A contestant beside the plain step of the same case."""

    mode: str
    times_plain: float
    memory_of_plain: float


def run(teller: Teller) -> None:
    found = cases(teller.rehearsal)
    pace = Pace(1, 1, 1) if teller.rehearsal else Pace()
    measured: dict[str, list[Measured]] = {}
    for key, case in found.items():
        if teller.left_s > 15:
            measured[key] = _measure(teller, case, MODES[key], pace)
        else:
            teller.tell(case.name, note=NO_TIME)
    for key in GOALS:
        if teller.left_s > 90:
            measured.setdefault(key, []).extend(_measure(teller, found[key], (COMPILED,), pace))
        else:
            teller.tell(f"{found[key].name}: {COMPILED.name}", note=NO_TIME)
    for key in GOALS:
        _fill(teller, found[key])
        reached = [
            one.mode
            for one in measured.get(key, [])
            if one.times_plain >= SPEEDUP and one.memory_of_plain <= MEMORY
        ]
        wanted = f"{SPEEDUP:g} times the plain step's images/s with {MEMORY:.0%} of its memory"
        passed = None if teller.rehearsal else bool(reached)
        teller.tell(f"{found[key].name}: {wanted}", passed=passed, note=", ".join(reached))


def _measure(teller: Teller, case: Case, modes: tuple[Mode, ...], pace: Pace) -> list[Measured]:
    """Tells a line for each of the modes and for the two plain steps, all in turns."""
    makers = {name: partial(_plain, case, name == PLAIN_TF32) for name in (PLAIN, PLAIN_TF32)}
    makers |= {mode.name: partial(_ours, case, mode, teller.rehearsal) for mode in modes}
    contestants = []
    for name, make in makers.items():
        try:
            contestants.append(_enter(name, make, pace))
        except Exception as error:  # memory, or a compiler: a line, and the others go on
            teller.tell(f"{case.name}: {name}", False, f"{type(error).__name__}: {error}"[:300])
    for turn in range(pace.turns):
        for contestant in contestants[turn % 2 :] + contestants[: turn % 2]:
            _take_turn(contestant, case.images, pace.steps)
    base = next((one for one in contestants if one.name == PLAIN), None)
    found = [_tell(teller, case, one, base) for one in contestants]
    contestants.clear()
    _forget()
    return found


def _tell(teller: Teller, case: Case, one: Contestant, base: Contestant | None) -> Measured:
    ratio, share = (one.rate / base.rate, one.peak / base.peak) if base else (float("nan"), float("nan"))
    teller.tell(
        f"{case.name}: {one.name}",
        images_s=round(one.rate, 2),
        step_ms=round(1e3 * case.images / one.rate, 1),
        launch_ms=round(statistics.median(one.launch_ms), 1),
        peak_gib=round(one.peak / 2**30, 2),
        times_plain=round(ratio, 2),
        memory_of_plain=round(share, 2),
        spread=round(max(one.rates) / min(one.rates) - 1, 3),
    )
    return Measured(one.name, ratio, share)


def _enter(name: str, make: Callable[[], Callable[[], None]], pace: Pace) -> Contestant:
    _forget()
    before = _allocated()
    step = make()
    for _ in range(pace.warm_up):
        step()
    wait()
    return Contestant(name, step, _allocated() - before)


def _plain(case: Case, tf32: bool) -> Callable[[], None]:
    net = build_network(read_config(case, FP32), taxonomy(case), Runtime())
    plain = Plain(net.to(memory_format=torch.contiguous_format), case, device())

    def step() -> None:
        allow_tf32(False)
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = tf32, False
        plain.step()

    return step


def _ours(case: Case, mode: Mode, rehearsal: bool) -> Callable[[], None]:
    # A rehearsal compiles nothing: that takes a CPU minutes.
    return build(case, replace(mode, compile=mode.compile and not rehearsal)).step


def _take_turn(contestant: Contestant, images: int, steps: int) -> None:
    """Some steps with nothing else under way; what the one before left in the allocator is given back."""
    _forget()
    others = _allocated() - contestant.own_bytes
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    contestant.step()
    wait()
    spent = timed(contestant.step, steps)
    contestant.rates.append(images * steps / spent.wall)
    contestant.launch_ms.append(1e3 * spent.launched / steps)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else others + 1
    contestant.peak = max(contestant.peak, peak - others)


def _fill(teller: Teller, case: Case) -> None:
    """The largest bf16 batch whose step fits: doubled until one does not, then halved in between."""
    fits, too_large, size = 0, 0, case.images
    while size > fits and teller.left_s > 10:
        if _fits(case, size):
            fits = size
        else:
            too_large = size
        if teller.rehearsal:
            break
        size = (fits + too_large) // 4 * 2 if too_large else 2 * fits  # even: as many labelled as not
    if fits or too_large:
        teller.tell(f"{case.name}: largest batch", samples=fits, does_not_fit=too_large or None)
    else:
        teller.tell(f"{case.name}: largest batch", note=NO_TIME)


def _fits(case: Case, samples: int) -> bool:
    try:
        build(replace(case, labeled=samples // 2, unlabeled=samples // 2), BF16).step()
        wait()
    except torch.cuda.OutOfMemoryError:
        return False
    finally:
        _forget()
    return True


def _forget() -> None:
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def _allocated() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
