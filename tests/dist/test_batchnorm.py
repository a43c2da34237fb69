from pathlib import Path

import pytest
import torch
from torch import nn

from tests.dist import batchnorm_process
from tests.support.processes import succeed
from unimatch.engine.batchnorm import GlobalBatchNorm2d, synchronize_batchnorm


@pytest.mark.parametrize("world", [2, 4])
def test_statistics_and_gradients_are_those_of_the_whole_batch(tmp_path: Path, world: int):
    file = tmp_path / "result.pt"
    succeed(world, "-m", "tests.dist.batchnorm_process", str(file), cwd=Path(__file__).parents[2])
    result = torch.load(file)

    net, x = batchnorm_process.network(), batchnorm_process.batch().requires_grad_()
    loss = batchnorm_process.step(net, x)
    torch.testing.assert_close(result["loss"], loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(result["x"], x.grad, rtol=1e-9, atol=1e-12)
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(result["grads"][name], parameter.grad, rtol=1e-9, atol=1e-10)
    for name, buffer in net.named_buffers():
        torch.testing.assert_close(result["buffers"][name], buffer, rtol=1e-12, atol=1e-12)
    assert result["kept"].tolist() == world * [[1.0] * 3 + [10.0] * 4]  # rank 0's, on every rank


def test_names_weights_and_the_evaluation_forward_stay():
    net = batchnorm_process.network()
    x = batchnorm_process.batch()
    net(x)
    net.eval()
    expected, names, parameters = net(x), list(net.state_dict()), list(net.parameters())
    synchronize_batchnorm(net, torch.device("cpu"))
    assert sum(isinstance(m, GlobalBatchNorm2d) for m in net.modules()) == 2
    assert not any(type(m) is nn.BatchNorm2d for m in net.modules())
    assert list(net.state_dict()) == names
    assert all(new is old for new, old in zip(net.parameters(), parameters, strict=True)), (
        "the optimiser would lose them"
    )
    torch.testing.assert_close(net(x), expected)
