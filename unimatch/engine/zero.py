"""DeepSpeed ZeRO: optimiser state (stage 1), gradients (2) and parameters (3) in parts over the processes."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepspeed
import torch
from accelerate import Accelerator, DeepSpeedPlugin
from deepspeed.utils import safe_set_full_optimizer_state
from torch import Tensor, nn

from unimatch import shipped
from unimatch.engine import zero_private
from unimatch.engine.optim import continued, load_groups
from unimatch.engine.parts import Part, Piece, Pieces, settled, whole
from unimatch.errors import UserError

CONFIG_FILE = "ACCELERATE_DEEPSPEED_CONFIG_FILE"  # set by `accelerate launch`, or by hand beside torchrun
# The run's own configuration decides these, so that a launch file changes nothing about the experiment.
OURS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "fp16",
    "bf16",
    "torch_autocast",
)


def _beside(flat: Tensor, value: Any) -> Any:
    """A copy of what an optimiser keeps of a parameter; a fused one has its count of steps on the device."""
    return value.detach().to(flat.device, copy=True) if torch.is_tensor(value) else copy.deepcopy(value)


class _Plugin(DeepSpeedPlugin):
    def set_deepspeed_weakref(self) -> None:
        """Nothing: accelerate would tell transformers about ZeRO-3 here, and needs that package for it."""
        self.dschf = None


def plugin(dtype: torch.dtype | None) -> DeepSpeedPlugin:
    """What accelerate needs to know: the launch file's settings with the run's own. `dtype`: of autocast."""
    path = os.environ.pop(CONFIG_FILE, "none")
    if path in ("none", ""):
        raise UserError(
            "a DeepSpeed launch needs deepspeed_config_file in its launch file (see "
            f"unimatch where launch/zero2), or {CONFIG_FILE} in the environment"
        )
    settings = _read(shipped.found(path, "launch"))
    # Integers, since no loader is prepared. Which micro-batch is the last of a step, `backward` tells.
    settings |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
    if dtype is not None:
        settings["torch_autocast"] = {"enabled": True, "dtype": str(dtype).removeprefix("torch.")}
    # torch's optimiser also on offloaded state: DeepSpeed's own is another implementation, to be compiled.
    settings["zero_force_ds_cpu_optimizer"] = False
    settings["zero_allow_untested_optimizer"] = True
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    zero_private.without_shared_memory_messages()
    return _Plugin(hf_ds_config=settings, zero3_init_flag=False)


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text())
        stage = settings["zero_optimization"]["stage"]
    except OSError as error:
        raise UserError(f"DeepSpeed settings {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected JSON with zero_optimization.stage ({error})") from error
    if stage not in (1, 2, 3):
        raise UserError(f"{path}: zero_optimization.stage must be 1, 2 or 3, found {stage!r}")
    own = sorted(set(settings) & set(OURS))
    if own:
        raise UserError(
            f"{path}: {', '.join(own)}: the run's configuration decides this (batch, optimizer, precision); "
            "remove it from the launch settings"
        )
    return settings


class Sharded:
    """The same methods as `engine.replicas.Replicas`, over a DeepSpeed engine."""

    def __init__(
        self,
        accelerator: Accelerator,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None,
    ) -> None:
        self._groups = [list(group["params"]) for group in optimizer.param_groups]
        self._optimizer = optimizer
        self._clip_norm = clip_norm
        settings = accelerator.deepspeed_plugin.deepspeed_config
        settings["gradient_clipping"] = clip_norm or 0.0  # DeepSpeed's default is 1.0
        self.stage: int = settings["zero_optimization"]["stage"]
        self._net: nn.Module = module.net  # type: ignore[assignment] # of the trainer's StepModule
        # DeepSpeed sends and flattens parameters by their memory, so their axes must lie in it in order.
        module.to(memory_format=torch.contiguous_format)
        # Stage 3 takes the parameters apart, in every forward pass anew. Evaluation, where processes have
        # different numbers of images, and pictures, which one process draws, run on a whole copy.
        self._copy = copy.deepcopy(self._net).cpu() if self.stage == 3 else None
        self._engine, _ = accelerator.prepare(module, optimizer)
        self._last = True
        if not isinstance(self._engine, deepspeed.DeepSpeedEngine):
            raise UserError(
                f"asked for ZeRO, but accelerate wrapped the network as {type(self._engine).__name__}"
            )

    def __call__(self, *inputs: Any) -> Any:
        return self._engine(*inputs)

    @contextlib.contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Around forward and backward; each micro-batch's gradients are reduced into parts."""
        self._last = last
        yield

    def backward(self, loss: Tensor) -> None:
        self._engine.set_gradient_accumulation_boundary(self._last)
        self._engine.backward(loss)

    def update(self) -> Tensor | None:
        """One optimiser step; the gradients' norm before clipping, if they are clipped."""
        # Of DeepSpeed 0.18 the messages write over gloo into views, which autograd would refuse.
        with torch.no_grad():
            self._engine.step()
        if self._clip_norm is None:
            return None
        norm = self._engine.get_global_grad_norm()
        return torch.as_tensor(norm, dtype=torch.float32, device=self._engine.device)

    def _flat(self) -> list[Tensor]:
        """This process's parts of the parameters as the optimiser sees them."""
        return zero_private.flat_parts(self._engine.optimizer, self.stage)

    def _link(self) -> None:
        """Lets stages 1 and 2 find a parameter's part of the optimiser's state."""
        if self.stage < 3:
            zero_private.link(self._engine.optimizer, self._optimizer.state)

    def optimizer_part(self) -> tuple[dict[str, Any], Part]:
        state: dict[int, dict[str, Any]] = {}
        pieces: Pieces = {}
        known = [self._optimizer.state[flat] for flat in self._flat() if self._optimizer.state.get(flat)]
        if known:
            parted = [name for name, value in known[0].items() if torch.is_tensor(value) and value.dim() > 0]
            scalars = {name: value for name, value in known[0].items() if name not in parted}
            self._link()
            for number, param in enumerate(p for group in self._groups for p in group):
                state[number] = scalars
                for name in parted:
                    if (piece := self._piece(param, name)) is not None:
                        pieces[f"{number}.{name}"] = piece
        groups, start = [], 0
        for group, members in zip(self._optimizer.param_groups, self._groups, strict=True):
            numbers = list(range(start, start + len(members)))
            groups.append({**{k: v for k, v in group.items() if k != "params"}, "params": numbers})
            start += len(members)
        whole_but_pieces = {"optimizer": {"state": state, "param_groups": groups}, "scaler": {}}
        return whole_but_pieces, Part(pieces, shared=False)

    def _piece(self, param: nn.Parameter, name: str) -> Piece | None:
        """What this process has of a parameter's optimiser state."""
        if self.stage < 3:
            return zero_private.fragment(param, name)
        values = deepspeed.utils.safe_get_local_optimizer_state(param, name)
        return zero_private.own_values(
            param, values.to(self._flat()[0].device)
        )  # offloaded state comes on the device

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        saved = continued(state["optimizer"], self._optimizer)
        load_groups(self._optimizer, saved)
        if not saved["state"]:
            return
        first = saved["state"][0]
        parted = [name for name, value in first.items() if torch.is_tensor(value) and value.dim() > 0]
        for flat in self._flat():
            mine = self._optimizer.state[flat]
            mine.update({name: torch.zeros_like(flat) for name in parted})
            mine.update({k: _beside(flat, v) for k, v in first.items() if k not in parted})
        self._link()
        for number, param in enumerate(p for group in self._groups for p in group):
            for name in parted:
                self._set(param, saved["state"][number][name].to(self._engine.device), name)

    def _set(self, param: nn.Parameter, value: Tensor, name: str) -> None:
        if self.stage < 3:
            safe_set_full_optimizer_state(param, value, name)
            return
        own = zero_private.own_part(param, value)
        deepspeed.utils.safe_set_local_optimizer_state(param, own, name)

    def network_part(self, net: nn.Module) -> Part:
        state: dict[str, Any] = settled(net)
        parted = {name: value for name, value in state.items() if zero_private.is_parted(value)}
        if not parted:
            return Part(whole(state), shared=True)
        own = {name: zero_private.own_values(value) for name, value in parted.items()}
        pieces = {name: piece for name, piece in own.items() if piece is not None}
        if torch.distributed.get_rank() == 0:  # buffers: all have them
            pieces |= whole({name: value for name, value in state.items() if name not in parted})
        return Part(pieces, shared=False)

    def _gather(self, net: nn.Module) -> dict[str, Tensor]:
        """The state of `net` on the CPU, one parameter gathered at a time."""
        state = {}
        for name, value in net.state_dict(keep_vars=True).items():
            with deepspeed.zero.GatheredParameters([value] if isinstance(value, nn.Parameter) else []):
                state[name] = value.detach().cpu().clone()
        return state

    @contextlib.contextmanager
    def whole(self, net: nn.Module) -> Iterator[nn.Module]:
        if self._copy is None or net is not self._net:
            yield net
            return
        self._copy.load_state_dict(self._gather(net))
        try:
            yield self._copy.to(self._engine.device)
        finally:
            self._copy.cpu()

    @contextlib.contextmanager
    def readable(self, net: nn.Module, parts: bool) -> Iterator[None]:
        # Also with `parts`: what follows the network is whole on every process.
        gathered = list(net.parameters()) if self.stage == 3 else []
        with deepspeed.zero.GatheredParameters(gathered):
            yield
