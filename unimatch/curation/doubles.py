"""Which images repeat others, by an index of their hashes: no list of pairs is made, so that memory grows
with the images alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unimatch.curation.prints import UNREADABLE
from unimatch.inspection.duplicates import differing_bits, near_pairs

ROUNDS = 256


@dataclass(frozen=True)
class Doubles:
    """of: int64 [N], the place of the image that each one repeats, which is kept; -1: none. equal: bool [N],
    to the last pixel. bits: uint8 [N], in which the perceptual hashes differ. open: images that were kept
    since it took too many rounds to say, see `alike`.
    """

    of: np.ndarray
    equal: np.ndarray
    bits: np.ndarray
    open: int


def doubles(prints: np.ndarray, kept: int, distance: int) -> Doubles:
    """Of each image the earliest kept one that it equals, else the earliest that it resembles.

    prints: uint64 [N, 2], in order: of images that repeat each other the earliest is kept. kept: the first so
    many are kept whatever they repeat, and yet are told of. distance: bits in which the perceptual hashes of
    similar images may differ. What is unreadable or of one colour repeats nothing.
    """
    content, look = np.ascontiguousarray(prints.T)
    places, always = np.arange(len(look)), np.arange(len(look)) < kept
    usable = (content != 0) & (content != UNREADABLE)
    of, equal = np.full(len(look), -1), np.zeros(len(look), bool)
    same = _earliest(content)
    equal[usable] = (same != places)[usable]
    of[equal] = same[equal]
    some = np.flatnonzero(~equal & usable & (look != 0))
    same = _earliest(look[some])  # of images with one hash the earliest stands for all
    stands = np.unique(same)
    near, undecided = alike(look[some[stands]], always[some[stands]], distance)
    mine = np.searchsorted(stands, same)
    repeated = np.where(near >= 0, stands[near], -1)[mine]
    others = (repeated < 0) & (same != np.arange(len(some)))
    repeated[others] = same[others]
    of[some[repeated >= 0]] = some[repeated[repeated >= 0]]
    on = np.flatnonzero(equal)  # on to what an equal one resembles, if that is not kept either
    on = on[(of[of[on]] >= 0) & ~always[of[on]]]
    of[on], equal[on] = of[of[on]], False
    bits, found = np.zeros(len(look), np.uint8), np.flatnonzero(of >= 0)
    bits[found] = differing_bits(look[found], look[of[found]])
    return Doubles(of, equal, bits, undecided)


def _earliest(values: np.ndarray) -> np.ndarray:
    """int64 [N]: the first place with each one's value."""
    _, first, number = np.unique(values, return_index=True, return_inverse=True)
    return np.asarray(first[number])


def alike(looks: np.ndarray, always: np.ndarray, distance: int) -> tuple[np.ndarray, int]:
    """(int64 [N], the first kept image that each one resembles, -1: none; how many stay open).

    looks: uint64 [N] in order. always: bool [N], kept in any case. Another one is kept unless it resembles an
    earlier one that is; so each that is not kept lies within `distance` bits of one that is. A round decides
    those before which all is decided; a slow film, whose every frame resembles the next alone, takes a round
    for each of its frames, and what ROUNDS leave open is kept. Memory: some arrays of N numbers.
    """
    kept, found = always.copy(), np.full(len(looks), -1)
    todo = np.arange(len(looks))  # those that are not decided, and what they resemble
    for _ in range(ROUNDS):
        near, open_before, touched = _earlier(looks[todo], kept[todo], found[todo] >= 0, distance)
        repeats = (near >= 0) & (found[todo] < 0)
        found[todo[repeats]] = todo[near[repeats]]
        free = (found[todo] < 0) & ~kept[todo]
        kept[todo[free & ~open_before]] = True
        left = free & open_before
        if not left.any():
            return found, 0
        todo = todo[touched & (kept[todo] | left)]
    return found, int((~kept & (found < 0)).sum())


def _earlier(
    looks: np.ndarray, kept: np.ndarray, gone: np.ndarray, distance: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each image: the first earlier kept one that it resembles (-1: none); whether it resembles an earlier
    one that is not decided; whether it resembles any.
    """
    none = len(looks)
    near = np.full(none, none)
    open_before, touched = np.zeros(none, bool), np.zeros(none, bool)
    for low, high in near_pairs(looks, distance):
        touched[low] = touched[high] = True
        keeps = kept[low]
        np.minimum.at(near, high[keeps], low[keeps])
        open_before[high[~keeps & ~gone[low]]] = True
    return np.where(near < none, near, -1), open_before, touched
