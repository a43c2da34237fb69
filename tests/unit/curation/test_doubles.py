"""Doubles against the same rule by hand: one image after the other, held against all that are kept."""

from __future__ import annotations

import numpy as np
import pytest

from unimatch.curation import doubles as module
from unimatch.curation.doubles import alike, doubles
from unimatch.curation.prints import UNREADABLE


def by_hand(prints: np.ndarray, kept: int, distance: int) -> list[int]:
    """The place that each one repeats, -1: none."""
    found: list[int] = []
    for place, (content, look) in enumerate(prints.tolist()):
        of = -1
        if content not in (0, UNREADABLE):
            there = [
                k for k in range(place) if (found[k] < 0 or k < kept) and prints[k, 0] not in (0, UNREADABLE)
            ]
            equal = [k for k in there if prints[k, 0] == content]
            near = [
                k
                for k in there
                if look and prints[k, 1] and (int(look) ^ int(prints[k, 1])).bit_count() <= distance
            ]
            of = [*equal, *near, -1][0]
        found.append(of)
    return found


def drawn(count: int, seed: int) -> np.ndarray:
    """uint64 [count, 2]: families of hashes that lie a few bits from one another, some equal, some flat."""
    random = np.random.default_rng(seed)
    looks = random.integers(1, 2**64, count, dtype=np.uint64)
    for place in range(1, count):
        if random.random() < 0.7:
            looks[place] = looks[random.integers(place)]
            for bit in random.choice(64, random.integers(0, 3), replace=False).tolist():
                looks[place] ^= np.uint64(1 << bit)
    content = random.integers(1, 2**63, count).astype(np.uint64)
    for place in random.choice(np.arange(1, count), count // 8, replace=False):
        other = random.integers(place)
        content[place], looks[place] = content[other], looks[other]
    looks[random.choice(count, 3)] = 0
    flat, broken = random.choice(count, (2, 2), replace=False)
    content[flat] = looks[flat] = 0
    content[broken] = looks[broken] = UNREADABLE
    return np.stack([content, looks], axis=1)


@pytest.mark.parametrize("distance", [0, 2, 4])
@pytest.mark.parametrize("kept", [0, 12])
@pytest.mark.parametrize("seed", range(3))
def test_each_repeats_what_it_would_by_hand(seed: int, kept: int, distance: int) -> None:
    prints = drawn(90, seed)
    found, expected = doubles(prints, kept, distance), by_hand(prints, kept, distance)
    assert found.of.tolist() == expected and found.open == 0
    assert 10 < sum(of >= 0 for of in expected) < 80
    for place, of in enumerate(expected):
        if of >= 0:
            assert found.equal[place] == (prints[place, 0] == prints[of, 0])
            assert found.bits[place] == (int(prints[place, 1]) ^ int(prints[of, 1])).bit_count()


def test_of_a_slow_film_every_other_frame_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each frame differs from the next in two bits, from the one after it in four."""
    frames = [0]
    for number in range(20):
        frames.append(frames[-1] ^ (0b11 << 2 * number))
    looks, nothing = np.array(frames, np.uint64) ^ np.uint64(1 << 63), np.zeros(21, bool)
    found, undecided = alike(looks, nothing, 2)
    assert (found[1::2] == np.arange(0, 20, 2)).all() and (found[::2] == -1).all() and undecided == 0
    monkeypatch.setattr(module, "ROUNDS", 3)
    found, undecided = alike(looks, nothing, 2)
    assert found.tolist() == [-1, 0] + [-1] * 19 and undecided == 18


def test_what_is_kept_in_any_case_is_told_of() -> None:
    looks = np.array([8, 9, 0xF0F0, 0xF0F1, 9], np.uint64)
    prints = np.stack([np.arange(1, 6, dtype=np.uint64), looks], axis=1)
    found = doubles(prints, 2, 1)
    assert found.of.tolist() == [-1, 0, -1, 2, 0] and found.bits.tolist() == [0, 1, 0, 1, 1]
