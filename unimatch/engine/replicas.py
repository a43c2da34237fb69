"""The network whole on every process: one process, or DistributedDataParallel over several."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn

from unimatch.engine.optim import load_state
from unimatch.engine.parts import Part, settled, whole, without_tensors
from unimatch.errors import UserError


class Buffers:
    """Rank 0's buffers on every rank, in one message that travels beside the backward pass.

    DistributedDataParallel sends them before the forward pass, in several messages, and waits for each.
    """

    def __init__(self, buffers: list[Tensor]) -> None:
        self._buffers = buffers

    @classmethod
    def of(cls, module: nn.Module) -> Buffers | None:
        """Those of floating point; None if there are none."""
        floats = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
        return cls(floats) if floats else None

    def send(self) -> None:
        self._flat = torch.cat([buffer.flatten() for buffer in self._buffers])
        self._work = dist.broadcast(self._flat, src=0, async_op=True)

    def receive(self) -> None:
        assert self._work is not None
        self._work.wait()
        parts = self._flat.split([buffer.numel() for buffer in self._buffers])
        shaped = [part.view_as(buffer) for part, buffer in zip(parts, self._buffers, strict=True)]
        torch._foreach_copy_(self._buffers, shaped)


class Replicas:
    """Forward, backward and update of a step, and the complete state of network and optimiser.

    What needs all processes at the same time says so: they call it together, whatever the layout. The other
    layouts are `engine.zero.Sharded` and `engine.fsdp.FullySharded`, with the same methods.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None,
        same_buffers: bool = False,
    ) -> None:
        """same_buffers: all processes go on with rank 0's after each step."""
        self._accelerator = accelerator
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._clip_norm = clip_norm
        self._optimizer = optimizer
        with warnings.catch_warnings():
            # Newer torch has another name for this argument, which accelerate does not know yet.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self._module, _ = accelerator.prepare(module, optimizer)
        world = accelerator.num_processes
        self._buffers = Buffers.of(module) if same_buffers and world > 1 else None
        self._last = True
        if world > 1 and not isinstance(self._module, nn.parallel.DistributedDataParallel):
            raise UserError(
                f"{world} processes, but accelerate wrapped the network as {type(self._module).__name__}"
            )

    def __call__(self, *inputs: Any) -> Any:
        """The module's forward pass, in the run's precision."""
        return self._module(*inputs)

    @contextlib.contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Around forward and backward: gradients are exchanged in the last micro-batch of a step only."""
        self._last = last
        with contextlib.nullcontext() if last else self._accelerator.no_sync(self._module):
            yield

    def backward(self, loss: Tensor) -> None:
        if self._buffers is not None and self._last:
            self._buffers.send()  # no pass of this step changes them any more
        self._accelerator.backward(loss)

    def update(self) -> Tensor | None:
        """One optimiser step, gradients cleared; the gradients' norm before clipping, if they are clipped."""
        norm = None
        if self._clip_norm is not None:
            norm = self._accelerator.clip_grad_norm_(self._parameters, self._clip_norm)
        # Not accelerate's own step, which looks for a package on the disk every time.
        scaler = self._accelerator.scaler
        if scaler is None:
            self._optimizer.step()
        else:
            scaler.step(self._optimizer)
            scaler.update()
        for parameter in self._parameters:  # the optimiser's own way looks at hooks and options of each
            parameter.grad = None
        if self._buffers is not None:
            self._buffers.receive()
        return norm

    def optimizer_part(self) -> tuple[dict[str, Any], Part]:
        """The state that `load_optimizer_state` takes, of optimiser and fp16 loss scaler: without its large
        tensors, and what this process has of these. They change with the next update.
        """
        scaler = self._accelerator.scaler
        small, large = without_tensors(self._optimizer.state_dict())
        state = {"optimizer": small, "scaler": scaler.state_dict() if scaler is not None else {}}
        return state, Part(whole(large), shared=True)

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Continue from the whole state that processes of any layout and number had parts of."""
        load_state(self._optimizer, state["optimizer"])
        if self._accelerator.scaler is not None and state["scaler"]:
            self._accelerator.scaler.load_state_dict(state["scaler"])

    def network_part(self, net: nn.Module) -> Part:
        """What this process has of the state of `net`. Parameters change with the next update."""
        return Part(whole(settled(net)), shared=True)

    @contextlib.contextmanager
    def whole(self, net: nn.Module) -> Iterator[nn.Module]:
        """A network with the weights of `net` that each process can run by itself. All processes enter."""
        yield net

    @contextlib.contextmanager
    def readable(self, net: nn.Module, parts: bool) -> Iterator[None]:
        """Inside, the parameters of `net` hold all their values; with `parts` they may be this process's part
        of them, as those of all that follows the network then are. All processes enter.
        """
        yield
