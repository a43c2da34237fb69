import re

import pytest

from unimatch.engine.run_config import BatchConfig
from unimatch.engine.run_data import open_data
from unimatch.engine.schedule import ScheduleConfig
from unimatch.engine.steps import accumulation_steps, cut_into_steps, run_steps
from unimatch.errors import UserError
from unimatch.methods.base import ViewNeeds


@pytest.mark.parametrize(
    ("labeled", "unlabeled", "limit", "world", "steps"),
    [
        (8, 8, None, 1, 1),
        (8, 8, 16, 1, 1),
        (8, 8, 15, 1, 2),
        (8, 8, 4, 1, 4),
        (8, 8, 4, 2, 2),
        (2, 6, 4, 1, 2),
        (3, 9, 4, 1, 3),
        (8, None, 3, 2, 2),
    ],
)
def test_the_fewest_micro_batches_that_fit(labeled, unlabeled, limit, world, steps):
    batch = BatchConfig(labeled, unlabeled, limit)
    assert accumulation_steps(batch, unlabeled is not None, world) == steps


def test_batches_that_cannot_be_shared_say_why():
    with pytest.raises(UserError, match="batch.unlabeled is 6, which 4 processes cannot share evenly"):
        accumulation_steps(BatchConfig(8, 6), True, 4)
    with pytest.raises(UserError, match="max_per_device is 3, but batch.labeled 3 and batch.unlabeled 9"):
        accumulation_steps(BatchConfig(3, 9, 3), True, 1)


@pytest.mark.parametrize("world", [2, 3, 8])
@pytest.mark.parametrize(("labeled", "unlabeled"), [(8, 4), (1, 1), (7, None), (3, 9), (6, 12)])
def test_the_batch_that_is_proposed_works(labeled: int, unlabeled: int | None, world: int):
    paired = unlabeled is not None
    try:
        accumulation_steps(BatchConfig(labeled, unlabeled), paired, world)
    except UserError as error:
        told = str(error)
        sizes = {name: int(size) for name, size in re.findall(r"--set batch\.(\w+)=(\d+)", told)}
        batch = BatchConfig(**sizes)
        assert labeled <= batch.labeled and (unlabeled or 0) <= (batch.unlabeled or 0)
        assert accumulation_steps(batch, paired, world) == 1
        assert (batch.unlabeled or 0) // world % 2 == 0  # as mix_partner: batch needs
        for count in re.findall(r"start (\d+) process", told):
            assert accumulation_steps(BatchConfig(labeled, unlabeled), paired, int(count)) == 1
    else:
        assert labeled % world == (unlabeled or 0) % world == 0


def published_steps(samples: int, devices: int, per_device: int) -> int:
    """Of an epoch: a sampler that repeats some samples so that all devices have as many; whole batches."""
    shares = [len(range(rank, samples + -samples % devices, devices)) for rank in range(devices)]
    assert len(set(shares)) == 1
    return shares[0] // per_device


@pytest.mark.parametrize("samples", [40, 41, 43, 44, 2789, 9118, 10490])
@pytest.mark.parametrize(("devices", "per_device"), [(1, 8), (4, 2), (2, 4), (8, 1)])
def test_an_epoch_is_as_long_as_on_so_many_devices(tiny_config, samples, devices, per_device):
    tiny_config.batch = BatchConfig(8, 8)
    tiny_config.schedule = ScheduleConfig(epochs=3, epoch_devices=devices)
    views = ViewNeeds(num_strong=2, partner="same", unlabeled=True)
    assert run_steps(tiny_config, views, 6, samples) == 3 * published_steps(samples, devices, per_device)
    alone = ViewNeeds(num_strong=0, partner=None, unlabeled=False)
    assert run_steps(tiny_config, alone, samples, None) == 3 * published_steps(samples, devices, per_device)


def test_a_batch_that_these_devices_cannot_share(tiny_config):
    tiny_config.schedule = ScheduleConfig(epochs=3, epoch_devices=3)
    with pytest.raises(UserError, match="schedule.epoch_devices is 3, by which a batch of 4 cannot be"):
        run_steps(tiny_config, ViewNeeds(num_strong=2, partner="same", unlabeled=True), 6, 34)


def test_an_epoch_of_the_baseline_is_a_pass_over_the_unlabelled_samples_too(tiny_config):
    """So that it is as long as the method beside it: 34 unlabelled samples, four labelled a step."""
    alone = ViewNeeds(num_strong=0, partner=None, unlabeled=False)
    tiny_config.schedule = ScheduleConfig(epochs=3)
    steps = cut_into_steps(tiny_config, open_data(tiny_config), alone, world=1)
    assert (steps.plan.steps_per_epoch, steps.total) == (8, 24)
