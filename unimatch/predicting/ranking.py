"""Which images are worth a label: scores of what a network makes of each, and a choice without doubles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unimatch.predicting.looks import Look

UNSURE = ("disagreement", "entropy", "rarity")
MEASURES = (*UNSURE, "diversity")
TOLD = 0.8  # a measure that at least this part of the images does not exceed is a reason
RARE = 0.05  # share of all pixels below which a class is named as a rare one


class Pool:
    """What is known of N images: arrays over them, of which float32 [N, C] of features is the largest."""

    def __init__(self, names: Sequence[str], looks: Sequence[Look]) -> None:
        counts = np.array([one.count for one in looks], np.float32)
        self.names = list(names)
        self.shares = np.stack([one.shares for one in looks]) / counts[:, None]
        self.entropy = np.array([one.entropy for one in looks]) / counts
        self.disagreement = np.array([one.disagreement for one in looks]) / counts
        self.features = np.stack([one.feature for one in looks]) / counts[:, None]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def mean_shares(self) -> np.ndarray:
        """float32 [K]: of the predicted classes in all images."""
        return np.asarray(self.shares.mean(0))

    @property
    def rarity(self) -> np.ndarray:
        """float64 [N]: the mean over an image's pixels of -log2 of their predicted class's share of all."""
        bits = -np.log2(np.maximum(self.mean_shares, 1e-12), dtype=np.float64)
        return self.shares @ bits

    def values(self, measure: str) -> np.ndarray:
        return np.asarray(getattr(self, measure))


@dataclass(frozen=True)
class Choice:
    """order: int64 [n], the chosen images, best first. score: [N], the mean over measures of the part of
    the images that each does not exceed; places: that part for each measure. distance: [n], from the nearest
    labelled or earlier chosen image when it was chosen; infinite for a first one without such.
    """

    order: np.ndarray
    score: np.ndarray
    places: dict[str, np.ndarray]
    distance: np.ndarray


def _places(values: np.ndarray) -> np.ndarray:
    """float64 [N]: the place of each among all, counted from 1; equal ones share the middle of theirs."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") + 1) / 2


def choose(pool: Pool, count: int, by: Sequence[str], labeled: np.ndarray) -> Choice:
    """The images to label. Of equal ones the first in the pool.

    by: of MEASURES. With diversity each next image has the largest product of its score and of how many
    images lie nearer to what is labelled or chosen already; by diversity alone that is the k-centre greedy
    rule (Sener and Savarese, ICLR 2018). Without it those of the highest score are chosen.
    labeled: [M, C], features of the labelled images.
    """
    places = {name: _places(pool.values(name)) / len(pool) for name in by if name in UNSURE}
    score = np.mean(list(places.values()), axis=0) if places else np.ones(len(pool))
    nearest = np.full(len(pool), np.inf)
    for one in labeled:
        nearest = np.minimum(nearest, distances(pool.features, one))
    order: list[int] = []
    told: list[float] = []
    for _ in range(count):
        value = score.copy()
        if "diversity" in by and np.isfinite(nearest[0]):
            value *= np.searchsorted(np.sort(nearest), nearest)  # how many lie nearer: of a double none
        value[order] = -1.0
        best = int(value.argmax())
        order.append(best)
        told.append(float(nearest[best]))
        nearest = np.minimum(nearest, distances(pool.features, pool.features[best]))
    return Choice(np.array(order), score, places, np.array(told))


def distances(features: np.ndarray, one: np.ndarray) -> np.ndarray:
    """float64 [N] of features [N, C] to one [C], by differences: near ones' products are all rounding."""
    parts = [np.linalg.norm(features[k : k + 1024] - one, axis=1) for k in range(0, len(features), 1024)]
    return np.concatenate(parts).astype(np.float64)


def reasons(pool: Pool, choice: Choice, place: int, classes: Sequence[str]) -> list[str]:
    """Why the image at a place of the choice is there, the strongest first."""
    image, mean = int(choice.order[place]), pool.mean_shares
    found: list[str] = []
    for name in sorted(choice.places, key=lambda one: -choice.places[one][image]):
        part = float(choice.places[name][image])
        if part < TOLD and found:
            continue
        told = f"{name} {pool.values(name)[image]:.3g} (top {max(1, round(100 * (1 - part)))}%)"
        if name == "rarity":
            share = pool.shares[image]
            more = np.where(mean < RARE, (share - mean) * -np.log2(np.maximum(mean, 1e-12)), 0)
            if more.max(initial=0) > 0:
                rare = int(more.argmax())
                told += f": {classes[rare]} {100 * share[rare]:.2g}%, of all images {100 * mean[rare]:.2g}%"
        found.append(told)
    if np.isfinite(choice.distance[place]):
        found.append(f"distance {choice.distance[place]:.2f} from what is labelled or chosen")
    return found
