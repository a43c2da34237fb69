"""Randomness without state: every number is a hash of a key and a counter.

Nothing here depends on a worker, a rank, a device or a library's generator, so an image, a mask or an order
is the same on any number of processes and after any resume. The mixing function is the finaliser of
SplitMix64 (Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014), on a counter.
"""

from __future__ import annotations

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
MASK = (1 << 64) - 1


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * MIX_1) & MASK
    value = ((value ^ (value >> 27)) * MIX_2) & MASK
    return value ^ (value >> 31)


def _mix_array(value: np.ndarray) -> np.ndarray:
    """The same of uint64 [...], in place."""
    value ^= value >> np.uint64(30)
    value *= np.uint64(MIX_1)
    value ^= value >> np.uint64(27)
    value *= np.uint64(MIX_2)
    value ^= value >> np.uint64(31)
    return value


def key(*parts: int) -> int:
    """A 64-bit key of some integers (seed, stream tag, epoch, position ...), whose order matters."""
    value = 0
    for part in parts:
        value = _mix((value + GOLDEN + (int(part) & MASK)) & MASK)
    return value


def extended(first: int, last: np.ndarray) -> np.ndarray:
    """uint64 [n]: `key(*parts, x)` for each x of an integer array, where `first` is `key(*parts)`."""
    return _mix_array(np.uint64((first + GOLDEN) & MASK) + last.astype(np.uint64))


def signed(value: int) -> int:
    """The same 64 bits as a signed integer, as torch's int64 holds them."""
    return value - (1 << 64) if value >> 63 else value


def bits(key: int, count: int) -> np.ndarray:
    """uint64 [count]: the first `count` random words of `key`."""
    return _mix_array(np.uint64(key) + np.uint64(GOLDEN) * np.arange(1, count + 1, dtype=np.uint64))


def uniform(key: int, count: int) -> np.ndarray:
    """float64 [count], uniform in [0, 1): the upper 53 bits of `bits`."""
    return (bits(key, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(key: int, count: int) -> np.ndarray:
    """int64 [count]: a permutation of range(count), by sorting random words."""
    return np.argsort(bits(key, count), kind="stable")


class Draws:
    """Numbers drawn one after another from one key. Scalars only: tens of them per image."""

    def __init__(self, key: int) -> None:
        self.key = key
        self.count = 0

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A float in [low, high)."""
        self.count += 1
        word = _mix((self.key + GOLDEN * self.count) & MASK)
        return low + (high - low) * ((word >> 11) * 2.0**-53)

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high); the bias of scaling 53 bits is below 2**-30 for an image's ranges."""
        return low + int(self.uniform() * (high - low))

    def bool(self, p: float) -> bool:
        """True with probability p."""
        return self.uniform() < p
