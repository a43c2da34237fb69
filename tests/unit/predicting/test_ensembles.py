"""Networks as one: the mean of their softmax, whatever each was given to see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.predictors import predictor, restored
from unimatch.codecs.prepared import Preparation
from unimatch.errors import UserError
from unimatch.predicting.ensembles import one_network
from unimatch.taxonomy import Taxonomy


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (1, 12, 16, 3), np.uint8)


def test_two_networks_say_the_mean_of_what_each_says(tmp_path: Path) -> None:
    runs = [restored(tmp_path, seed=1), restored(tmp_path, seed=2, mean=0.4, std=0.5)]
    alone = [predictor(one).see(image(), all_classes=True) for one in runs]
    both = predictor(*runs).see(image(), all_classes=True)
    assert alone[0].probabilities is not None and alone[1].probabilities is not None
    wanted = (alone[0].probabilities + alone[1].probabilities) / 2
    assert both.probabilities is not None and both.conf is not None
    np.testing.assert_allclose(both.probabilities, wanted, atol=1e-5)
    np.testing.assert_allclose(both.conf, wanted.max(1), atol=1e-5)
    assert (both.ids == wanted.argmax(1)).mean() > 0.99
    assert all((both.ids != one.ids).any() for one in alone), "neither of them has its way alone"


def test_an_ensemble_is_averaged_over_sizes_and_mirrored_images(tmp_path: Path) -> None:
    runs = [restored(tmp_path, seed=1), restored(tmp_path, seed=2)]
    net = one_network(runs, [1.0, 0.5], flip=True)
    values = runs[0].task.normalize(torch.from_numpy(image()))
    with torch.no_grad():
        mirrored = net(values.flip(-1))["logits"].flip(-1)
        np.testing.assert_allclose(net(values)["logits"], mirrored, atol=1e-4)
        once = one_network(runs, [1.0], flip=False)(values)["logits"]
        assert not torch.allclose(once, net(values)["logits"], atol=1e-2)
    assert one_network(runs[:1], [1.0], flip=False) is runs[0].net


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"classes": Taxonomy.of(["road", "car", "tree"])}, "another classes"),
        ({"prepared": Preparation(downscale=2)}, "another preparation of images"),
        ({"mode": "sliding"}, "another mode or window"),
        ({"mode": "sliding", "window": 8, "classes": Taxonomy.of(["a", "b"])}, "classes, mode or window"),
    ],
)
def test_networks_that_see_other_images_are_refused(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    with pytest.raises(
        UserError, match=f"run2 has .*{told} than .*run1: an ensemble is of networks that see"
    ):
        predictor(restored(tmp_path), restored(tmp_path, seed=2, **change))


def test_a_result_says_which_networks_it_is_of(tmp_path: Path) -> None:
    runs = [restored(tmp_path, seed=1), restored(tmp_path, seed=2)]
    alone, both = predictor(runs[0]).made_by(), predictor(*runs, flip=True).made_by()
    assert "with" not in alone and alone["step"] == 7 and not alone["flip"]
    assert both["weights"] == alone["weights"] != both["with"][0]["weights"] and both["flip"]
