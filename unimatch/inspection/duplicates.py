"""Images that occur more than once in a set: equal ones by a digest of their pixels, similar ones by a
perceptual hash. An image in training and in validation makes a result look better than it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from pathlib import Path

import cv2
import numpy as np

from unimatch.errors import DataError, summary
from unimatch.packing.rasters import HELD_OUT
from unimatch.shardset.archive import ShardSet

FLAT = 8  # grey levels: a thumbnail of a smaller range holds noise, and all of them would look alike
EXAMPLES = 5  # pairs of keys named
MAX_DISTANCE = 8


def fingerprint(image: np.ndarray) -> tuple[int, int]:
    """(64 bits of a digest of the pixels, 64 bits that change little when the image does).

    uint8 [H, W, 3], uint16 [H, W], or [H, W, C] of bands. 0 means that nothing is to be compared: the digest
    of an image of one colour, and the second number of a nearly flat one. The second is a difference hash:
    whether brightness rises from each of 8 x 8 places to its right neighbour, in a thumbnail (N. Krawetz,
    Kind of like that, 2013).
    """
    if image.min() == image.max():
        return 0, 0
    content = hashlib.blake2b(image.tobytes(), digest_size=8, salt=str(image.shape).encode()[:16])
    is_rgb = image.shape[2:] == (3,) and image.dtype == np.uint8
    planes = [image] if is_rgb or image.ndim == 2 else cv2.split(image)
    small = [cv2.resize(plane, (9, 8), interpolation=cv2.INTER_AREA) for plane in planes]
    thumbnail = cv2.cvtColor(small[0], cv2.COLOR_RGB2GRAY) if is_rgb else np.mean(small, axis=0)
    levels = thumbnail.astype(np.float64) / np.iinfo(image.dtype).max * 255
    if levels.max() - levels.min() < FLAT:
        return int.from_bytes(content.digest(), "little"), 0
    rises = np.packbits(levels[:, 1:] > levels[:, :-1])
    return int.from_bytes(content.digest(), "little"), int.from_bytes(rises.tobytes(), "little")


def similar_pairs(hashes: np.ndarray, distance: int) -> np.ndarray:
    """int64 [P, 2], each i < j once: the pairs of different uint64 `hashes` in at most `distance` bits."""
    found = [np.stack([low, high], axis=1) for low, high in near_pairs(hashes, distance)]
    return np.unique(np.concatenate([np.zeros((0, 2), np.int64), *found]), axis=0)


def near_pairs(hashes: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places i < j of uint64 `hashes` that differ in at most `distance` bits, some at a time, never more than
    there are hashes; a pair may come several times.

    The bits are cut into distance + 2 bands: a pair agrees in two of them at least, so only those that do
    are compared. With a distance of 2 these are 32 bits, which few other hashes share.
    """
    edges = np.linspace(0, 64, distance + 3).astype(int)
    masks = [
        ((1 << int(high)) - 1) ^ ((1 << int(low)) - 1) for low, high in zip(edges, edges[1:], strict=False)
    ]
    for first, second in combinations(masks, 2):
        codes = hashes & np.uint64(first | second)
        order = np.argsort(codes, kind="stable")
        codes = codes[order]
        places: np.ndarray = np.arange(len(codes))
        step = 0
        while len(places):  # those whose code goes on for `step` more places
            step += 1
            places = places[places + step < len(codes)]
            places = places[codes[places] == codes[places + step]]
            one, other = order[places], order[places + step]
            near = differing_bits(hashes[one], hashes[other]) <= distance
            yield np.minimum(one[near], other[near]), np.maximum(one[near], other[near])


def differing_bits(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """int64 [N]: in how many bits the numbers of two uint64 [N] differ."""
    differ = (some ^ others).view(np.uint8).reshape(-1, 8)
    return np.asarray(np.unpackbits(differ, axis=1).sum(axis=1, dtype=np.int64))


@dataclass(frozen=True)
class Twins:
    """Images of group `one` that equal or resemble an image of another sample in group `other`."""

    one: int
    other: int
    count: int  # images of `one`
    examples: list[tuple[int, int]]  # some: rows, of `one` and of `other`


def find_twins(hashes: np.ndarray, rows: np.ndarray, groups: np.ndarray, distance: int) -> list[Twins]:
    """The twins of each pair of groups that has any. An entry an image; hash 0 and group -1: left out.

    A sample may have several images; those of one sample are not compared.
    """
    used = (hashes != 0) & (groups >= 0)
    rows, groups = rows[used], groups[used]
    values, place = np.unique(hashes[used], return_inverse=True)
    if not len(values):
        return []
    shape = (len(values), int(groups.max()) + 1)
    count, low, high = np.zeros(shape, np.int64), np.full(shape, -1), np.full(shape, -1)
    np.add.at(count, (place, groups), 1)
    order = np.argsort(rows, kind="stable")
    high[place[order], groups[order]] = rows[order]  # the last row of each hash and group
    low[place[order[::-1]], groups[order[::-1]]] = rows[order[::-1]]
    same = np.repeat(np.arange(len(values))[:, None], 2, axis=1)
    near = similar_pairs(values, distance) if distance else same[:0]
    pairs = np.concatenate([same, near, near[:, ::-1]])
    found = []
    for one, other in combinations_with_replacement(range(shape[1]), 2):
        mine, theirs = low[pairs[:, 0], one], high[pairs[:, 1], other]
        fits = (mine >= 0) & (theirs >= 0) & (mine != theirs)
        if fits.any():
            affected = np.unique(pairs[fits, 0])
            once = fits & (mine < theirs) if one == other else fits
            places = np.flatnonzero(once)[: EXAMPLES + 1]
            examples = list(zip(mine[places].tolist(), theirs[places].tolist(), strict=True))
            found.append(Twins(one, other, int(count[affected, one].sum()), examples))
    return found


@dataclass(frozen=True)
class Groups:
    """Samples by their use: names of the groups, and int64 [samples] the group of each row."""

    names: list[str]
    held_out: list[bool]
    of_row: np.ndarray  # -1: used by nothing
    problems: list[str]  # keys that are in a list that is trained on and in one that is held out


def group_rows(shards: ShardSet, splits: Sequence[Path], held_out: Sequence[str]) -> Groups:
    """The groups of a set: its subsets; or, with `splits`, these key lists and the subsets that are held out.

    Held out are the subsets, and lists by file name without extension, in `held_out`; if that is empty,
    those whose names start with val or test. DataError: a list cannot be read, or a name is of neither.
    """
    named: list[tuple[str, str, np.ndarray]] = [(name, name, shards.rows(name)) for name in shards.subsets]
    named += [(str(path), path.stem, shards.rows(path)) for path in splits]
    unknown = sorted(set(held_out) - {short for _, short, _ in named})
    if unknown:
        raise DataError(
            f"held out: {', '.join(unknown)} is neither a subset ({', '.join(shards.subsets)}) nor a given "
            "list"
        )

    def held(short: str) -> bool:
        return short in held_out if held_out else HELD_OUT.match(short) is not None

    chosen = [
        (name, held(short), rows)
        for name, short, rows in named
        if not splits or held(short) or name not in shards.subsets
    ]
    of_row = np.full(len(shards), -1)
    # What is written last counts: held out before trained on, the first list (labelled) before others.
    for place in sorted(range(len(chosen)), key=lambda i: (chosen[i][1], -i)):
        of_row[chosen[place][2]] = place
    problems = []
    for train, _, mine in (item for item in chosen if not item[1]):
        for held_name, _, theirs in (item for item in chosen if item[1]):
            both = np.intersect1d(mine, theirs)
            if len(both):
                problems.append(
                    f"{len(both)} sample(s) of {held_name} are in {train}: {summary(shards.keys(both))}; "
                    "what is evaluated must not be trained on, remove them from one of the two"
                )
    return Groups([name for name, _, _ in chosen], [flag for _, flag, _ in chosen], of_row, problems)


def compare_images(
    shards: ShardSet, groups: Groups, contents: np.ndarray, looks: np.ndarray, rows: np.ndarray, distance: int
) -> tuple[list[str], list[str]]:
    """(problems, warnings) from the fingerprints, uint64 [images], of images that belong to `rows`.

    A problem: an equal image in a group that is held out and in one that is not. All else is a warning.
    """
    problems, warnings = list(groups.problems), []

    def pairs(twins: Twins, sign: str) -> str:
        keys = [shards.keys(np.array(pair)) for pair in twins.examples]
        told = [f"{one} {sign} {other}" for one, other in keys[:EXAMPLES]]
        return ", ".join(told) + (", ..." if len(keys) > EXAMPLES else "")

    for twins in find_twins(contents, rows, groups.of_row[rows], 0):
        one, other = groups.names[twins.one], groups.names[twins.other]
        text = f"{twins.count} image(s) of {one} occur "
        text += (
            f"more than once ({pairs(twins, '=')})"
            if one == other
            else f"in {other} too ({pairs(twins, '=')})"
        )
        if groups.held_out[twins.one] != groups.held_out[twins.other]:
            problems.append(
                f"{text}; what is evaluated must not be trained on, remove them from one of the two"
            )
        else:
            warnings.append(text)
    _, first = np.unique(contents, return_index=True)  # equal images have been told of
    for twins in find_twins(looks[first], rows[first], groups.of_row[rows[first]], distance):
        one, other = groups.names[twins.one], groups.names[twins.other]
        where = "one another" if one == other else f"images of {other}"
        warnings.append(f"{twins.count} image(s) of {one} look much like {where} ({pairs(twins, '~')})")
    return problems, warnings
