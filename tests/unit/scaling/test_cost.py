"""Memory and traffic against hand numbers and literal exchanges; activations against a step that is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.support import tiny_encoder
from unimatch import config as config_io
from unimatch import plan
from unimatch.engine.build import build_method, build_task
from unimatch.engine.run_config import BatchConfig, RunConfig
from unimatch.engine.trainer import StepModule
from unimatch.errors import UserError
from unimatch.methods import METHODS
from unimatch.methods.base import Progress
from unimatch.models.heads.linear import LinearHeadConfig
from unimatch.models.segmentor import build_segmentor
from unimatch.scaling import cost
from unimatch.scaling.cost import Activations, Network, Passes
from unimatch.scaling.footprint import LiveBytes, blank_micro, network_of, shape_only, step_bytes
from unimatch.scaling.forecast import micro_batch, mode_of
from unimatch.taxonomy import Taxonomy

ONCE = Passes(1, 1)
# 1000 elements, SGD with momentum or AdamW, no buffers: 4000 bytes of parameters.
SGD = Network(parameters=1000, persistent=0, largest=400, buffer_bytes=0, moments=1)


@pytest.fixture
def tiny_config(tiny_config: RunConfig) -> RunConfig:
    """With few layers: operations without values take as long as with them, whatever their size."""
    tiny_config.model.encoder.name = tiny_encoder.NAME
    tiny_config.model.head = config_io.Section("linear", LinearHeadConfig())
    return tiny_config


@pytest.mark.parametrize(
    ("text", "size"),
    [("80GB", 80e9), ("40GiB", 40 * 2**30), ("512 MiB", 512 * 2**20), ("1.5TB", 1.5e12), ("12B", 12)],
)
def test_amounts_of_memory(text: str, size: float):
    assert cost.parse_bytes(text) == size


@pytest.mark.parametrize(("text", "rate"), [("200Gbit", 25e9), ("25GB", 25e9), ("100Mbit/s", 12.5e6)])
def test_data_rates(text: str, rate: float):
    assert cost.parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "80", "GB", "-3GB", "0GB", "1.2.3GB", "80gb", "3iB", "80 Gbit"])
def test_other_amounts_are_errors_with_an_example(text: str):
    with pytest.raises(UserError, match="write for instance 80GB"):
        cost.parse_bytes(text)


@pytest.mark.parametrize(
    ("stage", "parameters", "gradients", "optimizer", "exchange"),
    [
        (0, 4000, 4000, 4000, 0),
        # From stage 1 on: momentum and the fp32 copy of a quarter of the parameters.
        (1, 4000, 4000, 2000, 40),
        (2, 4000, 1000, 2000, 80),
        # A quarter, and the whole network gathered, since it is smaller than what DeepSpeed keeps.
        (3, 5000, 1000, 2000, 40),
    ],
)
def test_memory_of_four_devices_by_hand(stage, parameters, gradients, optimizer, exchange):
    found = cost.memory(SGD, stage, devices=4, bucket=10)
    assert found == cost.Memory(parameters, gradients, optimizer, exchange)
    assert found.state == parameters + gradients + optimizer + exchange


def test_memory_under_fsdp_by_hand():
    """Of 1000 elements 200 lie outside of blocks, and the largest block has 100; 4 bytes each."""
    network = replace(SGD, rest=200, block=100, buffer_bytes=16)
    found = cost.memory(network, cost.FSDP, devices=4)
    assert found.parameters == 1000 + 16 + 4 * (200 + 2 * 100)
    assert (found.gradients, found.optimizer) == (1000 + 4 * (200 + 100), 1000)
    assert found.exchange == 4 * 2 * 200
    teacher = cost.memory(replace(network, copies=1), cost.FSDP, devices=4)
    assert teacher.parameters - found.parameters == 1000 + 16 + 4 * 200, "in parts, unlike in the other modes"


def test_fsdp_sends_each_passs_gradients_by_themselves():
    passes = Passes(forward=3, trained=2)
    found = cost.traffic(SGD, cost.FSDP, 4, 5, passes)
    assert found == cost.Traffic(0.75 * 4000 * 5 * 2, 0.75 * 4000 * 5 * (3 + 2))
    assert found.parameters == cost.traffic(SGD, 3, 4, 5, passes).parameters


def test_adamw_a_teacher_and_buffers_take_their_memory():
    network = replace(SGD, moments=2, copies=1, buffer_bytes=16)
    found = cost.memory(network, 0, devices=4)
    assert found.optimizer == 8000 and found.parameters == 4000 + 16 + (4000 + 16)


def test_a_huge_network_is_not_gathered_whole_by_stage_3():
    network = Network(parameters=10**10, persistent=0, largest=10**8, buffer_bytes=0, moments=2)
    found = cost.memory(network, 3, devices=100)
    assert found.parameters == 4 * (10**8 + cost.REUSE)
    assert found.state < cost.memory(network, 0, devices=100).state / 10


def ring_bytes(elements: int, devices: int, hops: str) -> int:
    """Elements that device 0 sends when pieces really go around: "reduce" and "gather" are N-1 hops each."""
    pieces = [elements // devices] * devices
    sent, piece = 0, 0
    for _ in hops.split():
        for _ in range(devices - 1):
            sent += pieces[piece]
            piece = (piece - 1) % devices
    return sent


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_traffic_is_what_rings_send(devices: int):
    size = Network(parameters=800, persistent=0, largest=400, buffer_bytes=0, moments=1)
    all_reduce = 4 * ring_bytes(800, devices, "reduce gather")
    one_way = 4 * ring_bytes(800, devices, "gather")
    found = [cost.traffic(size, stage, devices, 1, ONCE) for stage in cost.STAGES]
    assert [one.total for one in found] == [all_reduce, 2 * one_way, 2 * one_way, 3 * one_way]
    # Accumulation: once a step, once, scattered in each micro-batch, and gathered as well.
    found = [cost.traffic(size, stage, devices, 4, ONCE) for stage in cost.STAGES]
    assert [one.total for one in found] == [all_reduce, 2 * one_way, 5 * one_way, 12 * one_way]


@pytest.mark.parametrize("devices", [1, 4])
def test_what_is_frozen_has_no_gradient_to_send_and_no_state(devices: int):
    """Of 1000 elements 600 are trained, with AdamW: 2400 bytes."""
    frozen = replace(SGD, moments=2, frozen=400)
    expected = {
        0: (4000, 2400, 4800),
        1: (4000, 2400, 7200 / devices),
        2: (4000, 2400 / devices, 7200 / devices),
    }
    for stage, parts in expected.items():
        found = cost.memory(frozen, stage, devices, bucket=10)
        assert (found.parameters, found.gradients, found.optimizer) == parts
    found = cost.memory(frozen, 3, devices, bucket=10)
    assert (found.parameters, found.gradients) == (4000 / devices + 4000, 2400 / devices)
    others = (devices - 1) / devices
    sent = [cost.traffic(frozen, stage, devices, 1, ONCE) for stage in cost.STAGES]
    assert [one.gradients for one in sent] == [others * 4800, *[others * 2400] * 3]
    assert [one.parameters for one in sent] == [0, others * 2400, others * 2400, others * 8000]


def test_only_what_crosses_a_border_leaves_a_node():
    assert cost.leaving_a_node(100.0, devices=8, devices_per_node=8) == 0
    assert cost.leaving_a_node(100.0, devices=16, devices_per_node=8) == 100


def test_the_line_through_two_measurements():
    line = Activations.through(((2, 30.0), (4, 50.0)))
    assert line == Activations(10.0, 10.0)
    assert [line.most(room) for room in (5.0, 20.0, 39.9, 40.0)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("most", "partner", "found"),
    [(16, None, (16, 1)), (15, None, (8, 2)), (8, None, (8, 2)), (3, None, (2, 8)), (1, None, (0, 0))]
    + [(3, "batch", (0, 0)), (4, "batch", (4, 4)), (0, None, (0, 0))],
)
def test_the_micro_batch_that_fits_is_the_one_that_training_would_take(most, partner, found):
    assert micro_batch(BatchConfig(32, 32), True, partner, 4, most) == found


def test_storages_are_counted_once_and_forgotten_when_freed():
    with LiveBytes() as live:
        a = torch.ones(100)  # 400 bytes
        b = a.view(10, 10)
        c = a + 1
        del a
        assert live.now == 800  # b holds the first storage
        del b, c
        assert live.now == 0
    assert live.peak == 800


def test_activations_of_a_chain_by_hand():
    """Three sigmoids of 400 bytes: each keeps its output; backward holds two gradients at its widest."""
    x = torch.ones(100, requires_grad=True)
    x.grad = torch.zeros(100)
    with LiveBytes([x, x.grad]) as live:
        y = x.sigmoid().sigmoid().sigmoid()
        assert live.now == 1200
        y.sum().backward()
    assert live.peak >= 1200 + 2 * 400


def test_a_teachers_passes_are_counted_as_memory_and_not_as_the_networks(tiny_config):
    tiny_config.method = config_io.Section("mean_teacher", METHODS["mean_teacher"].config())
    net = shape_only(tiny_config.model, 8)
    task = build_task(tiny_config, Taxonomy.of([f"class {index}" for index in range(8)]), net)
    method = build_method(tiny_config, task, net)
    raw = blank_micro(task, method, 64, 48, 2, 2)
    (found,), passes = step_bytes(net, method, task, [raw], None)
    assert found > 0 and passes == Passes(forward=2, trained=2, followers=2)


def test_micro_batches_are_counted_one_by_one(tiny_config):
    def parts(counts: list[tuple[int, int]]) -> tuple[list[int], Passes]:
        net = shape_only(tiny_config.model, 8)
        task = build_task(tiny_config, Taxonomy.of([f"class {index}" for index in range(8)]), net)
        method = build_method(tiny_config, task, net)
        batches = [blank_micro(task, method, 64, 48, *count) for count in counts]
        return step_bytes(net, method, task, batches, None)

    (small,), passes = parts([(2, 2)])
    (large,), _ = parts([(4, 4)])
    assert small < large and parts([(2, 2), (4, 4), (2, 2)]) == ([small, large, small], passes)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_step_without_values_takes_the_memory_of_a_step_with_them(tiny_config, dtype):
    """The same counting over real tensors, and torch's own saved tensors as the part that must be there."""
    taxonomy = Taxonomy.of([f"class {index}" for index in range(8)])
    net = shape_only(tiny_config.model, 8)
    task = build_task(tiny_config, taxonomy, net)
    method = build_method(tiny_config, task, net)
    raw = blank_micro(task, method, 64, 48, 2, 2)
    (found,), passes = step_bytes(net, method, task, [raw], dtype)
    assert passes == Passes(forward=3, trained=2)

    real = build_segmentor(tiny_config.model, 8).to(memory_format=torch.channels_last)
    for parameter in real.parameters():
        parameter.grad = torch.zeros_like(parameter)
    known = [*real.parameters(), *real.buffers(), *(p.grad for p in real.parameters())]
    own = {tensor.untyped_storage().data_ptr() for tensor in known}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with LiveBytes(known) as live:
        batch = task.to_device(raw, torch.device("cpu"), torch.ones(8))
        enabled = torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None)
        with enabled, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss, _ = StepModule(real, method)(batch, Progress(0, 1, 0))
        loss.backward()
    assert found == pytest.approx(live.peak, rel=0.02)
    assert sum(saved.values()) <= found <= 2 * sum(saved.values())


def test_the_network_is_counted_without_memory(tiny_config):
    net = shape_only(tiny_config.model, 8)
    real = build_segmentor(tiny_config.model, 8)
    assert all(p.is_meta for p in net.parameters())
    found = network_of(net, moments=1, copies=0)
    assert found.bytes == sum(p.nbytes for p in real.parameters())
    assert found.buffer_bytes == sum(b.nbytes for b in real.buffers())
    assert network_of(nn.Linear(1000, 101), 1, 0).persistent == 101
    assert found.frozen == 0
    blocks = [sum(p.numel() for p in block.parameters()) for block in real.encoder.recomputed_parts()]
    assert found.block == max(blocks) > 0 and found.rest == found.parameters - sum(blocks) > 0
    tiny_config.model.encoder.freeze = True
    frozen = network_of(shape_only(tiny_config.model, 8), moments=1, copies=0)
    assert frozen.trained_bytes == sum(p.nbytes for p in real.head.parameters())


def test_the_report_of_a_run(tiny_config, tiny_shards):
    text = plan.report(tiny_config, 2, per_node=1, device_bytes=80e9, network_rate=1.25e9)
    assert "20 steps, 160 samples (80 labelled), 2.5 epochs of 8 steps" in text
    assert "advice\n  take DDP: " in text and "DDP holds the run as configured" in text
    assert "ZeRO-2 costs 400 MB more memory than DDP" in text  # its buffers against a tiny network
    assert "4, accumulated 1x" in text
    assert "passes over the 6 labelled images, and below about 60 pseudo-labels have mostly cost" in text
    small = plan.report(tiny_config, 2, per_node=8, device_bytes=1e6, network_rate=None)
    assert "does not fit" in small and "no mode holds" in small and "seconds" not in small


@pytest.mark.parametrize(
    ("billions", "gigabytes", "taken"),
    [
        # GB of state with AdamW on 4 devices. A billion parameters: DDP 4 + 4 + 8 = 16, ZeRO-1 4 + 4 + 3 +
        # 0.2 = 11.2, ZeRO-2 4 + 1 + 3 + 0.4 = 8.4, ZeRO-3 1 and 4 gathered + 1 + 3 + 0.2 = 9.2. Four billion:
        # ZeRO-2 16 + 4 + 12 + 0.4 = 32.4, ZeRO-3 4 and 4 gathered + 4 + 12 + 0.2 = 24.2.
        # A sample takes 0.1 GB; the smallest pass has one labelled and one unlabelled.
        (
            1,
            18.05,
            "take DDP: weights, gradients, optimizer state fit (16 GB) and leave room for 20 samples",
        ),
        (1, 16.25, "take DDP: "),
        (1, 16.15, "take ZeRO-1 (launch/accelerate/zero1.yaml): DDP cannot hold"),
        (1, 11.35, "take ZeRO-2 (launch/accelerate/zero2.yaml): DDP and ZeRO-1 cannot hold"),
        (1, 8.55, "no mode holds"),
        (4, 32.65, "take ZeRO-2 "),
        (4, 32.55, "take ZeRO-3 (launch/accelerate/zero3.yaml): DDP and ZeRO-1 and ZeRO-2 cannot hold"),
        (4, 24.35, "no mode holds"),
    ],
)
def test_the_mode_to_take(billions: int, gigabytes: float, taken: str):
    network = Network(
        parameters=billions * 10**9, persistent=0, largest=10**7, buffer_bytes=0, moments=2, copies=0
    )
    activations, batch = Activations(per_sample=1e8, fixed=0), BatchConfig(16, 16)
    modes = [
        mode_of(batch, True, None, network, activations, ONCE, gigabytes * 1e9, 4, stage)
        for stage in cost.STAGES
    ]
    assert plan.recommended(modes).startswith(taken)


def test_fsdp_is_taken_where_zero_keeps_too_much():
    """Four billion parameters in blocks of 10 million: 4 + 4 + 8 GB of parts, 0.2 GB of blocks, messages."""
    network = Network(
        parameters=4 * 10**9, persistent=0, largest=10**7, buffer_bytes=0, moments=2, block=10**7
    )
    activations, batch = Activations(per_sample=1e8, fixed=0), BatchConfig(16, 16)

    def taken(gigabytes: float) -> str:
        modes = [
            mode_of(batch, True, None, network, activations, ONCE, gigabytes * 1e9, 4, stage)
            for stage in cost.IN_ORDER
        ]
        return plan.recommended(modes)

    assert taken(16.45).startswith(
        "take FSDP (launch/accelerate/gpu8_fsdp.yaml): DDP and ZeRO-1 and ZeRO-2 cannot hold"
    )
    assert taken(16.35).startswith("no mode holds") and taken(33).startswith("take ZeRO-2 ")


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--device-memory", "80", "'80' is no amount of memory; write for instance 80GB"),
        ("--network", "fast", "'fast' is no data rate; write for instance 200Gbit"),
        ("--tflops", "0", "'0' is no rate in 10.12 operations a second; write for instance 25"),
        ("--devices", "0", "must be at least 1"),
    ],
)
def test_wrong_amounts_are_told_by_the_command(tiny_run, option, value, told):
    given = {"--config": str(tiny_run), "--devices": "2", "--device-memory": "80GB", option: value}
    with pytest.raises(UserError, match=told):
        plan.main([part for pair in given.items() for part in pair])


def test_a_batch_that_does_not_divide_is_said_as_training_would(tiny_config):
    with pytest.raises(UserError, match="batch.labeled is 4, which 3 processes cannot share evenly"):
        plan.report(tiny_config, 3, 8, 80e9, None)
