"""FSDP2: parameters, gradients and optimiser state in parts over all processes, by public functions."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from unimatch.engine.modes import Fsdp
from unimatch.engine.optim import continued, load_groups
from unimatch.engine.parts import Part, Piece, Pieces, settled, whole, without_tensors
from unimatch.engine.replicas import Buffers
from unimatch.errors import UserError
from unimatch.models.base import Encoder

if TYPE_CHECKING:
    from unimatch.engine.trainer import StepModule

WHOLE = StateDictOptions(full_state_dict=True)


def mesh_of(asked: Fsdp, device: torch.device, timeout: timedelta) -> DeviceMesh:
    """The processes in one row of parts, or as [replicas, parts] with the processes of a node side by side.

    Call on all processes, once their group exists; a single process may have none. UserError: see check_mean.
    """
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    world = dist.get_world_size()
    if asked.replicas == 1:
        mesh = init_device_mesh(device.type, (world,), mesh_dim_names=("part",))
        check_mean(mesh)
        return mesh
    ranks = torch.arange(world).view(asked.replicas, -1)
    # Not init_device_mesh, whose groups wait for ten or thirty minutes, whatever this run's limit is.
    groups: list[Any] = [
        dist.new_subgroups_by_enumeration(each.tolist(), timeout=timeout)[0] for each in (ranks.T, ranks)
    ]
    mesh = DeviceMesh.from_group(groups, device.type, mesh=ranks, mesh_dim_names=("replica", "part"))
    check_mean(mesh)
    return mesh


def check_mean(mesh: DeviceMesh) -> None:
    """UserError on all processes if gradients are summed over them and not averaged, or not at all: on CPUs
    some releases of torch do so, without a word, and older ones ask for streams that only GPUs have.
    """
    probe = nn.Linear(1, mesh.size(), bias=False, device=mesh.device_type)
    fully_shard(probe, mesh=mesh)
    found = None
    try:
        probe(torch.ones(1, 1, device=mesh.device_type)).sum().backward()
        found = probe.weight.grad.full_tensor().flatten().tolist()  # type: ignore[union-attr]
    except (RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
    if found is None or any(value != 1.0 for value in found):
        raise UserError(
            f"FSDP: torch {torch.__version__} does not average gradients over {mesh.device_type} processes "
            f"({reason if found is None else f'{found[0]:g} in place of 1'}); take DDP, ZeRO or torch 2.9.1"
        )


def _policy(block: nn.Module, dtype: torch.dtype | None) -> MixedPrecisionPolicy:
    """Gradients are reduced in fp32. Gathered is in `dtype`, that of autocast, which then finds the matrices
    as it would make them; but not for batch norms, whose statistics are fp32, nor on CPUs, where autocast
    leaves layer norms alone, which take no weights of another type than their input.
    """
    norms = any(isinstance(module, _BatchNorm) for module in block.modules())
    if norms or next(block.parameters()).device.type == "cpu":
        dtype = None
    return MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)


def _pieces(state: dict[str, Tensor]) -> Pieces:
    """What this process writes of a state: its parts, unless it has them of another replica; buffers, which
    all have, rank 0's.
    """
    found: Pieces = {}
    for name, value in state.items():
        if not isinstance(value, DTensor):
            found |= whole({name: value}) if dist.get_rank() == 0 else {}
            continue
        mesh, own = value.device_mesh, value.to_local().detach()
        if own.numel() and (mesh.ndim == 1 or mesh.get_local_rank(0) == 0):
            rows = -(-value.shape[0] // mesh.size(mesh.ndim - 1))  # of each but the last ones
            start = rows * mesh.get_local_rank(mesh.ndim - 1) * value.shape[1:].numel()
            found[name] = Piece(own, start, tuple(value.shape))
    return found


class FullySharded:
    """The same methods as `engine.replicas.Replicas`, over `fully_shard`.

    The blocks of every encoder, teachers' too, are gathered one by one for their forward and backward passes.
    All else (heads, methods' parts, patches) is one group, whole from the first pass of a step to its end, so
    that a method may call it in whatever way.
    """

    def __init__(
        self,
        module: StepModule,
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None,
        mesh: DeviceMesh,
        asked: Fsdp,
        dtype: torch.dtype | None,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]],
        same_buffers: bool,
    ) -> None:
        """dtype: of autocast. same_buffers: all processes go on with rank 0's after each step."""
        self._module, self._optimizer, self._clip_norm, self._autocast = (
            module,
            optimizer,
            clip_norm,
            autocast,
        )
        self._buffers = Buffers.of(module) if same_buffers and mesh.size() > 1 else None
        self._last = True
        # Evaluation, where processes have different numbers of images, and pictures, which one process
        # draws, run on a whole copy; between them it has no parameters.
        self._copy = copy.deepcopy(module.net)
        self._let_go()
        module.beside = nn.ModuleList(module.followers())
        module.to(memory_format=torch.contiguous_format)  # what lies in memory otherwise cannot be parted
        names = {parameter: name for name, parameter in module.named_parameters()}
        for encoder in [each for each in module.modules() if isinstance(each, Encoder)]:
            for block in encoder.recomputed_parts():
                policy = _policy(block, dtype)
                fully_shard(block, mesh=mesh, reshard_after_forward=asked.reshard, mp_policy=policy)
        self._root = fully_shard(module, mesh=mesh, mp_policy=_policy(module, None))
        self._first = module.register_forward_pre_hook(self._gather_once)
        parts = dict(module.named_parameters())
        for group in optimizer.param_groups:
            group["params"] = [parts[names[parameter]] for parameter in group["params"]]
        if isinstance(optimizer, torch.optim.SGD):  # a fused one does not know parts
            for values in (optimizer.defaults, *optimizer.param_groups):
                values.update(fused=False, foreach=True)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._holders: list[tuple[nn.Module, str, DTensor]] = []
        self._own: list[nn.Parameter] = []

    def _gather_once(self, module: nn.Module, _: Any) -> None:
        """Before the first step: what is gathered first in torch's inference mode (as a teacher's parameters
        may be) lies in tensors that no other mode may write to again.
        """
        self._first.remove()
        for block in module.modules():
            if isinstance(block, FSDPModule) and block is not module:
                block.unshard()
                block.reshard()

    def _let_go(self) -> None:
        for parameter in self._copy.parameters():
            parameter.data = torch.empty(0, device=parameter.device)

    def __call__(self, *inputs: Any) -> Any:
        with self._autocast():
            return self._module(*inputs)

    @contextlib.contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Around forward and backward: each micro-batch's gradients are reduced into parts; those of
        replicas are added up in the last one only.
        """
        self._last = last
        self._root.set_requires_all_reduce(last)
        yield

    def backward(self, loss: Tensor) -> None:
        if self._buffers is not None and self._last:
            self._buffers.send()
        loss.backward()

    def update(self) -> Tensor | None:
        norm = None
        for parameter in self._parameters:
            if parameter.grad is None:  # not reached: DDP's gradient is 0, and weights decay all the same
                parameter.grad = torch.zeros_like(parameter)
        if self._clip_norm is not None:
            norm = get_total_norm([p.grad for p in self._parameters if p.grad is not None])
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
            clip_grads_with_norm_(self._parameters, self._clip_norm, norm)
        self._optimizer.step()
        for parameter in self._parameters:
            parameter.grad = None
        if self._buffers is not None:
            self._buffers.receive()
        return norm

    def optimizer_part(self) -> tuple[dict[str, Any], Part]:
        small, large = without_tensors(self._optimizer.state_dict())
        return {"optimizer": small, "scaler": {}}, Part(_pieces(large), shared=False)

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        saved = continued(state["optimizer"], self._optimizer)
        if saved["state"]:
            known = {parameter: name for name, parameter in self._module.named_parameters()}
            names = [known[parameter] for parameter in self._parameters]
            groups = [
                {**group, "params": [names[number] for number in group["params"]]}
                for group in saved["param_groups"]
            ]
            states = {names[number]: values for number, values in saved["state"].items()}
            named = {"state": states, "param_groups": groups}
            set_optimizer_state_dict(self._module, self._optimizer, named, options=WHOLE)
        load_groups(self._optimizer, saved)  # as they were: a pair comes out of the above as a list

    def network_part(self, net: nn.Module) -> Part:
        return Part(_pieces(settled(net)), shared=False)

    @contextlib.contextmanager
    def whole(self, net: nn.Module) -> Iterator[nn.Module]:
        with torch.no_grad():
            for own, part in zip(self._copy.parameters(), net.parameters(), strict=True):
                assert isinstance(part, DTensor)
                own.data = part.full_tensor()
            for mine, value in zip(self._copy.buffers(), net.buffers(), strict=True):
                mine.copy_(value)
        try:
            yield self._copy
        finally:
            self._let_go()

    @contextlib.contextmanager
    def readable(self, net: nn.Module, parts: bool) -> Iterator[None]:
        if not self._holders:  # not before the first step, in which a part finds its place in memory
            self._holders = [
                (module, name, parameter)
                for module in net.modules()
                for name, parameter in module.named_parameters(recurse=False)
                if isinstance(parameter, DTensor)
            ]
            self._own = [nn.Parameter(part.to_local(), part.requires_grad) for *_, part in self._holders]
        shown = self._own
        if not parts:
            shown = [nn.Parameter(part.full_tensor(), part.requires_grad) for *_, part in self._holders]
        for (module, name, _), value in zip(self._holders, shown, strict=True):
            module._parameters[name] = value
        try:
            yield
        finally:
            for module, name, part in self._holders:
                module._parameters[name] = part
