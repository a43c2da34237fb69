"""One process of test_batchnorm: its share of a batch through a synchronised network, and buffers that become
rank 0's; rank 0 saves it all.
"""

import sys

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import nn

from unimatch.engine.batchnorm import synchronize_batchnorm
from unimatch.engine.replicas import Buffers


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3),
        BatchNormAct2d(5, act_layer=nn.SiLU),
    )
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net.double()


def batch() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    # Far from zero: E[x^2] - E[x]^2 would lose its digits here.
    return 1000 + torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)


def step(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Two passes before one backward, as the methods do; a loss in which every value counts differently."""
    loss = (net(x).pow(3).sum() + net(x - 5).pow(2).sum()) / 100
    loss.backward()
    return loss.detach()


if __name__ == "__main__":
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    net = synchronize_batchnorm(network(), torch.device("cpu"))
    x = batch().chunk(world)[rank].requires_grad_()
    loss = step(net, x)
    dist.all_reduce(loss)
    for parameter in net.parameters():
        dist.all_reduce(parameter.grad)
    inputs = [torch.empty_like(x) for _ in range(world)]
    dist.all_gather(inputs, x.grad)
    kept = [torch.full((3,), 1.0 + rank), torch.full((2, 2), 10.0 + rank)]
    buffers = Buffers(kept)
    buffers.send()
    kept[0].zero_()  # what was sent is what counts
    buffers.receive()
    everywhere = [torch.empty(7) for _ in range(world)]
    dist.all_gather(everywhere, torch.cat([one.flatten() for one in kept]))
    if rank == 0:
        grads = {name: p.grad for name, p in net.named_parameters()}
        torch.save(
            {
                "loss": loss,
                "grads": grads,
                "buffers": dict(net.named_buffers()),
                "x": torch.cat(inputs),
                "kept": torch.stack(everywhere),
            },
            sys.argv[1],
        )
    dist.destroy_process_group()
