"""How long a step takes on many devices: a stated model, as arithmetic. The equations are in docs/scaling.md.

It knows nothing of congestion between jobs, of failures, or of a network that is slower far away than near.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Literal

from unimatch.scaling.cost import Passes, norm_messages

Algorithm = Literal["ring", "tree", "auto"]
# How a run lies over its devices. fsdp: in parts over all of them; hsdp: over those of a node, of which the
# other nodes have copies.
Mode = Literal["ddp", "zero1", "zero2", "zero3", "fsdp", "hsdp"]
MODES: tuple[Mode, ...] = ("ddp", "zero1", "zero2", "zero3", "fsdp", "hsdp")
NODES_OF_INTEGRAL = 2000  # midpoints
FAR = 9.0  # sigmas


@dataclass
class Link:
    """One direction of a connection."""

    gbyte_s: float  # 10^9 bytes a second
    latency_us: float  # of one message, software included

    def __post_init__(self) -> None:
        if self.gbyte_s <= 0 or self.latency_us < 0:
            raise ValueError("gbyte_s must be above 0 and latency_us at least 0")

    @property
    def bytes_s(self) -> float:
        return 1e9 * self.gbyte_s

    @property
    def latency_s(self) -> float:
        return 1e-6 * self.latency_us


@dataclass
class OneWay:
    """A gather or a scatter beside its ring: so many times its latency, and the time of its bytes."""

    latency: float = 1.0
    transfer: float = 1.0

    def __post_init__(self) -> None:
        if min(self.latency, self.transfer) < 0:
            raise ValueError("latency and transfer must be at least 0")


@dataclass
class Overhead:
    """A mode's own work on a step, as a part of its compute."""

    ddp: float = 0.0
    zero1: float = 0.05
    zero2: float = 0.05
    zero3: float = 0.1
    fsdp: float = 0.05
    hsdp: float = 0.05

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 0:
            raise ValueError("the overhead of a mode must be at least 0")


@dataclass
class Cluster:
    """The machines. The defaults are round figures of 8-GPU nodes on 400 Gbit networks, not measured."""

    devices_per_node: int = 8
    inside: Link = field(
        default_factory=lambda: Link(gbyte_s=200.0, latency_us=5.0)
    )  # between a node's devices
    between: Link = field(default_factory=lambda: Link(gbyte_s=40.0, latency_us=15.0))  # of a node to another
    algorithm: Algorithm = "auto"  # auto: the faster one for the message, as NCCL chooses
    gather: OneWay = field(default_factory=OneWay)
    scatter: OneWay = field(default_factory=OneWay)  # and sum
    overlap: float = 0.7  # part of the backward pass during which gradients can travel
    bucket_mb: float = 25.0  # DDP's; the last bucket has nothing left to hide behind
    straggler_sigma: float = 0.02  # of the logarithm of a device's compute time, from step to step
    slow_device: float = 1.0  # so many times as long as the others' does one device always compute
    data_gbyte_s_per_node: float = 2.0  # at which a node reads shards
    data_images_s_per_device: float = 500.0  # that a device's data workers prepare
    overhead: Overhead = field(default_factory=Overhead)

    def __post_init__(self) -> None:
        if self.devices_per_node < 1:
            raise ValueError("devices_per_node must be at least 1")
        if not 0 <= self.overlap <= 1:
            raise ValueError(f"overlap must lie in [0, 1], found {self.overlap:g}")
        if self.slow_device < 1:
            raise ValueError(f"slow_device must be at least 1, found {self.slow_device:g}")
        if self.straggler_sigma < 0 or self.bucket_mb <= 0:
            raise ValueError("straggler_sigma must be at least 0, bucket_mb above 0")
        if self.data_gbyte_s_per_node <= 0 or self.data_images_s_per_device <= 0:
            raise ValueError("data rates must be above 0")


@dataclass
class Work:
    """What one step asks of the machines. The defaults are assumed, for a ResNet-50 at crop 321."""

    image_s: float = 0.01  # compute of one sample (all its views), forward and backward
    fixed_s: float = 0.005  # compute of a pass that does not depend on its samples
    backward_share: float = 0.6  # of compute
    parameter_mb: float = 160.0  # fp32, 10^6 bytes
    shard_kb_per_sample: float = 120.0  # read, 10^3 bytes
    norms: int = 0  # synchronised batch norms; 0: sync_batchnorm off
    passes_forward: int = 2
    passes_trained: int = 2
    passes_followers: int = 0  # through teachers, whose blocks FSDP gathers too
    blocks: int = 16  # of the encoder: FSDP gathers and scatters each by itself, in every pass
    parts_s: float = 0.0  # what FSDP itself does in a micro-batch, whatever its samples
    rest_mb: float = 0.0  # of parameter_mb what lies in none; FSDP gathers it for a whole micro-batch
    gathered: float = 1.0  # bytes of a block's parameter that FSDP gathers, of fp32's; 0.5: in bf16

    def __post_init__(self) -> None:
        if not 0 <= self.backward_share <= 1:
            raise ValueError(f"backward_share must lie in [0, 1], found {self.backward_share:g}")
        if not 0 < self.gathered <= 1:
            raise ValueError(f"gathered must lie in (0, 1], found {self.gathered:g}")
        if self.blocks < 1 or not 0 <= self.rest_mb <= self.parameter_mb:
            raise ValueError("blocks must be at least 1, rest_mb between 0 and parameter_mb")
        if (
            min(self.image_s, self.parameter_mb) <= 0
            or min(self.fixed_s, self.parts_s, self.shard_kb_per_sample) < 0
        ):
            raise ValueError(
                "image_s and parameter_mb must be above 0, fixed_s, parts_s and shard_kb_per_sample >= 0"
            )

    @property
    def passes(self) -> Passes:
        return Passes(self.passes_forward, self.passes_trained)


def ring_s(size: float, steps: float, link: Link, devices: int) -> float:
    """Seconds in which a message in `devices` pieces makes `steps` hops of a ring."""
    return steps * (link.latency_s + size / devices / link.bytes_s)


def slowest(cluster: Cluster, devices: int) -> Link:
    """The link that paces a ring: all of its hops happen at the same time."""
    return cluster.inside if devices <= cluster.devices_per_node else cluster.between


def all_reduce_s(size: float, devices: int, cluster: Cluster) -> float:
    """Seconds of the sum of `size` bytes over all devices, on all devices.

    Ring: 2 (N-1) hops of 1/N each. Tree: up and down a chain inside a node and a binary tree over the nodes,
    in pieces so small that only the first one's way and the bytes count.
    """
    if devices == 1:
        return 0.0
    ring = ring_s(size, 2 * (devices - 1), slowest(cluster, devices), devices)
    nodes = math.ceil(devices / cluster.devices_per_node)
    chain = min(devices, cluster.devices_per_node) - 1
    way = chain * cluster.inside.latency_s + math.ceil(math.log2(nodes)) * cluster.between.latency_s
    tree = 2 * (way + size / slowest(cluster, devices).bytes_s)
    return {"ring": ring, "tree": tree, "auto": min(ring, tree)}[cluster.algorithm]


def one_way_s(size: float, devices: int, cluster: Cluster, way: OneWay, messages: int = 1) -> float:
    """Seconds of a reduce-scatter, or of an all-gather, of `size` bytes in so many messages: N-1 hops of a
    ring for each.
    """
    link = slowest(cluster, devices)
    latency = messages * way.latency * link.latency_s
    return (devices - 1) * (latency + way.transfer * size / devices / link.bytes_s)


def between_nodes_s(size: float, nodes: int, cluster: Cluster) -> float:
    """Seconds of the sum of `size` bytes over nodes alone, each of which has them once, in parts or whole."""
    return all_reduce_s(size, nodes, replace(cluster, devices_per_node=1))


@functools.cache
def expected_maximum(sigma: float, devices: int, slow: float = 1.0) -> float:
    """The mean of the largest of N lognormal factors of mean 1, one of them times `slow`: how the slowest
    device paces a step.

    E max = integral over x > 0 of 1 - F(x)^(N-1) F(x / slow), F being the distribution of a factor.
    """
    if sigma == 0 or devices == 1:
        return slow
    normal = NormalDist(-sigma * sigma / 2, sigma)
    low, high = -FAR * sigma, FAR * sigma + math.log(slow)  # of log x: below it F is 0, above it 1
    width = (high - low) / NODES_OF_INTEGRAL
    total = math.exp(low)
    for index in range(NODES_OF_INTEGRAL):
        log = low + (index + 0.5) * width
        below = normal.cdf(log) ** (devices - 1) * normal.cdf(log - math.log(slow))
        total += (1 - below) * math.exp(log) * width
    return total


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimiser step; `step` is what a stopwatch would say."""

    compute: float  # of the slowest device
    messages: float  # exposed: what compute does not hide
    data: float  # the wait for data: what preparing takes longer than all the rest

    @property
    def step(self) -> float:
        return self.compute + self.messages + self.data


def step_time(
    work: Work, cluster: Cluster, devices: int, samples: float, mode: Mode = "ddp", accumulation: int = 1
) -> StepTime:
    """A step in which each device has `samples` samples in `accumulation` passes."""
    alone = accumulation * work.fixed_s + samples * work.image_s
    compute = alone * (1 + getattr(cluster.overhead, mode))
    compute *= expected_maximum(cluster.straggler_sigma, devices, cluster.slow_device)
    if mode in ("fsdp", "hsdp"):
        compute += accumulation * work.parts_s
    hidden = cluster.overlap * work.backward_share * alone  # time behind which messages can go on
    messages = _messages(work, cluster, devices, mode, accumulation, hidden)
    if devices > 1:
        count = norm_messages(work.norms, work.passes, accumulation)
        messages += count * all_reduce_s(0.0, devices, cluster)
    nodes = math.ceil(devices / cluster.devices_per_node)
    read = samples * devices / nodes * 1e3 * work.shard_kb_per_sample / (1e9 * cluster.data_gbyte_s_per_node)
    prepare = samples / cluster.data_images_s_per_device
    return StepTime(compute, messages, max(0.0, max(read, prepare) - compute - messages))


def _messages(
    work: Work, cluster: Cluster, devices: int, mode: Mode, accumulation: int, hidden: float
) -> float:
    """Seconds of a step's gradients and parameters on their way that compute does not hide."""
    size = 1e6 * work.parameter_mb
    if mode == "ddp":
        sent = all_reduce_s(size, devices, cluster)
        tail = sent * min(1.0, 1e6 * cluster.bucket_mb / size)
        # Only the last micro-batch's backward pass sends.
        return max(tail, sent - hidden / accumulation)
    if mode in ("fsdp", "hsdp"):
        return _messages_of_parts(work, cluster, devices, mode, accumulation, hidden)
    gather, scatter = (one_way_s(size, devices, cluster, way) for way in (cluster.gather, cluster.scatter))
    if mode == "zero1":  # sends when backward has ended
        return scatter + gather
    if mode == "zero2":
        return max(0.0, accumulation * scatter - hidden) + gather
    # Gathered for each pass, again for a trained pass's way back; scattered in each micro-batch.
    gathers = accumulation * (work.passes_forward + work.passes_trained)
    return max(0.0, accumulation * scatter + gathers * gather - hidden)


def _messages_of_parts(
    work: Work, cluster: Cluster, devices: int, mode: Mode, accumulation: int, hidden: float
) -> float:
    """The same of FSDP: blocks are gathered for each pass, again for a trained pass's way back. They and what
    lies in none are scattered once a micro-batch, and the latter gathered once.
    """
    group = min(devices, cluster.devices_per_node) if mode == "hsdp" else devices
    rest = 1e6 * work.rest_mb
    inside = 1e6 * work.parameter_mb - rest
    gather = one_way_s(work.gathered * inside, group, cluster, cluster.gather, work.blocks)
    scatter = one_way_s(inside, group, cluster, cluster.scatter, work.blocks)
    ends = sum(one_way_s(rest, group, cluster, way) for way in (cluster.gather, cluster.scatter) if rest)
    gathers = work.passes_forward + work.passes_trained + work.passes_followers
    sent = accumulation * (gathers * gather + scatter + ends)
    if mode == "hsdp":  # the devices of a node send their parts side by side, over the node's one link
        sent += between_nodes_s(inside + rest, math.ceil(devices / cluster.devices_per_node), cluster)
    # What is outside is waited for, and so are the first block's parameters and the last one's gradients.
    return max(ends + (gather + scatter) / work.blocks, sent - hidden)
