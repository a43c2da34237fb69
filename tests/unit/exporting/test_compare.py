"""A file is held against the run: what differs is counted, figures are its own, times are taken in turns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from unimatch.exporting import compare as comparing
from unimatch.exporting.compare import Images, compare, in_turns
from unimatch.exporting.formats import Run
from unimatch.metrics import ConfusionMatrix


class Task:
    """Of two classes, by mIoU alone."""

    headline = "miou"

    def metric(self) -> Any:
        matrix = ConfusionMatrix(2)
        update = matrix.update
        matrix.update = lambda ids, label, keys: update(ids, label)  # type: ignore[method-assign, assignment]
        return matrix

    def figures(self, metric: ConfusionMatrix) -> dict[str, Any]:
        return {"miou": float(metric.iou().nanmean())}


def saying(class_of_ones: int, sure: float) -> Run:
    """Ones become a class, and zeros the other one; surer in the first image of a batch of two."""

    def run(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ids = np.where(image[..., 0] == 1, class_of_ones, 1 - class_of_ones).astype(np.uint8)
        conf = np.full(ids.shape, sure if len(ids) == 2 else 0.5, np.float32)
        return ids, conf

    return run


def batch(count: int, side: int = 4) -> Images:
    image = np.zeros((count, side, side, 3), np.uint8)
    image[:, 0] = 1
    return Images(image, image[..., 0].copy(), [str(number) for number in range(count)])


def test_what_differs_is_counted() -> None:
    found = compare(Task(), saying(1, 0.5), saying(0, 0.9), [batch(2), batch(1)])  # type: ignore[arg-type]
    assert (found.images, found.pixels, found.same, found.left_out) == (3, 48, 0, 0)
    assert found.largest == pytest.approx(0.4)
    assert (found.before, found.after) == ({"miou": 1.0}, {"miou": 0.0})
    told = found.lines(Task())  # type: ignore[arg-type]
    assert "3 images: 0.000 %" in told[0] and told[1].startswith("miou: 100.00 ") and "0.00 of" in told[1]


def test_images_of_another_size_are_left_out_and_told() -> None:
    same = saying(1, 0.5)
    found = compare(Task(), same, same, [batch(2), batch(1, side=5)], (4, 4))  # type: ignore[arg-type]
    assert (found.images, found.left_out, found.agreement) == (2, 1, 1.0)
    assert "1 images of another size were left out" in found.lines(Task())[1]  # type: ignore[arg-type]


def test_turns_to_warm_up_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(comparing.time, "perf_counter", lambda: now)

    def taking(seconds: float) -> Run:
        first = iter([90.0, 90.0])

        def run(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            nonlocal now
            now += next(first, seconds)
            return image, image

        return run

    assert in_turns((taking(1.0), taking(2.0)), batch(1).image, 2) == (1.0, 2.0)
