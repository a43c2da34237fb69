import numpy as np
import pytest

from unimatch import keyed

MASK = (1 << 64) - 1


def splitmix64(seed: int, count: int) -> list[int]:
    """The published generator, state and all: add the golden ratio, then mix."""
    words = []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & MASK
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        words.append(z ^ (z >> 31))
    return words


@pytest.mark.parametrize("key", [0, 1, 1 << 63, MASK, 1234567])
def test_bits_are_splitmix64(key):
    assert keyed.bits(key, 6).tolist() == splitmix64(key, 6)


def test_known_words_of_splitmix64():
    """The first outputs for seed 1234567, as the generator's authors and many libraries list them."""
    assert keyed.bits(1234567, 3).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_draws_are_the_uniform_numbers_one_by_one():
    draws = keyed.Draws(99)
    assert [draws.uniform() for _ in range(5)] == keyed.uniform(99, 5).tolist()
    draws = keyed.Draws(99)
    expected = keyed.uniform(99, 3)
    assert draws.uniform(2, 4) == 2 + 2 * expected[0]
    assert draws.integer(10, 20) == 10 + int(10 * expected[1])
    assert draws.bool(0.5) == (expected[2] < 0.5)


def test_integers_are_uniform_and_never_their_end():
    draws = keyed.Draws(5)
    numbers = [draws.integer(-1, 3) for _ in range(4000)]
    counts = [numbers.count(number) for number in (-1, 0, 1, 2)]
    assert sum(counts) == 4000 and all(abs(count - 1000) < 150 for count in counts)


def test_keys_depend_on_every_part_and_on_their_order():
    parts = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (-1,), (1 << 64) - 2]
    keys = [keyed.key(*(part if isinstance(part, tuple) else (part,))) for part in parts]
    assert len(set(keys)) == len(keys) and all(0 <= key <= MASK for key in keys)
    assert keyed.signed(keyed.key(3)) & MASK == keyed.key(3)


def test_numbers_are_uniform_and_neighbouring_keys_independent():
    numbers = np.stack([keyed.uniform(keyed.key(7, i), 256) for i in range(256)])
    histogram = np.histogram(numbers, bins=16, range=(0, 1))[0]
    assert np.abs(histogram - numbers.size / 16).max() < 5 * np.sqrt(numbers.size / 16)
    correlation = np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]
    assert abs(correlation) < 5 / np.sqrt(numbers.size)


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_permutations_are_permutations(count):
    assert sorted(keyed.permutation(5, count).tolist()) == list(range(count))


def test_every_order_of_three_occurs_equally_often():
    orders = [tuple(keyed.permutation(keyed.key(1, i), 3).tolist()) for i in range(6000)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6 and max(counts) - min(counts) < 6 * np.sqrt(1000)


def test_extended_keys_are_keys_of_one_more_part():
    last = np.array([0, 1, 77, 1 << 40])
    expected = [keyed.key(3, 5, part) for part in last.tolist()]
    assert keyed.extended(keyed.key(3, 5), last).tolist() == expected
