"""Volume figures against loops over voxels, for whole, partly empty and wholly empty structures."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from unimatch import keyed
from unimatch.errors import DataError
from unimatch.tasks.surface import surface_distances
from unimatch.tasks.volume_metric import VolumeMetric
from unimatch.taxonomy import IGNORE_INDEX


def blob(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    grid = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    return sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True)) <= radius**2


def literal_surface(mask: np.ndarray) -> list[tuple[int, ...]]:
    found = []
    for place in np.argwhere(mask):
        for axis, step in itertools.product(range(mask.ndim), (-1, 1)):
            other = place.copy()
            other[axis] += step
            inside = (other >= 0).all() and (other < mask.shape).all()
            if not inside or not mask[tuple(other)]:
                found.append(tuple(place.tolist()))
                break
    return found


def literal_distances(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    a, b = literal_surface(prediction), literal_surface(truth)
    forth = [min(math.dist(p, q) for q in b) for p in a]
    back = [min(math.dist(p, q) for q in a) for p in b]
    ordered = sorted(forth + back)
    place = 0.95 * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low]), sum(forth) / len(forth)


@pytest.mark.parametrize("shape", [(6, 12, 11), (14, 13)])
def test_distances_equal_the_literal_ones(shape: tuple[int, ...]) -> None:
    middle = tuple(n / 2 for n in shape)
    truth = blob(shape, middle, 3.5)
    noise = keyed.uniform(4, math.prod(shape)).reshape(shape) < 0.05
    for prediction in (
        blob(shape, tuple(m - 1.5 for m in middle), 3),
        noise,
        blob(shape, (0,) * len(shape), 4),
    ):
        found = surface_distances(prediction, truth)
        assert found is not None
        assert tuple(found) == pytest.approx(literal_distances(prediction, truth))


def test_distances_by_hand() -> None:
    """Two single voxels 3 and 4 steps apart; a pair against one of its own voxels."""
    a, b = np.zeros((2, 5, 6), bool), np.zeros((2, 5, 6), bool)
    a[0, 0, 0] = b[0, 3, 4] = True
    assert surface_distances(a, b) == (5.0, 5.0)
    assert surface_distances(a, a) == (0.0, 0.0)
    both = a | b
    # From the prediction: 0 and 5, mean 2.5; both directions together 0, 5, 0: between 0 and 5 at 0.9.
    assert surface_distances(both, a) == pytest.approx((4.5, 2.5))
    assert surface_distances(a, both) == pytest.approx((4.5, 0.0))


def test_no_distances_to_nothing() -> None:
    some, none = np.ones((2, 3, 3), bool), np.zeros((2, 3, 3), bool)
    for pair in ((some, none), (none, some), (none, none)):
        assert surface_distances(*pair) is None


def test_a_single_slice_is_an_image() -> None:
    a, b = blob((15, 15), (7, 7), 5), blob((15, 15), (7, 7), 3)
    assert surface_distances(a[None], b[None]) == surface_distances(a, b)
    found = surface_distances(a, b)
    assert found is not None and found.asd > 1


def volume_of(key: str) -> str:
    return key.rpartition("/")[0]


def feed(metric: VolumeMetric, name: str, prediction: np.ndarray, truth: np.ndarray, batch: int = 2) -> None:
    for start in range(0, len(truth), batch):
        stop = min(start + batch, len(truth))
        keys = [f"{name}/{index:03d}" for index in range(start, stop)]
        part = torch.from_numpy(prediction[start:stop]), torch.from_numpy(truth[start:stop])
        metric.update(*part, keys)


def volumes() -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Four classes; class 3 is missing in some truths and predictions, in both of `c`."""
    found = []
    for number, name in enumerate("abc"):
        shape = (5 + number, 16, 14)
        truth, prediction = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        truth[blob(shape, (2, 7, 7), 5)] = 1
        prediction[blob(shape, (2, 7 + number, 6), 5)] = 1
        truth[blob(shape, (2, 7, 7), 2)] = 2
        prediction[blob(shape, (2, 7, 7), 1)] = 2
        if name == "a":
            truth[0, 0, :3] = 3
        if name == "b":
            prediction[0, 0, :3] = 3
        found.append((name, prediction, truth))
    return found


def literal_dice(prediction: np.ndarray, truth: np.ndarray, label: int) -> float:
    pairs = list(zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True))
    both = sum(p == label and t == label for p, t in pairs)
    return 2 * both / (sum(p == label for p, _ in pairs) + sum(t == label for _, t in pairs))


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_figures_are_means_over_volumes_not_over_voxels_or_slices(batch: int) -> None:
    metric = VolumeMetric(4, volume_of)
    for name, prediction, truth in volumes():
        feed(metric, name, prediction, truth, batch)
    for label in (1, 2):
        dices = [literal_dice(p, t, label) for _, p, t in volumes()]
        distances = [literal_distances(p == label, t == label) for _, p, t in volumes()]
        assert metric.dice()[label - 1] == pytest.approx(sum(dices) / 3)
        assert metric.hd95()[label - 1] == pytest.approx(sum(d[0] for d in distances) / 3)
        assert metric.asd()[label - 1] == pytest.approx(sum(d[1] for d in distances) / 3)
    # Class 3: missed in a, invented in b (Dice 0 each, no distance), absent from c, which says nothing.
    assert (metric.dice()[2], metric.hd95()[2], metric.asd()[2]) == (0.0, None, None)
    assert metric.undefined() == [0, 0, 2]


def test_nothing_at_all_is_no_0_over_0() -> None:
    metric = VolumeMetric(3, volume_of)
    assert int(metric.state.sum()) == 0
    feed(metric, "empty", np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4), np.uint8))
    assert int(metric.state.sum()) == 0
    assert metric.dice() == metric.hd95() == metric.asd() == [None, None]


def test_ignored_voxels_count_neither_as_hits_nor_as_misses() -> None:
    truth = np.zeros((2, 6, 6), np.uint8)
    truth[:, :3] = 1
    prediction = truth.copy()
    prediction[:, 3:] = 1
    truth[:, 3:] = IGNORE_INDEX
    metric = VolumeMetric(2, volume_of)
    feed(metric, "v", prediction, truth)
    assert metric.dice() == [1.0] and metric.hd95() == [0.0]


def test_states_of_processes_add_up_to_the_same_figures_to_the_bit() -> None:
    whole = VolumeMetric(4, volume_of)
    for name, prediction, truth in volumes():
        feed(whole, name, prediction, truth)
    for share in ([0, 1, 2], [2, 0, 1]):
        parts = [VolumeMetric(4, volume_of) for _ in range(2)]
        for turn, number in enumerate(share):
            feed(parts[turn % 2], *volumes()[number])
        total = VolumeMetric(4, volume_of)
        total.state = parts[0].state + parts[1].state
        assert torch.equal(total.state, whole.state)
        assert (total.dice(), total.hd95(), total.asd()) == (whole.dice(), whole.hd95(), whole.asd())


@pytest.mark.parametrize("between", [[], [("w", 4)]])
def test_slices_of_two_sizes_are_no_volume(between: list[tuple[str, int]]) -> None:
    metric = VolumeMetric(2, volume_of)
    for name, side in [("v", 4), *between]:
        feed(metric, name, np.zeros((1, side, side), np.uint8), np.zeros((1, side, side), np.uint8))
    slices = np.zeros((1, 5, 5), np.uint8)
    with pytest.raises(DataError, match=r"volume v: its slices have several sizes.*per: image"):
        feed(metric, "v", slices, slices)
