"""Recomputed activations change memory and time, and nothing else."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.conftest import ROOT
from tests.support.processes import succeed
from unimatch.errors import UserError
from unimatch.models.encoders import EncoderConfig, build_encoder
from unimatch.models.recompute import recompute_activations


@pytest.fixture(scope="module", params=["test_efficientnet", "resnet18", "test_convnext", "test_resnet"])
def encoder(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return build_encoder(EncoderConfig(request.param, "none", output_stride=16))


def step(encoder: nn.Module) -> tuple[torch.Tensor, int]:
    """A forward and backward pass; the loss and the bytes that were kept for backward."""
    torch.manual_seed(1)
    image = torch.randn(2, 3, 64, 64)
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = sum(feature.square().mean() for feature in encoder(image))
    held = sum(kept.values())
    loss.backward()
    return loss.detach(), held


def test_gradients_and_statistics_are_the_same_and_less_is_kept(encoder: nn.Module):
    plain, lean = copy.deepcopy(encoder), copy.deepcopy(encoder)
    assert len(lean.recomputed_parts()) >= 4
    recompute_activations(lean.recomputed_parts())
    for _ in range(2):
        (loss, held), (lean_loss, lean_held) = step(plain), step(lean)
        assert torch.equal(loss, lean_loss)
        assert lean_held < 0.8 * held
    for (name, mine), (other, theirs) in zip(lean.named_parameters(), plain.named_parameters(), strict=True):
        assert name == other
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-7)
    states = lean.state_dict(), plain.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, value in states[1].items():
        assert torch.equal(states[0][name], value), name


def test_evaluation_is_not_touched(encoder: nn.Module):
    lean = copy.deepcopy(encoder).eval()
    recompute_activations(lean.recomputed_parts())
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for mine, theirs in zip(lean(image), encoder.eval()(image), strict=True):
            assert torch.equal(mine, theirs)


def test_a_copy_computes_with_its_own_weights(encoder: nn.Module):
    lean = copy.deepcopy(encoder)
    recompute_activations(lean.recomputed_parts())
    twin = copy.deepcopy(lean)
    for parameter in twin.parameters():
        parameter.data.zero_()
    image = torch.randn(2, 3, 64, 64)
    assert all(feature.abs().max() == 0 for feature in twin.train()(image))
    assert any(feature.abs().max() > 0 for feature in lean.train()(image))


def test_a_compiler_takes_the_same_blocks():
    """By the half of inductor that generates no code, in a process that has imported it."""
    succeed(1, str(Path(__file__).with_name("compiled_process.py")), PYTHONPATH=str(ROOT))


def test_a_network_without_blocks_is_refused():
    with pytest.raises(UserError, match="activation_checkpointing: this encoder has no blocks"):
        recompute_activations([])
