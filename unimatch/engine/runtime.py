"""Processes, devices and precision: the one module that knows accelerate.

Everything that differs between one CPU and many GPUs is here, so that the trainer reads the same for all.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, nn

from unimatch.errors import UserError, of_system

Precision = Literal["fp32", "bf16", "fp16"]


class Runtime:
    """One process of a run.

    Attributes:
        rank, world: this process's number and how many there are.
        device: where the network runs.
    """

    def __init__(
        self, precision: Precision = "fp32", timeout_s: float = 600.0, broadcast_buffers: bool = False
    ):
        """Joins the other processes. `timeout_s` bounds every wait for them."""
        has_gpu = torch.cuda.is_available()
        if not has_gpu:
            os.environ["ACCELERATE_USE_CPU"] = "true"  # accelerate starts no process group on CPUs otherwise
            if precision == "fp16":
                raise UserError("precision: fp16 needs a GPU; use fp32 (or bf16, which is slow on most CPUs)")
        if (
            os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
            or os.environ.get("ACCELERATE_USE_FSDP") == "true"
        ):
            raise UserError(
                "DeepSpeed and FSDP launches are not supported yet; use one of launch/accelerate/*.yaml"
            )
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        timeout = timedelta(seconds=timeout_s)
        # find_unused_parameters stays off: a step reaches every parameter, and DDP says so if it does not.
        handlers: list[Any] = [
            DistributedDataParallelKwargs(broadcast_buffers=broadcast_buffers, gradient_as_bucket_view=True)
        ]
        if launched > 1:
            handlers.append(InitProcessGroupKwargs(backend="nccl" if has_gpu else "gloo", timeout=timeout))
        self.accelerator = Accelerator(
            mixed_precision="no" if precision == "fp32" else precision,
            kwargs_handlers=handlers,
            step_scheduler_with_optimizer=False,
        )
        self.rank: int = self.accelerator.process_index
        self.world: int = self.accelerator.num_processes
        self.device: torch.device = self.accelerator.device
        self.precision = precision
        if self.world != launched or (launched > 1 and not dist.is_initialized()):
            raise UserError(f"the launcher announced {launched} processes, but {self.world} found each other")
        # Counts, flags and messages travel between the hosts' memories and never stall a GPU's queue.
        self._host_group: dist.ProcessGroup | None = None
        if self.world > 1 and has_gpu:
            group = dist.new_group(backend="gloo", timeout=timeout)
            assert isinstance(group, dist.ProcessGroup)
            self._host_group = group

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def prepare(
        self, module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The module wrapped for this run's processes and precision, and its optimiser."""
        with warnings.catch_warnings():
            # Newer torch has another name for this argument, which accelerate does not know yet.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            wrapped, prepared = self.accelerator.prepare(module, optimizer)
        if self.world > 1 and not isinstance(wrapped, nn.parallel.DistributedDataParallel):
            raise UserError(
                f"{self.world} processes, but accelerate wrapped the network as {type(wrapped).__name__}"
            )
        return wrapped, prepared

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The run's precision for a forward pass outside the prepared module (evaluation)."""
        return self.accelerator.autocast()

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    @contextlib.contextmanager
    def accumulate(self, module: nn.Module, last: bool) -> Iterator[None]:
        """Gradients are exchanged in the backward pass of the last micro-batch only."""
        with contextlib.nullcontext() if last else self.accelerator.no_sync(module):
            yield

    def clip_gradients(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """Scales the gradients to a total norm of at most `max_norm`; returns the norm before."""
        norm = self.accelerator.clip_grad_norm_(parameters, max_norm)
        assert norm is not None
        return norm

    def scaler_state(self) -> dict[str, Any]:
        """State of the fp16 loss scaler; empty in other precisions."""
        return self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else {}

    def load_scaler_state(self, state: dict[str, Any]) -> None:
        if self.accelerator.scaler is not None and state:
            self.accelerator.scaler.load_state_dict(state)

    def sum_on_host(self, values: Tensor) -> Tensor:
        """The sum over processes of a small CPU tensor."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values, group=self._host_group)
        return values

    def sum_on_device(self, values: Tensor) -> Tensor:
        """The sum over processes of a tensor on this run's device."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Rank 0's buffers on every rank: running statistics differ when they are not synchronised."""
        if self.world > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's small picklable value, in rank order, on every rank."""
        if self.world == 1:
            return [value]
        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, value, group=self._host_group)
        return gathered

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A block in which a UserError or OSError on any rank becomes one UserError on all of them.

        Without this, one rank would leave and the others would wait for it until the timeout. The block must
        not hold a collective of its own after the point that may fail.
        """
        message = None
        try:
            yield
        except UserError as error:
            message = str(error)
        except OSError as error:
            message = of_system(error)
        messages = self.gather(message)
        by_text: dict[str, list[int]] = {}
        for rank, text in enumerate(messages):
            if text is not None:
                by_text.setdefault(text, []).append(rank)
        if by_text:
            lines = []
            for text, ranks in by_text.items():
                where = "" if len(ranks) == self.world else f"rank {', '.join(map(str, ranks))}: "
                lines.append(where + text)
            raise UserError("\n".join(lines))

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier(group=self._host_group)

    def close(self) -> None:
        """Leaves the process group."""
        self.accelerator.end_training()
        if dist.is_initialized():
            dist.destroy_process_group()
