"""Which parallel mode the launch asks for: what `accelerate launch` tells each process by its environment.

torchrun tells nothing of a mode: there the same variables are set by hand, or by launch/torchrun.sh.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from unimatch.errors import UserError

ZERO, FSDP = "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"
HYBRID, SIZES = "ACCELERATE_USE_PARALLELISM_CONFIG", "PARALLELISM_CONFIG_"
YES = ("true", "1")
# What a launch file may say of FSDP and the run does not do so: by variable, the values that ask for nothing.
NOT_DONE = {
    "FSDP_OFFLOAD_PARAMS": (("false", "0"), "take launch/zero3_offload for parts in the hosts' memory"),
    "FSDP_ACTIVATION_CHECKPOINTING": (("false", "0"), "the run's own activation_checkpointing decides"),
}
Precision = Literal["fp32", "bf16", "fp16"]
# NCCL's last messages, written by each process when one times out. The second is the first's older name.
FLIGHT_RECORDER = {
    "TORCH_FR_BUFFER_SIZE": "2000",
    "TORCH_NCCL_TRACE_BUFFER_SIZE": "2000",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
}


@dataclass(frozen=True)
class Fsdp:
    """replicas: groups of processes that each hold all parts among them; 1: all processes are one group.
    reshard: a block's parameters are let go between forward and backward, and gathered twice.
    """

    replicas: int = 1
    reshard: bool = True


@dataclass(frozen=True)
class Mode:
    """zero: DeepSpeed lays the network over the processes, and its own settings say in which stage. fsdp:
    fully_shard does. Neither: each process has a whole one.
    """

    zero: bool = False
    fsdp: Fsdp | None = None


def asked(world: int) -> Mode:
    """The mode of this process's launch of `world` processes; UserError for what cannot be had."""
    if _is_set(ZERO):
        return Mode(zero=True)
    if _is_set(FSDP):
        return Mode(fsdp=_fsdp(world))
    if _is_set(HYBRID):
        raise UserError(f"parallelism_config ({HYBRID}) is for FSDP launches: see unimatch where launch")
    return Mode()


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() in YES


def _fsdp(world: int) -> Fsdp:
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise UserError(
            f"FSDP of version {version} is not supported: set fsdp_version: 2 in the launch file "
            "(FSDP_VERSION)"
        )
    for name, (harmless, instead) in NOT_DONE.items():
        if os.environ.get(name, harmless[0]).lower() not in harmless:
            raise UserError(f"{name.lower()}: not supported in a launch file; {instead}")
    reshard = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower()
    if reshard not in ("true", "false"):
        raise UserError(f"fsdp_reshard_after_forward must be true or false, found {reshard}")
    return Fsdp(_replicas(world) if _is_set(HYBRID) else 1, reshard == "true")


def _replicas(world: int) -> int:
    """Groups of processes, each with all parts; UserError if the launched ones do not divide so."""
    for kind in ("TP", "CP", "SP"):
        if os.environ.get(f"{SIZES}{kind}_SIZE", "1") != "1":
            raise UserError(f"parallelism_config_{kind.lower()}_size: only data parallelism is supported")
    sizes = [os.environ.get(f"{SIZES}DP_{kind}_SIZE", "") for kind in ("REPLICATE", "SHARD")]
    try:
        replicas, parts = (int(size or 1) for size in sizes)
    except ValueError:
        raise UserError(f"parallelism_config sizes must be whole numbers, found {sizes}") from None
    if replicas < 1 or replicas * parts != world:
        raise UserError(
            f"the launch file asks for {replicas} replicas of {parts} parts (parallelism_config_"
            f"dp_replicate_size, dp_shard_size): their product must be the number of processes, {world}"
        )
    return replicas


def described(zero_stage: int, fsdp: Fsdp | None, world: int) -> str:
    """How a network lies over the processes, for people: empty for a single one; zero_stage: 0 for none."""
    if zero_stage:
        return f"ZeRO-{zero_stage}"
    if fsdp:
        return "FSDP" + (f" in {fsdp.replicas} replicas" if fsdp.replicas > 1 else "")
    return "DDP" if world > 1 else ""


def make_ready(mode: Mode, precision: Precision, has_gpu: bool) -> None:
    """Makes accelerate start what the launch file asked for; UserError for what cannot be had."""
    if has_gpu:
        for name, value in FLIGHT_RECORDER.items():
            os.environ.setdefault(name, value)
    else:
        if mode.zero:
            os.environ.pop("ACCELERATE_USE_CPU", None)  # with it, accelerate makes plain DDP of ZeRO
        else:
            os.environ["ACCELERATE_USE_CPU"] = "true"  # without it, accelerate starts no process group
        if precision == "fp16":
            raise UserError("precision: fp16 needs a GPU; use fp32 (or bf16, which is slow on most CPUs)")
    if precision == "fp16" and (mode.zero or mode.fsdp):
        raise UserError("precision: fp16 is for DDP launches; use bf16 with DeepSpeed and FSDP")


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """Inside, accelerate sees nothing of FSDP: it would ignore it on CPUs, and lay its own over GPUs."""
    hidden = {name: os.environ.pop(name) for name in (FSDP, HYBRID) if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
