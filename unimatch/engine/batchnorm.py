"""Batch normalisation over the samples of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from unimatch.engine import waits


class _Normalize(torch.autograd.Function):
    """y = (x - mean) / std * weight + bias with mean and variance over the batches of all processes.

    x and y may be bf16; everything else, and what backward computes with, is fp32.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, count: float, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(var + eps))
        ctx.count = count
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, inv_std = ctx.saved_tensors
        grad = grads[0].to(mean.dtype)
        channels = (1, -1, 1, 1)
        normal = (x - mean.view(channels)) * inv_std.view(channels)
        grad_bias = grad.sum((0, 2, 3))
        grad_weight = (grad * normal).sum((0, 2, 3))
        # Each process's loss pulls on every process's x through the shared mean and variance.
        sums = torch.stack([grad_bias, grad_weight])
        dist.all_reduce(sums)
        mean_grad, mean_product = (sums / ctx.count).view(2, 1, -1, 1, 1)
        grad_x = (grad - mean_grad - normal * mean_product) * (weight * inv_std).view(channels)
        return grad_x.to(x.dtype), grad_weight, grad_bias, None, None, None, None


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of the global batch; runs on CPUs over gloo.

    torch's SyncBatchNorm raises on CPUs. Per-process means and variances are combined (not E[x^2] - E[x]^2,
    which cancels), so the result is that of one process to rounding. Every process must bring the same
    number of values per channel.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        assert (
            self.running_mean is not None
            and self.running_var is not None
            and self.num_batches_tracked is not None
        )
        assert self.momentum is not None and self.weight is not None and self.bias is not None
        var, mean = torch.var_mean(input.detach().to(self.running_mean.dtype), (0, 2, 3), correction=0)
        world = dist.get_world_size()
        gathered = [torch.empty(2, len(mean), dtype=mean.dtype) for _ in range(world)]
        with waits.waiting():
            dist.all_gather(gathered, torch.stack([mean, var]))
        means, variances = torch.stack(gathered).unbind(1)
        mean = means.mean(0)
        var = variances.mean(0) + (means - mean).square().mean(0)
        count = input.numel() / len(mean) * world
        if count <= 1:
            raise ValueError(
                f"batch normalisation needs more than one value per channel, got input {tuple(input.shape)}"
            )
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        return _Normalize.apply(input, self.weight, self.bias, mean, var, count, self.eps)


class _GlobalBatchNormAct2d(GlobalBatchNorm2d):
    """A GlobalBatchNorm2d followed by the dropout and activation that timm fuses into its norm layers."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))


def cost_on_cpus(net: nn.Module) -> list[str]:
    """A sentence about what its global norms cost, if it has any that run on CPUs."""
    count = sum(isinstance(module, GlobalBatchNorm2d) for module in net.modules())
    if not count:
        return []
    return [
        f"sync_batchnorm: global lets each of {count} norms wait for all processes, forward and backward, "
        "which has halved the speed on CPUs (docs/benchmarks.md); with sync_batchnorm: off each process "
        "normalises by its own samples and waits for none"
    ]


def synchronize_batchnorm(module: nn.Module, device: torch.device) -> nn.Module:
    """`module` with every batch norm made global; parameters and their names stay."""
    if device.type != "cpu":
        return convert_sync_batchnorm(module)
    for name, child in module.named_children():
        setattr(module, name, synchronize_batchnorm(child, device))
    if not isinstance(module, nn.BatchNorm2d):
        return module
    fused = hasattr(module, "act")
    new = (_GlobalBatchNormAct2d if fused else GlobalBatchNorm2d)(
        module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
    )
    # The very same tensors: their device and type stay, and an optimiser that holds them still trains them.
    for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        setattr(new, name, tensor)
    if isinstance(new, _GlobalBatchNormAct2d):
        new.drop, new.act = module.drop, module.act  # type: ignore[assignment]
    new.train(module.training)
    return new
