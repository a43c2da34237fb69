"""What a run costs, as arithmetic: memory of a device, bytes that cross the network. No torch, no I/O.

N is the number of devices, P the bytes of all parameters in fp32 (their type in every precision: bf16 and
fp16 are autocast's), T those of the trained ones, all but a frozen encoder's. A stage is ZeRO's: 0 is
DistributedDataParallel, 1 parts the optimiser's state over the devices, 2 the gradients too, 3 the parameters
too. FSDP, which parts all of it and teachers too, counts as one more. The equations are in docs/scaling.md.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from unimatch.errors import UserError

STAGES = (0, 1, 2, 3)
FSDP = 4
# As they are to be preferred: each sends no less than DDP and the two before it and waits more often. FSDP
# comes before stage 3, which on networks of up to REUSE elements keeps every parameter that it has gathered.
IN_ORDER = (0, 1, 2, FSDP, 3)
FP32 = 4  # bytes
# DeepSpeed's defaults, which the files in launch/deepspeed leave as they are.
REDUCE_BUCKET = 50_000_000  # elements of the buffer in which gradients are collected, as in launch/deepspeed
PERSISTENT = 100_000  # stage 3 keeps parameters of up to so many elements whole
REUSE = 1_000_000_000  # stage 3 keeps a parameter that is used again within so many elements

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def parse_bytes(text: str) -> float:
    """Bytes of "80GB" (10^9) or "80GiB" (2^30); UserError for anything else."""
    match = re.fullmatch(r"\s*([0-9.]+)\s*([KMGT]?)(i?)B\s*", text)
    try:
        assert match is not None
        number, unit, binary = float(match[1]), match[2], bool(match[3])
        assert number > 0 and (unit or not binary)
    except (AssertionError, ValueError):
        raise UserError(f"{text!r} is no amount of memory; write for instance 80GB or 40GiB") from None
    return number * (1024 ** list(UNITS).index(unit) if binary else UNITS[unit])


def parse_rate(text: str) -> float:
    """Bytes a second of "200Gbit" or "25GB" (both a second); UserError for anything else."""
    match = re.fullmatch(r"\s*([0-9.]+)\s*([KMGT]?)(bit|B)(/s)?\s*", text)
    try:
        assert match is not None
        number = float(match[1])
        assert number > 0
    except (AssertionError, ValueError):
        raise UserError(f"{text!r} is no data rate; write for instance 200Gbit or 25GB") from None
    return number * UNITS[match[2]] / (8 if match[3] == "bit" else 1)


def parse_tflops(text: str) -> float:
    """Operations a second of "25" (10^12 of them); UserError for anything else."""
    try:
        number = float(text)
        assert 0 < number < math.inf
    except (AssertionError, ValueError):
        raise UserError(
            f"--tflops: {text!r} is no rate in 10^12 operations a second; write for instance 25"
        ) from None
    return 1e12 * number


@dataclass(frozen=True)
class Network:
    """What a network asks of memory, whatever the batch."""

    parameters: int  # elements
    persistent: int  # elements in parameters small enough for stage 3 to keep whole
    largest: int  # elements of the largest parameter
    buffer_bytes: int  # batch-norm statistics and the like
    moments: int  # values that the optimiser keeps a parameter: SGD 0, with momentum 1, AdamW 2
    copies: int = 0  # further whole networks, such as an EMA teacher
    frozen: int = 0  # of the elements those that are not trained
    block: int = 0  # elements of the largest block of an encoder, which FSDP gathers by itself
    rest: int = 0  # elements outside of blocks, which FSDP gathers for a whole step

    @property
    def bytes(self) -> int:
        """P."""
        return FP32 * self.parameters

    @property
    def trained_bytes(self) -> int:
        """T: of what there are gradients and an optimiser's state."""
        return FP32 * (self.parameters - self.frozen)


@dataclass(frozen=True)
class Passes:
    """How often one micro-batch runs through the network: stage 3 may gather the parameters for each."""

    forward: int  # all of them
    trained: int  # those with a graph, which also go backward
    followers: int = 0  # through teachers beside it, which FSDP parts too


@dataclass(frozen=True)
class Activations:
    """Bytes of all that a forward and backward pass makes: fixed + per_sample * samples in the pass."""

    fixed: float
    per_sample: float

    @classmethod
    def through(cls, points: tuple[tuple[int, float], tuple[int, float]]) -> Activations:
        """The line through two (samples, bytes); never below 0 at 0 samples."""
        (few, low), (many, high) = points
        slope = (high - low) / (many - few)
        return cls(max(0.0, low - slope * few), slope)

    def of(self, samples: float) -> float:
        return self.fixed + self.per_sample * samples

    def most(self, room: float) -> int:
        """The most samples that `room` bytes hold; 0 if none."""
        if self.per_sample <= 0:
            raise ValueError("a sample takes no memory: the two measurements are not those of one network")
        return max(0, math.floor((room - self.fixed) / self.per_sample))


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    parameters: float  # with buffers and further networks
    gradients: float
    optimizer: float
    exchange: float  # DeepSpeed's buffers; its fp32 copy of its part counts as optimizer

    @property
    def state(self) -> float:
        """All but activations."""
        return self.parameters + self.gradients + self.optimizer + self.exchange


def memory(
    network: Network, stage: int, devices: int, bucket: int = REDUCE_BUCKET, overlap: bool | None = None
) -> Memory:
    """Bytes of a device under a ZeRO stage, or FSDP.

    overlap: two buffers of `bucket` elements in stages 1 and 2 instead of one, as the setting overlap_comm of
    the launch file; None: as launch/deepspeed has it, on from stage 2.
    """
    whole, trained = float(network.bytes), float(network.trained_bytes)
    others = network.buffer_bytes + network.copies * (network.bytes + network.buffer_bytes)
    moments = float(network.moments)
    if stage == FSDP:
        return _fsdp_memory(network, devices)
    if stage == 0:
        return Memory(whole + others, trained, moments * trained, 0.0)
    # DeepSpeed updates a copy of its part of the parameters and writes the result back, also in fp32.
    optimizer = (moments + 1) * trained / devices
    buffers = 2 if stage < 3 and (stage == 2 if overlap is None else overlap) else 1
    exchange = float(buffers * FP32 * bucket)
    if stage < 3:
        return Memory(whole + others, trained / (1 if stage == 1 else devices), optimizer, exchange)
    # Parts, and what is gathered while it is in use: all of a network that is smaller than REUSE.
    gathered = FP32 * min(network.parameters, max(REUSE, network.persistent, network.largest))
    return Memory(whole / devices + gathered + others, trained / devices, optimizer, exchange)


def _fsdp_memory(network: Network, devices: int) -> Memory:
    """Parts of all networks and, during a step, whole: what lies outside of blocks, and two blocks, the one
    that computes and the next. Their gradients too, of one block. Messages are copied together first.
    """
    networks = 1 + network.copies
    gathered = FP32 * (networks * network.rest + 2 * network.block)
    parts = networks * (network.bytes / devices + network.buffer_bytes)
    gradients = network.trained_bytes / devices + FP32 * (network.rest + network.block)
    optimizer = network.moments * network.trained_bytes / devices
    return Memory(parts + gathered, gradients, optimizer, FP32 * 2.0 * max(network.block, network.rest))


@dataclass(frozen=True)
class Traffic:
    """Bytes that each device sends (and receives) in one optimiser step, over rings."""

    gradients: float
    parameters: float

    @property
    def total(self) -> float:
        return self.gradients + self.parameters


def traffic(network: Network, stage: int, devices: int, accumulation: int, passes: Passes) -> Traffic:
    """Bytes a device sends in a step of `accumulation` micro-batches.

    Stage 0 all-reduces the gradients once, 2 (N-1)/N T. The others scatter them, (N-1)/N T: stage 1 once,
    stages 2 and 3 in each micro-batch. Stages 1 and 2 gather the new parameters once, (N-1)/N T. Stage 3
    gathers all of them in each micro-batch: for one forward and one backward pass twice, 3 (N-1)/N P with the
    gradients, and for `passes` at most once each. DeepSpeed keeps what it needs again within REUSE elements,
    so a smaller network is gathered once a micro-batch at best; the larger figure is given. FSDP gathers as
    often, and scatters the gradients of each trained pass by themselves.
    """
    others = (devices - 1) / devices
    trained, whole = others * network.trained_bytes, others * network.bytes
    if stage == 0:
        return Traffic(2 * trained, 0.0)
    if stage < 3:
        return Traffic(trained * (accumulation if stage == 2 else 1), trained)
    scattered = accumulation * (passes.trained if stage == FSDP else 1)
    return Traffic(trained * scattered, whole * accumulation * (passes.forward + passes.trained))


def norm_messages(norms: int, passes: Passes, accumulation: int) -> int:
    """Small messages of a step that synchronised batch-norm waits for: one a norm, pass and direction."""
    return 2 * norms * passes.trained * accumulation


def leaving_a_node(sent_by_a_device: float, devices: int, devices_per_node: int) -> float:
    """Bytes that a node sends in a step: a ring leaves it once, however many of its devices it visits."""
    return sent_by_a_device if devices > devices_per_node else 0.0


def human(size: float) -> str:
    """Bytes as text, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(size) < 999.5 or unit == "TB":
            return f"{size:.3g} {unit}" if abs(size) < 100 else f"{size:.0f} {unit}"
        size /= 1000
    raise AssertionError
