"""Groups of samples that belong together (slices of a patient, photos of a building), and folds of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from unimatch import keyed
from unimatch.errors import ConfigError, DataError, summary
from unimatch.packing.published import KeyMatcher
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.key_list import read_lines

VOLUME, FOLDER, SCENE, NONE = "volume", "folder", "scene", "none"
TILE = re.compile(r"(?P<scene>.+)/\d{5,}_\d{5,}")  # the key of a tile, see packing.survey
FOLD_TAG = 0xF01D
ASSIGNMENT = re.compile(r"(?P<image>.+?)\s*[,;\t]\s*(?P<group>[^,;\t]+)|(?P<words>.+)\s+(?P<last>\S+)")


def volume_of(key: str) -> str | None:
    """The volume of a slice's key VOLUME/000; None: another key."""
    volume, _, name = key.rpartition("/")
    return volume if volume and name.isdigit() else None


def groups_by(shards: ShardSet, rule: str) -> np.ndarray:
    """int64 [samples]: the group of each sample, -1 for one that has none.

    rule: "volume", "folder", "scene" (of tiles), or a regular expression that is searched in the image's path
    without its extension; its first group, or all of what it finds, names the group.
    """
    keys = shards.keys(np.arange(len(shards)))
    if rule == VOLUME:
        return numbered([volume_of(key) for key in keys])
    if rule == SCENE:
        tiles = [TILE.fullmatch(key) for key in keys]
        return numbered([tile and tile["scene"] for tile in tiles])
    if rule == FOLDER:
        return numbered([key.rpartition("/")[0] for key in keys])
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise ConfigError(f"group-by {rule!r} is no regular expression: {error}") from error
    found = [pattern.search(unquote(key)) for key in keys]
    return numbered([match and (match[1] if pattern.groups else match[0]) for match in found])


def default_rule(shards: ShardSet) -> str:
    """What stays together where nothing is said: the tiles of a scene, in a set that was cut from scenes."""
    return SCENE if shards.info["created"].get("tiles") else NONE


def groups_of_file(shards: ShardSet, path: Path, subset: str) -> np.ndarray:
    """int64 [samples]: the group of each sample, by the lines "image, group" of a text file (a comma, a
    semicolon, a tab, or a last word without); -1 for a sample that has none.

    DataError: a line of no group, or an image of two.
    """
    matcher = KeyMatcher(shards, subset)
    names: list[str | None] = [None] * len(shards)
    for number, line in enumerate(read_lines(path), 1):
        if not line or line.startswith("#"):
            continue
        match = ASSIGNMENT.fullmatch(line)
        if match is None:
            raise DataError(f"{path}:{number}: expected an image and its group, found {line!r}")
        group = match["group"] or match["last"]
        for row in matcher.rows(match["image"] or match["words"]):
            if names[row] not in (None, group):
                key = shards.keys(np.array([row]))[0]
                raise DataError(f"{path}:{number}: {key} is in the groups {names[row]!r} and {group!r}")
            names[row] = group
    return numbered(names)


def numbered(names: Sequence[str | None]) -> np.ndarray:
    """int64: equal numbers for equal names, -1 for None."""
    places = {name: place for place, name in enumerate(sorted({name for name in names if name is not None}))}
    return np.array([-1 if name is None else places[name] for name in names], np.int64)


def check_groups(shards: ShardSet, groups: np.ndarray, rows: np.ndarray) -> None:
    """DataError: samples of these rows that are in no group."""
    lost = rows[groups[rows] < 0]
    if len(lost):
        keys = summary(shards.keys(lost[:3]), 3)
        raise DataError(
            f"{len(lost)} of {len(rows)} samples are in no group, such as {keys}; a pattern must fit all of "
            "them, a file name all"
        )


def folds(units: np.ndarray, count: int, seed: int, pixels: np.ndarray | None = None) -> list[np.ndarray]:
    """The places of the samples of each of `count` folds, of about as many samples each; int64 `units` [N]
    are the samples' groups, which stay whole. A group goes to the fold that has least of its classes, by
    `pixels` [N, K] of each sample; without them, to the one of fewest groups.
    """
    names, of_unit = np.unique(units, return_inverse=True)
    if not 2 <= count <= len(names):
        raise ConfigError(f"folds must be from 2 to the number of groups, here {len(names)}; found {count}")
    sizes = np.bincount(of_unit)
    shares = np.ones((len(names), 1))
    if pixels is not None:
        total = np.maximum(pixels.sum(axis=0), 1)
        shares = np.stack([np.bincount(of_unit, column) for column in pixels.T], 1) / total
    filled, have = np.zeros(count, np.int64), np.zeros((count, shares.shape[1]))
    fold_of = np.zeros(len(names), np.int64)
    order = keyed.permutation(keyed.key(seed, FOLD_TAG), len(names))
    # The largest first, and of those what has most of a class: they fit worst.
    for unit in order[np.lexsort((-shares[order].max(axis=1), -sizes[order]))]:
        room = filled <= filled.min() + sizes[unit] // 2
        fold = int(np.argmin(np.where(room, have @ shares[unit], np.inf)))
        fold_of[unit] = fold
        filled[fold] += sizes[unit]
        have[fold] += shares[unit]
    return [np.flatnonzero(fold_of[of_unit] == fold) for fold in range(count)]
