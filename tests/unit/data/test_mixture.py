"""Several unlabelled sets in one plan: shares, passes, and the same batches however they are asked for."""

from __future__ import annotations

import pickle
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from tests.support.batches import SEED, same
from tests.support.tiny_set import TAXONOMY, TinyTransform, damage, image_bytes, write_tiny
from unimatch import keyed
from unimatch.codecs.decode import decode_image
from unimatch.data.orders import Lanes, Mix, Mixture, Tag
from unimatch.data.plan import Plan
from unimatch.data.samples import Pool, Samples
from unimatch.data.training import train_loader
from unimatch.errors import ConfigError, DataError
from unimatch.shardset.archive import ShardSet

# sets, each the samples in its shards; weights; batch
CASES = [
    ([[5, 6, 7], [9, 3]], None, 4),
    ([[40], [13]], [1, 1], 4),
    ([[8, 1, 20], [60], [33]], [1, 2, 3], 6),
    ([[30], [12], [9, 9], [16]], [0.5, 0.1, 0.3, 0.1], 8),
    ([[7], [9]], [0.001, 1], 2),
]


def shares(sets: list[list[int]], weights: list[float] | None) -> list[Fraction]:
    """As meant: the weights, or the numbers of samples, over their sum."""
    found = [Fraction(str(weight)) for weight in weights or [sum(sizes) for sizes in sets]]
    return [share / sum(found) for share in found]


def literal(sets: list[list[int]], weights: list[float] | None, batch: int, steps: int) -> list[list[int]]:
    """The definition, one step after the other: each slot counts how often it has been at each set."""
    parts = shares(sets, weights)
    ends = np.cumsum([sum(sizes) for sizes in sets]).tolist()
    begins = []
    for number in range(len(sets)):
        units = (parts[number] / sum(parts[number:])).denominator
        order = keyed.permutation(keyed.key(SEED, Tag.TURNS, 2, number), batch).tolist()
        begins.append([Fraction(place * units // batch, units) for place in order])
    been = [[0] * len(sets) for _ in range(batch)]
    lanes = [Lanes(sizes, batch, keyed.key(SEED, Tag.SET, n), 2) for n, sizes in enumerate(sets)]
    batches = []
    for _ in range(steps):
        found = []
        for slot in range(batch):
            for number in range(len(sets)):
                turns = sum(been[slot][number:])  # of this set and those behind it
                part = parts[number] / sum(parts[number:])
                if (turns + 1) * part + begins[number][slot] >= been[slot][number] + 1:
                    break
            epoch, t = divmod(been[slot][number], lanes[number].length)
            (inside,) = lanes[number].ordinals(epoch, t, np.array([slot])).tolist()
            found.append(ends[number] - sum(sets[number]) + inside)
            been[slot][number] += 1
        batches.append(found)
    return batches


@pytest.mark.parametrize(("sets", "weights", "batch"), CASES)
def test_a_step_is_what_counting_from_the_first_one_gives(sets, weights, batch):
    steps = 3 * sum(map(sum, sets)) // batch
    mixture = Mixture(sets, weights or [sum(sizes) for sizes in sets], batch, SEED, 2)
    slots = np.arange(batch)
    expected = literal(sets, weights, batch, steps)
    for step in reversed(range(steps)):
        assert mixture.ordinals(*divmod(step, mixture.length), slots).tolist() == expected[step]


@pytest.mark.parametrize(("sets", "weights", "batch"), CASES)
def test_slots_and_batches_have_their_shares(sets, weights, batch):
    """Slots exactly, batches exactly of the first set."""
    steps = 6 * sum(map(sum, sets)) // batch
    plan = Plan([5], Mix(sets, weights), batch, batch, seed=SEED)
    assert plan.steps_per_epoch == plan.num_unlabeled // batch == sum(map(sum, sets)) // batch
    ends = np.cumsum([sum(sizes) for sizes in sets])
    of = [np.searchsorted(ends, plan.slots(step)[0].unlabeled.ordinals, "right") for step in range(steps)]
    for number, share in enumerate(shares(sets, weights)):
        been = np.cumsum(np.array(of) == number, axis=0)  # [steps, slots]
        wanted = float(share) * np.arange(1, steps + 1)[:, None]
        assert np.abs(been - wanted).max() < (1 if len(sets) == 2 else number + 1)
        if number == 0:
            in_batch = np.diff(been.sum(1), prepend=0)
            assert np.abs(in_batch - float(share) * batch).max() < 1
    if weights == [1, 1]:
        pairs = {tuple(numbers[2 * pair : 2 * pair + 2].tolist()) for numbers in of for pair in range(2)}
        assert len(pairs) >= 2  # neighbours, which mix, are not always of the same two sets


@pytest.mark.parametrize(("sets", "weights", "batch"), CASES[:3])
def test_each_pass_over_a_set_has_every_sample_once(sets, weights, batch):
    mixture = Mix(sets, weights).order(batch, SEED, 2)
    passes: dict[tuple[int, int], list[int]] = {}
    been = np.zeros((batch, len(sets)), int)
    ends = np.cumsum([sum(sizes) for sizes in sets])
    for step in range(8 * mixture.length):
        ordinals = mixture.ordinals(*divmod(step, mixture.length), np.arange(batch))
        for slot, number in enumerate(np.searchsorted(ends, ordinals, "right").tolist()):
            epoch = been[slot, number] // (sum(sets[number]) // batch)
            passes.setdefault((number, epoch), []).append(int(ordinals[slot]))
            been[slot, number] += 1
    for number, sizes in enumerate(sets):
        size = sum(sizes)
        whole = [passes[number, epoch] for epoch in range(been[:, number].min() // (size // batch))]
        assert len(whole) >= 2 and whole[0] != whole[1]
        for one in whole:
            assert len(one) == len(set(one)) == size // batch * batch
            assert min(one) >= ends[number] - size and max(one) < ends[number]


def test_processes_and_micro_batches_divide_the_same_batches():
    def new() -> Plan:
        return Plan([7], Mix([[9, 20], [30], [17]], [3, 1, 2]), 8, 8, seed=SEED, partner="shuffled")

    plan = pickle.loads(pickle.dumps(new()))
    steps = range(0, 3 * plan.steps_per_epoch, 5)
    whole = [plan.slots(step)[0].unlabeled for step in steps]
    assert any((one.ordinals != one.partners).any() for one in whole)
    for world, accumulation in product((1, 2, 8), (1, 2, 4)):
        if 8 % (world * accumulation) == 0:
            fresh = new()
            for step, expected in reversed(list(zip(steps, whole, strict=True))):
                parts = [
                    part.unlabeled for r in range(world) for part in fresh.slots(step, r, world, accumulation)
                ]
                for name in ("ordinals", "slots", "positions", "view_keys", "noise_keys", "partners"):
                    found = [value for part in parts for value in getattr(part, name)]
                    assert found == list(getattr(expected, name))


def test_one_set_in_a_list_is_read_as_if_it_stood_alone():
    alone = Plan([5], [9, 20], 4, 4, seed=SEED, partner="shuffled")
    listed = Plan([5], Mix([[9, 20]], [0.3]), 4, 4, seed=SEED, partner="shuffled")
    for step in range(30):
        for one, other in zip(alone.slots(step), listed.slots(step), strict=True):
            assert (one.unlabeled.ordinals == other.unlabeled.ordinals).all()
            assert (one.unlabeled.partners == other.unlabeled.partners).all()


def test_sets_without_weights_are_read_by_their_sizes_and_seeds_differ():
    sets = [[30], [90]]
    orders = [Mix(sets, weights).order(8, seed, 2) for weights, seed in ((None, 1), ([1, 3], 1), (None, 2))]
    found = [[one.ordinals(0, t, np.arange(8)).tolist() for t in range(15)] for one in orders]
    assert found[0] == found[1] != found[2]


def test_sets_that_cannot_be_read_are_refused():
    with pytest.raises(
        DataError, match=r"data.unlabeled\[1\] has 3 samples, fewer than one global batch of 4"
    ):
        Plan([5], Mix([[9], [3]]), 4, 4)
    with pytest.raises(ConfigError, match="below a millionth would hardly ever be read"):
        Mix([[9], [9]], [1, 1e-8]).order(4, 0, 2)


def batches(roots, weights, **options):
    """Of 2 labelled and 4 unlabelled samples of tiny sets, whose images follow from their keys."""
    shards = [ShardSet.open(root) for root in roots]
    rows = [one.rows("train") for one in shards]
    sizes = [one.shard_sizes(some) for one, some in zip(shards, rows, strict=True)]
    plan = Plan([4, 1], Mix(sizes, weights), 2, 4, seed=SEED)
    settings = {"stop_step": 12, "workers": 0, "num_classes": TAXONOMY.num_classes, **options}
    pool = Pool([Samples(one, some) for one, some in zip(shards, rows, strict=True)])
    return plan, list(train_loader(Samples(shards[0], rows[0][:5]), pool, plan, TinyTransform(), **settings))


def test_batches_hold_the_images_of_both_sets(tmp_path):
    """The second one has names of its own, but its images are those of the first, moved by four."""
    first = write_tiny(tmp_path / "first", train=11)
    second = write_tiny(tmp_path / "second", train=7, per_shard=3)
    plan, found = batches([first, second], [1, 2])
    for step, (micro,) in found:
        for slot, ordinal in enumerate(plan.slots(step)[0].unlabeled.ordinals.tolist()):
            expected = decode_image(image_bytes(ordinal if ordinal < 11 else ordinal - 11), "x")
            assert (micro["unlabeled"]["weak"][slot].numpy() == expected).all()
    assert same(found, batches([first, second], [1, 2], workers=2)[1])
    assert same(found[7:], batches([first, second], [1, 2], start_step=7)[1])


def test_an_unreadable_sample_is_replaced_by_one_of_its_own_set(tmp_path):
    first, second = (write_tiny(tmp_path / name, train=6) for name in ("first", "second"))
    sound = batches([first, second], [1, 1])[1]
    damage(second, "t005")
    plan, found = batches([first, second], [1, 1], skip_ceiling=1)
    replaced = 0
    for (step, (before,)), (_, (after,)) in zip(sound, found, strict=True):
        for slot, ordinal in enumerate(plan.slots(step)[0].unlabeled.ordinals.tolist()):
            pixels = before["unlabeled"]["weak"][slot]
            if ordinal == 11:
                replaced += 1
                pixels = decode_image(image_bytes(0), "x")  # the last one's successor is the set's first
            assert (after["unlabeled"]["weak"][slot].numpy() == np.asarray(pixels)).all()
    assert replaced >= 2
    with pytest.raises(DataError, match="second|t005"):
        batches([first, second], [1, 1])
