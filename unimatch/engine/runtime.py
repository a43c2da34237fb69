"""Processes, devices and precision: the one module that knows accelerate.

Everything that differs between one CPU and many GPUs is here, so that the trainer reads the same for all.
"""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, nn

from unimatch.engine import modes, roll_call
from unimatch.engine.environment import overrule
from unimatch.engine.launched import launch_file, misfit
from unimatch.engine.modes import Precision
from unimatch.engine.replicas import Replicas
from unimatch.engine.watchdog import Watchdog
from unimatch.errors import UserError, of_system

if TYPE_CHECKING:
    from unimatch.engine.fsdp import FullySharded
    from unimatch.engine.trainer import StepModule
    from unimatch.engine.zero import Sharded

Layout: TypeAlias = "Replicas | Sharded | FullySharded"
ALL_REDUCES = 9  # timed ones
WATCHDOG_GRACE_S = 10.0  # those who wait for a stalled process say so first


class Runtime:
    """One process of a run.

    Attributes:
        rank, world: this process's number and how many there are.
        device: where the network runs.
        mode: how the network lies over the processes, for people.
        overruled: a line for each variable of the environment that the run's configuration overrules.
    """

    def __init__(self, precision: Precision = "fp32", timeout_s: float = 600.0):
        """Joins the other processes. `timeout_s` bounds every wait for them."""
        self.overruled = overrule(precision)
        has_gpu = torch.cuda.is_available()
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        mode = modes.asked(launched)
        modes.make_ready(mode, precision, has_gpu)
        timeout = timedelta(seconds=timeout_s)
        # find_unused_parameters stays off: a step reaches every parameter, and DDP says so if it does not.
        handlers: list[Any] = [
            # Buffers: see Replicas, which sends them while it computes.
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
        ]
        if launched > 1 or mode.zero:
            handlers.append(InitProcessGroupKwargs(backend="nccl" if has_gpu else "gloo", timeout=timeout))
        self.dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        plugin = None
        self.zero_stage = 0  # 0: no ZeRO
        if mode.zero:
            from unimatch.engine import zero  # seconds of import that other launches do without

            plugin = zero.plugin(self.dtype)
            self.zero_stage = plugin.deepspeed_config["zero_optimization"]["stage"]
        # What an earlier Runtime of this process left: accelerate refuses another precision beside it.
        AcceleratorState._reset_state()
        with modes.unseen():
            self.accelerator = Accelerator(
                mixed_precision="no" if precision == "fp32" or mode.zero else precision,
                deepspeed_plugin=plugin,
                kwargs_handlers=handlers,
                step_scheduler_with_optimizer=False,
            )
        self.rank: int = self.accelerator.process_index
        self.world: int = self.accelerator.num_processes
        self.device: torch.device = self.accelerator.device
        self.precision = precision
        self.timeout_s = timeout_s
        self._watchdog: Watchdog | None = None
        if self.world != launched or (launched > 1 and not dist.is_initialized()):
            raise UserError(f"the launcher announced {launched} processes, but {self.world} found each other")
        told = misfit(launch_file(), has_gpu, self.world)
        if told and self.is_main:
            print(told, file=sys.stderr, flush=True)
        # Counts, flags and messages travel between the hosts' memories and never stall a GPU's queue. Each
        # group of gloo has two threads: gradients must not wait for one that waits for a slow network.
        self._host_group: dist.ProcessGroup | None = None
        if self.world > 1:
            group = dist.new_group(backend="gloo", timeout=timeout)
            assert isinstance(group, dist.ProcessGroup)
            self._host_group = group
            self._beside: Any = dist.new_group(backend="gloo", timeout=timeout)
            roll_call.prepare()
        self._fsdp = mode.fsdp
        self.mode = modes.described(self.zero_stage, mode.fsdp, self.world)
        # Forward passes gather parameters, and wait for each other.
        self.gathers = self.zero_stage == 3 or mode.fsdp is not None
        if mode.fsdp:
            from unimatch.engine import fsdp  # a tenth of a second that other launches do without

            self._mesh = fsdp.mesh_of(mode.fsdp, self.device, timeout)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def prepare(
        self,
        module: StepModule,
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None,
        same_buffers: bool = False,
    ) -> Layout:
        """The module laid over this run's processes, in its precision, with its optimiser.

        same_buffers: replicas take rank 0's buffers (batch norms' statistics) in every step.
        """
        if self.zero_stage:
            from unimatch.engine.zero import Sharded

            return Sharded(self.accelerator, module, optimizer, clip_norm)
        if self._fsdp:
            from unimatch.engine.fsdp import FullySharded

            return FullySharded(
                module, optimizer, clip_norm, self._mesh, self._fsdp, self.dtype, self.autocast, same_buffers
            )
        return Replicas(self.accelerator, module, optimizer, clip_norm, same_buffers)

    def seed(self, number: int) -> None:
        """Seeds torch's generators of the host and of this process's device."""
        # torch.manual_seed asks for every backend that there may be: 0.2 ms on a machine without a GPU.
        torch.default_generator.manual_seed(number)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(number)

    def watch(self) -> None:
        """From now on this process is killed if it makes no progress: between two calls of `alive`.

        Others that wait for it end by their timeout, but its own launcher on another host would not notice.
        A process without others may take the time it likes.
        """
        if self.world > 1:
            limit_s = self.timeout_s + WATCHDOG_GRACE_S
            self._watchdog = Watchdog(limit_s, f"rank {self.rank} on {platform.node()}")

    def alive(self) -> None:
        """Tells that this process makes progress. What waits for others on the host calls it."""
        if self._watchdog is not None:
            self._watchdog.alive()

    def await_all(self) -> None:
        """Returns when all processes have come here. UserError on rank 0 names those that did not in time."""
        if self.world == 1:
            return
        try:
            # Its own default is half an hour, whatever the group's.
            timeout = timedelta(seconds=self.timeout_s)
            dist.monitored_barrier(group=self._host_group, timeout=timeout, wait_all_ranks=True)
        except RuntimeError as error:
            if self.rank:
                raise
            raise UserError(
                f"not all processes were ready within {self.timeout_s:g} s ({str(error).splitlines()[0]}); "
                "look at what these ranks wait for (storage, downloads), or raise --timeout"
            ) from error

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The run's precision for a forward pass outside the prepared module (evaluation)."""
        # Not accelerate's, which does nothing under DeepSpeed.
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def sum_on_host(self, values: Tensor) -> Tensor:
        """The sum over processes of a small CPU tensor."""
        self.alive()
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values, group=self._host_group)
            self.alive()
        return values

    def sum_later(self, values: Tensor) -> Callable[[], Tensor]:
        """The same, begun now: what it returns waits for the sum. It travels while this process computes."""
        if self.world == 1:
            return lambda: values
        values = values.clone()
        work = dist.all_reduce(values, group=self._host_group, async_op=True)

        def total() -> Tensor:
            self.alive()
            work.wait()
            self.alive()
            return values

        return total

    def sum_on_device(self, values: Tensor) -> Tensor:
        """The sum over processes of a tensor on this run's device."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def all_reduce_s(self, size_bytes: int) -> float:
        """Median seconds of the sum of `size_bytes` of float32 over all processes; UserError if wrong."""
        ones = torch.ones(max(1, size_bytes // 4), device=self.device)
        times = []
        for _ in range(ALL_REDUCES + 1):
            self.barrier()
            began = time.perf_counter()
            total = self.sum_on_device(ones)[-1].item()  # waits for the device
            times.append(time.perf_counter() - began)
            if total != self.world:
                raise UserError(f"an all-reduce over {self.world} processes counted {total:g} of them")
        return statistics.median(times[1:])  # the first one connects

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
        self.alive()
        dist.all_gather_object(gathered, value, group=self._host_group)
        self.alive()
        return gathered

    def gather_beside(self, value: Any) -> list[Any]:
        """The same from a thread, whatever the training sends meanwhile. Each process has one such thread."""
        if self.world == 1:
            return [value]
        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, value, group=self._beside)
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

    def release(self) -> None:
        """Lets go of the prepared module, so that another one can take its place."""
        self.accelerator.free_memory()

    def close(self) -> None:
        """Leaves the process group."""
        if self._watchdog is not None:
            self._watchdog.close()
        self.accelerator.end_training()
        if dist.is_initialized():
            dist.destroy_process_group()
