"""The plan against its definition, over a grid of sizes, shards, batches, ranks, workers and accumulation."""

from __future__ import annotations

import pickle
import time
from itertools import product

import numpy as np
import pytest

from unimatch import keyed
from unimatch.data.plan import MicroPlan, Plan, Slots, Tag
from unimatch.errors import ConfigError, DataError

SEED = 7


def shard_sizes(samples: int, shards: int) -> list[int]:
    """Unequal shards that sum to `samples`; some may be tiny."""
    cuts = [samples * i * i // (shards * shards) for i in range(1, shards)]
    return [end - start for start, end in zip([0, *cuts], [*cuts, samples], strict=True) if end > start]


def literal_line(sizes: list[int], tag: int, epoch: int) -> list[int]:
    """The definition: shards permuted, samples permuted inside each, one after the other."""
    first = [sum(sizes[:shard]) for shard in range(len(sizes))]
    line = []
    for shard in keyed.permutation(keyed.key(SEED, tag, epoch), len(sizes)).tolist():
        inside = keyed.permutation(keyed.key(SEED, tag, epoch, shard), sizes[shard])
        line += [first[shard] + sample for sample in inside.tolist()]
    return line


def literal_lanes(sizes: list[int], batch: int, tag: int, epoch: int, t: int) -> list[int]:
    """The definition: the line cut into equal lanes; slot j of batch t is place t of lane j."""
    line = literal_line(sizes, tag, epoch)
    length = len(line) // batch
    return [line[slot * length : (slot + 1) * length][t] for slot in range(batch)]


def joined(micros: list[Slots], field: str) -> list[int]:
    return [int(value) for part in micros for value in getattr(part, field)]


def streams(micros: list[MicroPlan]) -> list[list[Slots]]:
    return [[m.labeled for m in micros], [m.unlabeled for m in micros if m.unlabeled is not None]]


@pytest.mark.parametrize(
    ("samples", "shards", "batch"),
    [(40, 1, 4), (40, 5, 8), (97, 7, 16), (64, 64, 64), (92, 1, 64), (16, 3, 16)],
)
def test_unlabelled_batches_are_the_definition(samples: int, shards: int, batch: int) -> None:
    sizes = shard_sizes(samples, shards)
    plan = Plan([5], sizes, batch, batch, seed=SEED, partner="shuffled")
    assert plan.steps_per_epoch == samples // batch
    for epoch, t in product(range(3), range(plan.steps_per_epoch)):
        (micro,) = plan.slots(epoch * plan.steps_per_epoch + t)
        assert micro.unlabeled is not None and micro.epoch == epoch
        assert micro.unlabeled.ordinals.tolist() == literal_lanes(sizes, batch, Tag.UNLABELED_ORDER, epoch, t)
        assert micro.unlabeled.partners is not None
        assert micro.unlabeled.partners.tolist() == literal_lanes(sizes, batch, Tag.PARTNER_ORDER, epoch, t)


GRID = [
    # samples: unlabelled, labelled; shards: unlabelled, labelled; batch: unlabelled, labelled
    (50, 7, 4, 1, 8, 4),
    (64, 64, 64, 3, 16, 16),
    (33, 200, 1, 9, 8, 8),
    (92, 92, 5, 1, 64, 64),
    (100, 3, 9, 2, 16, 8),
    (17, 5, 17, 5, 4, 12),
]


@pytest.mark.parametrize(("n_u", "n_l", "s_u", "s_l", "g_u", "g_l"), GRID)
def test_every_sample_once_per_epoch_and_labelled_ones_evenly(
    n_u: int, n_l: int, s_u: int, s_l: int, g_u: int, g_l: int
) -> None:
    plan = Plan(shard_sizes(n_l, s_l), shard_sizes(n_u, s_u), g_l, g_u, seed=SEED)
    for epoch in range(3):
        seen: dict[str, list[int]] = {"labeled": [], "unlabeled": []}
        for t in range(plan.steps_per_epoch):
            (micro,) = plan.slots(epoch * plan.steps_per_epoch + t)
            assert micro.unlabeled is not None
            for name, part, size in (("labeled", micro.labeled, n_l), ("unlabeled", micro.unlabeled, n_u)):
                ordinals = part.ordinals.tolist()
                assert min(ordinals) >= 0 and max(ordinals) < size
                if size >= len(ordinals):
                    assert len(set(ordinals)) == len(ordinals), "a sample twice in one batch"
                seen[name] += ordinals
        counts = np.bincount(seen["unlabeled"], minlength=n_u)
        assert counts.max() == 1 and (counts == 0).sum() == n_u % g_u
        mean = plan.steps_per_epoch * g_l / n_l
        counts = np.bincount(seen["labeled"], minlength=n_l)
        assert set(counts.tolist()) <= {int(np.floor(mean)), int(np.ceil(mean))}


@pytest.mark.parametrize(("n_u", "n_l", "s_u", "s_l", "g_u", "g_l"), GRID)
def test_the_global_batch_is_the_same_for_all_ranks_accumulations_and_workers(
    n_u: int, n_l: int, s_u: int, s_l: int, g_u: int, g_l: int
) -> None:
    sizes = (shard_sizes(n_l, s_l), shard_sizes(n_u, s_u))

    def new() -> Plan:
        return Plan(*sizes, g_l, g_u, seed=SEED, partner="shuffled")

    plan = new()
    steps = list(range(2 * plan.steps_per_epoch + 2))
    whole = {step: streams(plan.slots(step)) for step in steps}
    for world, accumulation, workers in product((1, 2, 4, 64), (1, 2, 4), (1, 3)):
        if g_u % (world * accumulation) or g_l % (world * accumulation):
            continue
        for worker in range(workers):
            fresh = new()  # a worker process that sees only its own steps, the last ones first
            for step in steps[worker::workers][::-1]:
                ranks = [fresh.slots(step, rank, world, accumulation) for rank in range(world)]
                assert all(len(micros) == accumulation for micros in ranks)
                parts = streams([micro for micros in ranks for micro in micros])
                for stream, (expected,) in zip(parts, whole[step], strict=True):
                    for field in ("ordinals", "slots", "positions", "view_keys", "noise_keys"):
                        assert joined(stream, field) == joined([expected], field)
                assert joined(parts[1], "partners") == joined(whole[step][1], "partners")


def test_keys_follow_positions_and_steps_and_never_meet() -> None:
    plan = Plan([9], [40], 4, 8, seed=SEED)
    views, noises = set(), set()
    steps = 12
    for step in range(steps):
        (micro,) = plan.slots(step)
        epoch, t = divmod(step, 5)
        assert micro.unlabeled is not None and (micro.step, micro.epoch) == (step, epoch)
        assert micro.unlabeled.positions.tolist() == list(range(t * 8, t * 8 + 8))
        assert micro.labeled.slots.tolist() == [0, 1, 2, 3]
        assert micro.labeled.view_keys[1] == keyed.key(SEED, Tag.LABELED_VIEW, epoch, t * 4 + 1)
        assert micro.unlabeled.noise_keys.dtype == np.int64
        assert micro.unlabeled.noise_keys[3] == keyed.signed(keyed.key(SEED, Tag.UNLABELED_NOISE, step, 3))
        for part in (micro.labeled, micro.unlabeled):
            views |= set(part.view_keys)
            noises |= {value & keyed.MASK for value in part.noise_keys.tolist()}
    assert len(views) == len(noises) == len(views - noises) == steps * 12


def test_epochs_and_seeds_differ() -> None:
    first, second = (Plan([30], [40], 4, 8, seed=seed).slots(0)[0].unlabeled for seed in (0, 1))
    later = Plan([30], [40], 4, 8, seed=0).slots(5)[0].unlabeled
    assert first and second and later
    assert len({tuple(part.ordinals.tolist()) for part in (first, second, later)}) == 3


@pytest.mark.parametrize(
    ("size", "batch"), [(92, 64), (64, 64), (65, 64), (127, 64), (128, 64), (129, 64), (5, 3), (1, 1)]
)
def test_repeated_sets_have_no_sample_twice_in_a_batch_in_any_order_of_asking(size: int, batch: int) -> None:
    """Around two batches the rule that keeps batches apart changes."""
    plan = Plan([size], [40 * batch], batch, batch, seed=SEED)
    batches = [plan.slots(step)[0].labeled.ordinals.tolist() for step in range(60)]
    assert all(len(set(ordinals)) == batch for ordinals in batches)
    order = keyed.permutation(3, 60).tolist()
    other = Plan([size], [40 * batch], batch, batch, seed=SEED)
    assert {step: other.slots(step)[0].labeled.ordinals.tolist() for step in order} == dict(
        enumerate(batches)
    )
    counts = np.bincount(np.concatenate(batches[:40]), minlength=size)
    assert counts.max() - counts.min() <= 1


def test_every_pass_over_a_repeated_set_has_an_order_of_its_own() -> None:
    plan = Plan([12], [9 * 4], 4, 4, seed=SEED)  # three passes an epoch
    orders = []
    for start in range(0, 18, 3):
        batches = [plan.slots(step)[0].labeled.ordinals.tolist() for step in range(start, start + 3)]
        orders.append(tuple(sum(batches, [])))
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len(set(orders)) == 6


def test_fewer_labels_than_slots_are_repeated_inside_the_batch() -> None:
    plan = Plan([3], [640], 64, 64, seed=SEED)
    for step in range(10):
        counts = np.bincount(plan.slots(step)[0].labeled.ordinals, minlength=3)
        assert counts.max() - counts.min() <= 2 and counts.sum() == 64


def test_92_samples_on_64_ranks() -> None:
    plan = Plan([92], [92], 64, 64, seed=SEED)
    assert plan.steps_per_epoch == 1
    for step in range(3):
        ranks = [plan.slots(step, rank, 64)[0] for rank in range(64)]
        assert len({int(micro.labeled.ordinals[0]) for micro in ranks}) == 64
        assert len({int(micro.unlabeled.ordinals[0]) for micro in ranks if micro.unlabeled}) == 64


def test_a_lane_reads_its_shards_one_after_the_other() -> None:
    sizes = [50] * 8
    plan = Plan([10], sizes, 4, 4, seed=SEED)
    shards = np.repeat(np.arange(8), 50)
    lane = [int(shards[plan.slots(step, 1, 4)[0].unlabeled.ordinals[0]]) for step in range(100)]  # type: ignore[union-attr]
    assert (np.diff(lane) != 0).sum() == 1


def test_supervised_epochs() -> None:
    plan = Plan(shard_sizes(23, 2), None, 8, seed=SEED)
    assert plan.steps_per_epoch == 2
    assert plan.slots(0)[0].unlabeled is None
    seen = np.concatenate([plan.slots(step)[0].labeled.ordinals for step in (2, 3)])
    assert len(set(seen.tolist())) == 16  # one epoch: no sample twice
    assert Plan([23], None, 8, seed=SEED, epoch_samples=344).steps_per_epoch == 43
    assert Plan([3], None, 8, seed=SEED).steps_per_epoch == 1
    assert sorted(set(Plan([3], None, 8, seed=SEED).slots(4)[0].labeled.ordinals.tolist())) == [0, 1, 2]


def test_what_cannot_be_planned() -> None:
    with pytest.raises(DataError, match="7 samples, fewer than one global batch of 8"):
        Plan([5], [4, 3], 4, 8, seed=0)
    with pytest.raises(DataError, match="labelled split has no samples"):
        Plan([], [40], 4, 8, seed=0)
    with pytest.raises(ConfigError, match="at least 1, found labeled 0"):
        Plan([5], None, 0, seed=0)
    with pytest.raises(ConfigError, match="at least 1, found labeled 4, unlabeled None"):
        Plan([5], [10], 4, seed=0)
    plan = Plan([5], [40], 4, 6, seed=0)
    with pytest.raises(ConfigError, match=r"batch\.unlabeled is 6, .* 4 process\(es\) x 1 .* multiple of 4"):
        plan.slots(0, 0, 4)
    with pytest.raises(ConfigError, match=r"batch\.labeled is 4, .* 3 process"):
        plan.check(3)


def test_any_step_of_a_large_run_is_quick_and_little_is_kept() -> None:
    plan = Plan([1000] * 5, [5000] * 200, 64, 64, seed=SEED, partner="shuffled")
    start = time.perf_counter()
    for step in (0, 15_624, 15_625, 10**6, 10**9):
        plan.slots(step, 3, 8)
    assert (
        time.perf_counter() - start < 1.0
    )  # some 10 ms each on an idle core: the permutations of a few shards
    for step in range(1000, 1400):
        plan.slots(step, 3, 8)
    assert len(pickle.dumps(plan)) < 4 << 20
