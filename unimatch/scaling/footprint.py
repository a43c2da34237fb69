"""The memory of a training step, found without taking it: on tensors that have shapes but no values."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from unimatch.data.training import RawMicro
from unimatch.engine.trainer import StepModule
from unimatch.methods.base import Method, Progress
from unimatch.models.base import Encoder
from unimatch.models.recompute import recompute_activations
from unimatch.models.segmentor import ModelConfig, Segmentor, build_segmentor
from unimatch.scaling.cost import PERSISTENT, Network, Passes
from unimatch.tasks.base import Task

ATEN = torch.ops.aten
# Attention as the CPU computes it, which torch's counter passes over: with the counts that it has of GPUs.
ATTENTION: dict[Any, Callable[..., int]] = {
    ATEN._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda *shapes, **_: sdpa_backward_flop_count(*shapes[:4])
    ),
}
LATE = Progress(10**9, 10**9 + 1, 10**6)  # after any burn-in and warm-up: a step of the main part


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make while it is active, and forgets each when it is freed."""

    def __init__(self, known: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, int] = {}
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def add(self, tensor: Tensor) -> None:
        """Counts a tensor's storage, once."""
        storage = tensor.untyped_storage()
        name = storage._cdata
        if name in self._seen or name in self._known:
            return
        self._seen[name] = size = storage.nbytes()
        weakref.finalize(storage, self._free, name)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _free(self, name: int) -> None:
        self.now -= self._seen.pop(name)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.prim.device.default:  # asked for more often than all operations, slow to answer
            return args[0].fake_device
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result


def shape_only(config: ModelConfig, num_classes: int, recompute: bool = False, dates: int = 1) -> Segmentor:
    """The network of a configuration without memory for its parameters (torch's meta device).

    dates: images a sample. recompute: its encoder's blocks keep inputs only (activation_checkpointing).
    """
    with torch.device("meta"):
        net = build_segmentor(config.untrained(), num_classes, dates)  # values need not be there
        if recompute:
            recompute_activations(net.encoder.recomputed_parts())
        return net.to(memory_format=torch.channels_last)


def flop_counter() -> FlopCounterMode:
    """Counts the operations of convolutions and matrix products, those of attention among them."""
    return FlopCounterMode(display=False, custom_mapping=ATTENTION)


def block_sizes(net: nn.Module) -> list[int]:
    """Parameters of each block of the encoders, which FSDP gathers one by one."""
    encoders = (module for module in net.modules() if isinstance(module, Encoder))
    blocks = (block for encoder in encoders for block in encoder.recomputed_parts())
    return [sum(p.numel() for p in block.parameters()) for block in blocks]


def network_of(net: nn.Module, moments: int, copies: int) -> Network:
    """The sizes of a network, on any device."""
    sizes = [p.numel() for p in net.parameters()]
    blocks = block_sizes(net)
    return Network(
        parameters=sum(sizes),
        persistent=sum(size for size in sizes if size <= PERSISTENT),
        largest=max(sizes),
        buffer_bytes=sum(b.numel() * b.element_size() for b in net.buffers()),
        moments=moments,
        copies=copies,
        frozen=sum(p.numel() for p in net.parameters() if not p.requires_grad),
        block=max(blocks, default=0),
        rest=sum(sizes) - sum(blocks),
    )


def blank_micro(
    task: Task,
    method: Method,
    width: int,
    height: int,
    labeled: int,
    unlabeled: int,
    has_accelerator: bool = False,
) -> RawMicro:
    """A micro-batch of black images, as the loader stacks them in a run on an accelerator or not."""
    transform = task.transform(method.views, task.views_on_device(has_accelerator))
    image, label = task.blank(height, width), np.zeros((height, width), np.uint8)

    def stacked(arrays: dict[str, np.ndarray], count: int) -> dict[str, Tensor]:
        tensors = {name: torch.from_numpy(np.stack([array] * count)) for name, array in arrays.items()}
        return {**tensors, "noise_key": torch.arange(count)}

    return {
        "labeled": stacked(transform.labeled(image, label, 1), labeled),
        "unlabeled": stacked(transform.unlabeled(image, 1, image), unlabeled) if unlabeled else None,
        "skipped": 0,
        "counts": [],
    }


def step_flops(
    net: Segmentor, method: Method, task: Task, crop: int, labeled: int, unlabeled: int
) -> tuple[float, Passes]:
    """Operations of the convolutions and matrix products of a step over so many samples, and its passes.

    net: on the meta device; it is left with parameters that have no values.
    """
    counter = flop_counter()
    raw = blank_micro(task, method, crop, crop, labeled, unlabeled)
    passes = _take_steps(net, method, task, [raw], None, lambda _: counter)
    return counter.get_total_flops(), passes


def step_bytes(
    net: Segmentor,
    method: Method,
    task: Task,
    batches: Sequence[RawMicro],
    dtype: torch.dtype | None,
) -> tuple[list[int], Passes]:
    """The most bytes that a forward and backward pass over each micro-batch holds at a time; a step's passes.

    net: on the meta device; it is left with parameters that have no values. dtype: autocast's. Counted is
    every tensor with its true size, from the batch on the device to the temporaries of backward, except the
    parameters and their gradients. Not counted: workspaces inside kernels and what an allocator wastes.
    """
    watched: list[LiveBytes] = []

    def watch(known: Sequence[Tensor]) -> LiveBytes:
        watched.append(LiveBytes(known))
        return watched[-1]

    passes = _take_steps(net, method, task, batches, dtype, watch)
    return [live.peak for live in watched], passes


def _take_steps(
    net: Segmentor,
    method: Method,
    task: Task,
    batches: Sequence[RawMicro],
    dtype: torch.dtype | None,
    watch: Callable[[Sequence[Tensor]], contextlib.AbstractContextManager[Any]],
) -> Passes:
    """Takes a step over each micro-batch, without values, inside what `watch` gives for it; a step's passes.

    watch: from the parameters, their gradients and the buffers.
    """
    # The task's constants are real tensors.
    followers = StepModule(net, method).followers()
    with _passes(net, followers) as count, FakeTensorMode(allow_non_fake_inputs=True) as fake:
        known: list[Tensor] = []
        modules = (net, *method.eval_nets(net).values(), *method.companions().values())
        for one in dict.fromkeys(modules):  # a teacher and the method's parts too, once each
            known += on_cpu(one)
        trained = [p for p in (*net.parameters(), *method.parts.parameters()) if p.requires_grad]
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
            known.append(parameter.grad)
        for raw in batches:
            half: dict[str, Tensor] = {k: fake.from_tensor(value) for k, value in raw["labeled"].items()}
            other = raw["unlabeled"]
            if other is not None:
                other = {name: fake.from_tensor(value) for name, value in other.items()}
            micro: RawMicro = {"labeled": half, "unlabeled": other, "skipped": 0, "counts": []}
            with watch(known):
                batch = task.to_device(micro, torch.device("cpu"), torch.ones(8))
                with contextlib.nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype):
                    loss, _ = StepModule(net, method)(batch, LATE)
                loss.backward()
    for parameter in trained:
        parameter.grad = None
    total = count()
    return Passes(*(each // len(batches) for each in (total.forward, total.trained, total.followers)))


@contextlib.contextmanager
def _passes(net: nn.Module, followers: Sequence[nn.Module]) -> Iterator[Callable[[], Passes]]:
    """Counts the passes through a network, and those through others."""
    counts = {"forward": 0, "trained": 0, "followers": 0}

    def count(*_: Any) -> None:
        counts["forward"] += 1
        counts["trained"] += torch.is_grad_enabled()

    def follow(*_: Any) -> None:
        counts["followers"] += 1

    hooks = [net.register_forward_pre_hook(count)]
    hooks += [one.register_forward_pre_hook(follow) for one in followers]
    try:
        yield lambda: Passes(**counts)
    finally:
        for hook in hooks:
            hook.remove()


def on_cpu(net: nn.Module) -> list[Tensor]:
    """Gives a network of the meta device parameters and buffers of the CPU, and returns them.

    `to_empty` does the same, five times as slowly where tensors have no values.
    """
    made = net._apply(lambda one: torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device="cpu"))
    return [*made.parameters(), *made.buffers()]
