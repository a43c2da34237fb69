"""What must be the same number on a GPU: keyed noise, metrics, predictions; and what only a GPU has."""

from __future__ import annotations

import pytest
import torch
from gpu_check.cases import cases
from gpu_check.workload import Mode, build

from unimatch.engine.memory import free_bytes
from unimatch.engine.preflight import device_name
from unimatch.methods.ops import channel_dropout, complementary_dropout, keyed_uniform
from unimatch.metrics import ConfusionMatrix

KEYS = torch.tensor([1, -(2**62) - 7, 2**63 - 1, -(2**63)])
CPU = torch.device("cpu")


def test_keyed_noise_is_the_same_to_the_bit(device: torch.device):
    assert torch.equal(keyed_uniform(KEYS.to(device), 300).cpu(), keyed_uniform(KEYS, 300))
    levels = [torch.rand(4, 24, 5, 5), torch.rand(4, 40, 3, 3)]
    there = [level.to(device) for level in levels]
    dropped = zip(
        channel_dropout(there, KEYS.to(device), 0.5), channel_dropout(levels, KEYS, 0.5), strict=True
    )
    both = [torch.cat([level, level]) for level in levels]
    halves = complementary_dropout(KEYS)(both)
    theirs = complementary_dropout(KEYS.to(device))([level.to(device) for level in both])
    for found, expected in [*dropped, *zip(theirs, halves, strict=True)]:
        assert torch.equal(found.cpu(), expected)


def test_a_confusion_matrix_counts_the_same(device: torch.device):
    random = torch.Generator().manual_seed(0)
    predicted, truth = (torch.randint(0, 5, (3, 40, 50), generator=random).to(torch.uint8) for _ in range(2))
    truth[:, :5] = 255
    counts = []
    for place in (device, CPU):
        metric = ConfusionMatrix(5, place)
        metric.update(predicted.to(place), truth.to(place))
        counts.append(metric.counts.cpu())
    assert torch.equal(*counts)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_predictions_are_those_of_the_cpu(precision: str, gpu: torch.device):
    work = build(cases(rehearsal=True)["r101-321"], Mode("a", precision=precision))
    net, task = work.trainer.net, work.trainer.task
    image = torch.randint(0, 256, (2, 48, 64, 3), dtype=torch.uint8)
    with work.trainer.runtime.autocast():
        found = task.predict(net, image.to(gpu)).cpu()
    expected = task.predict(net.cpu(), image)
    assert float((found == expected).double().mean()) > (0.999 if precision == "fp32" else 0.95)


def test_the_preflight_names_the_card_and_its_free_memory_is_known(gpu: torch.device):
    assert device_name(gpu) == torch.cuda.get_device_name(0)
    free = free_bytes(gpu)
    block = torch.empty(1 << 28, dtype=torch.uint8, device=gpu)
    assert free - (1 << 28) * 1.1 <= free_bytes(gpu) <= free
    del block
