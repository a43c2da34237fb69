"""What a step takes of devices nobody has measured: operations against torch's own count of a real step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.utils.flop_counter import FlopCounterMode

from tests.support import tiny_encoder
from tests.support.siblings import SIBLINGS
from unimatch import config as config_io
from unimatch.engine.build import build_method, build_task
from unimatch.engine.run_config import BatchConfig, RunConfig
from unimatch.errors import UserError
from unimatch.methods import METHODS
from unimatch.models.encoders import EncoderConfig, build_encoder
from unimatch.models.heads.linear import LinearHeadConfig
from unimatch.models.segmentor import build_segmentor
from unimatch.scaling.footprint import shape_only, step_flops
from unimatch.scaling.light import EncoderCost, LightNetworks, cost_of
from unimatch.scaling.pace import Pace, pace_of, smallest_mixture
from unimatch.scaling.step_time import Cluster, Link, Work, step_time
from unimatch.tasks.change import ChangeTaskConfig
from unimatch.taxonomy import Taxonomy
from unimatch.views.change import ChangeViewConfig

CLASSES = Taxonomy.of([f"class {index}" for index in range(8)])
QUIET = Cluster(straggler_sigma=0.0)


@pytest.fixture
def tiny_config(tiny_config: RunConfig) -> RunConfig:
    """With few layers: operations without values take as long as with them, whatever their size."""
    tiny_config.model.encoder.name = tiny_encoder.NAME
    tiny_config.model.head = config_io.Section("linear", LinearHeadConfig())
    return tiny_config


def test_operations_of_a_step_are_those_of_the_convolutions(tiny_config: RunConfig) -> None:
    """The baseline's by hand: forward and backward, two operations a multiplication as torch counts."""
    tiny_config.method = config_io.Section("supervised", METHODS["supervised"].config())
    pace = pace_of(tiny_config, CLASSES, operations_s=1e6)
    net = build_segmentor(tiny_config.model, 8)
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(4, 3, 48, 48))["logits"].sum().backward()
    assert pace.work.image_s == pytest.approx(counter.get_total_flops() / 4 / 1e6)
    assert pace.step_s(1, QUIET) == pytest.approx(counter.get_total_flops() / 1e6)
    assert pace.hours(7200, 1, QUIET) == pytest.approx(2 * counter.get_total_flops() / 1e6)
    assert pace.work.parameter_mb == pytest.approx(4e-6 * sum(p.numel() for p in net.parameters()))
    norms = sum(isinstance(one, torch.nn.BatchNorm2d) for one in net.modules())
    assert (pace.work.norms, pace.work.passes_forward, pace.work.passes_trained) == (norms, 1, 1)


def test_a_step_has_both_kinds_of_samples_and_all_passes(tiny_config: RunConfig) -> None:
    pace = pace_of(tiny_config, CLASSES)
    assert (pace.work.passes_forward, pace.work.passes_trained) == (3, 2)
    one = pace.step_s(1, QUIET)
    assert one == pytest.approx(8 * pace.work.image_s)
    doubled = replace(pace, batch=BatchConfig(8, 8))
    assert doubled.step_s(1, QUIET) == pytest.approx(2 * one)
    assert replace(pace, paired=False).step_s(1, QUIET) == pytest.approx(one / 2)


@pytest.mark.parametrize("case", ["ps_mt", "recomputed pairs"])
def test_a_light_network_takes_what_the_whole_one_does(case: str, tiny_config: RunConfig) -> None:
    """All passes, of second networks too; and it is made once for all methods."""
    taxonomy, dates, crop = CLASSES, 1, 48
    if case in SIBLINGS:
        tiny_config.method = config_io.Section(case, METHODS[case].config(**SIBLINGS[case].settings))
    else:
        taxonomy, dates, crop = Taxonomy.of(["same", "changed"]), 2, 32
        tiny_config.task = config_io.Section("change", ChangeTaskConfig(ChangeViewConfig(crop=crop)))
        tiny_config.activation_checkpointing = True
    net = shape_only(tiny_config.model, taxonomy.num_classes, tiny_config.activation_checkpointing, dates)
    task = build_task(tiny_config, taxonomy, net)
    flops, passes = step_flops(net, build_method(tiny_config, task, net), task, crop, 2, 2)

    networks = LightNetworks()
    method, supervised = tiny_config.method, METHODS["supervised"].config()
    tiny_config.method = config_io.Section("supervised", supervised)
    pace_of(tiny_config, taxonomy, networks=networks)
    known = networks.of(tiny_config, taxonomy.num_classes, dates)
    tiny_config.method = method
    work = pace_of(tiny_config, taxonomy, operations_s=1.0, networks=networks).work
    assert work.image_s == pytest.approx(flops / 4, rel=1e-12)
    assert (work.passes_forward, work.passes_trained) == (passes.forward, passes.trained)
    assert work.parameter_mb == pytest.approx(4e-6 * sum(p.numel() for p in net.parameters()))
    assert networks.of(tiny_config, taxonomy.num_classes, dates) is known
    tiny_config.activation_checkpointing ^= True
    assert networks.of(tiny_config, taxonomy.num_classes, dates) is not known


def vit_cost(side: int, freeze: bool = False) -> tuple[EncoderCost, VisionTransformer]:
    config = EncoderConfig("test_vit", "none", freeze=freeze)
    with torch.device("meta"):
        encoder = build_encoder(config, 1)
    return cost_of(encoder, (3, side, side)), encoder.net


def test_attention_is_counted() -> None:
    """By hand: two products of tokens x tokens x width a block, beside what grows with the tokens. Going back
    takes five such products, since the weights are made again.
    """
    (few, vit), (many, _) = vit_cost(32), vit_cost(64)
    tokens = [(side // 16) ** 2 + 1 for side in (32, 64)]
    embedding = [
        2 * 3 * 16**2 * vit.embed_dim * (count - 1) for count in tokens
    ]  # of all but the class token
    products = [2 * len(vit.blocks) * vit.embed_dim * count**2 for count in tokens]
    costs = list(zip((few, many), embedding, products, strict=True))
    forward = [cost.forward - made - 2 * product for cost, made, product in costs]
    backward = [cost.backward - made - 5 * product for cost, made, product in costs]
    assert forward[1] / forward[0] == pytest.approx(tokens[1] / tokens[0])
    assert backward[1] / backward[0] == pytest.approx(tokens[1] / tokens[0])


def test_a_frozen_encoder_does_not_go_back() -> None:
    assert vit_cost(32, freeze=True)[0].backward == 0 < vit_cost(32)[0].backward


def test_a_step_of_several_devices_is_that_of_the_model() -> None:
    """Their messages and the slowest one count, the wait for data does not."""
    work = Work(image_s=0.02, fixed_s=0.0, norms=50)
    cluster = Cluster(devices_per_node=4, between=Link(1.0, 100.0), data_images_s_per_device=1.0)
    pace = Pace(work, BatchConfig(8, 8, max_per_device=1 + 1), paired=True)
    model = step_time(work, cluster, 4, 4, accumulation=2)
    assert pace.step_s(4, cluster) == model.compute + model.messages < model.step
    assert model.compute > 4 * 0.02
    with pytest.raises(UserError, match="batch.labeled is 8, which 3 processes cannot share evenly"):
        pace.step_s(3, cluster)


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        ((8, 8), (2, 2)),
        ((8, 0), (2, 0)),
        ((6, 2), (6, 2)),
        ((16, 8), (4, 2)),
        ((3, 3), (2, 2)),
        ((4, 12), (2, 6)),
    ],
)
def test_the_smallest_batch_of_a_mixture(sizes: tuple[int, int], found: tuple[int, int]) -> None:
    assert smallest_mixture(*sizes) == found
