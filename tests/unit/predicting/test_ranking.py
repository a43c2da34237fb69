"""What is chosen of images whose looks are made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from unimatch.predicting.looks import Look, joined
from unimatch.predicting.ranking import MEASURES, Pool, choose, reasons

NONE = np.empty((0, 2), np.float32)


def seen(
    entropy: float = 0.0, disagreement: float = 0.0, at: tuple[float, float] = (0, 0), rare: float = 0.0
) -> Look:
    shares = np.array([1 - rare, rare], np.float32)
    return Look(1, shares, entropy, disagreement, np.array(at, np.float32))


def pool(*looks: Look) -> Pool:
    return Pool([f"i{number}" for number in range(len(looks))], looks)


def chosen(found: Pool, count: int, *by: str, labeled: np.ndarray = NONE) -> list[int]:
    return choose(found, count, by, labeled).order.tolist()


@pytest.mark.parametrize("measure", ["entropy", "disagreement", "rare"])
def test_the_largest_of_a_measure_is_first_and_of_equal_ones_the_first(measure: str):
    images = pool(*(seen(**{measure: value}) for value in (0.1, 0.3, 0.2, 0.3)))
    assert chosen(images, 3, {"rare": "rarity"}.get(measure, measure)) == [1, 3, 2]


def test_rarity_is_the_information_of_the_classes_by_their_shares_in_all_images():
    images = pool(seen(rare=0.0), seen(rare=0.5))
    bits = [-np.log2(0.75), 0.5 * -np.log2(0.75) + 0.5 * -np.log2(0.25)]
    assert images.rarity == pytest.approx(bits)


def test_diversity_alone_is_the_k_centre_greedy_rule():
    points = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    labeled = points[:2] + 0.01
    images = pool(*(seen(at=tuple(point)) for point in points))
    expected: list[int] = []
    for _ in range(8):
        centres = np.concatenate([labeled, points[expected]])
        expected.append(int(np.linalg.norm(points[:, None] - centres[None], axis=2).min(1).argmax()))
    choice = choose(images, 8, ["diversity"], labeled)
    assert choice.order.tolist() == expected
    assert choice.distance[0] == pytest.approx(np.linalg.norm(points[expected[0]] - labeled, axis=1).min())


def test_doubles_of_an_unsure_image_give_way_to_others():
    doubles = [seen(entropy=0.9 - number / 100, at=(1, 0)) for number in range(4)]
    images = pool(*doubles, seen(entropy=0.5, at=(0, 1)), seen(entropy=0.1, at=(-1, 0)))
    assert chosen(images, 2, "entropy") == [0, 1]
    assert chosen(images, 2, "entropy", "diversity") == [0, 4]
    assert chosen(images, 1, "entropy", "diversity", labeled=np.array([[1.0, 0.0]])) == [4]
    assert sorted(chosen(images, 6, *MEASURES)) == list(range(6))


def test_measures_count_alike_whatever_their_size():
    images = pool(seen(0.001, 0.9), seen(0.002, 0.8), seen(0.003, 0.85))
    assert choose(images, 1, ("entropy", "disagreement"), NONE).score == pytest.approx([4 / 6, 3 / 6, 5 / 6])


def test_reasons_are_those_by_which_an_image_stands_out():
    looks = [seen(0.1 + number / 100, 0.5 - number / 100) for number in range(40)]
    looks[30] = seen(0.9, 0.0, rare=0.2)
    images = pool(*looks)
    choice = choose(images, 1, ("entropy", "disagreement", "rarity"), NONE)
    assert choice.order.tolist() == [30]
    assert reasons(images, choice, 0, ("road", "pole")) == [
        "entropy 0.9 (top 1%)",
        "rarity 1.53 (top 1%): pole 20%, of all images 0.5%",
    ]
    near = choose(images, 1, ("disagreement", "diversity"), np.ones((1, 2), np.float32))
    assert reasons(images, near, 0, ("road", "pole"))[-1] == "distance 1.41 from what is labelled or chosen"


def test_a_volume_is_the_mean_of_its_slices():
    volume = joined([seen(0.2, 0.4, (1, 0), 0.5), seen(0.4, 0.0, (0, 1))])
    images = Pool(["volume"], [volume])
    assert images.entropy == pytest.approx([0.3])
    assert images.disagreement == pytest.approx([0.2])
    assert images.shares == pytest.approx(np.array([[0.75, 0.25]]))
    assert images.features == pytest.approx(np.array([[0.5, 0.5]]))
