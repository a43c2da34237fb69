"""How good pseudo-labels are, and how long a run must be for them: by hand."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import tiny_run_text
from unimatch.config import from_text
from unimatch.engine.label_passes import label_passes, too_short
from unimatch.engine.pseudo_labels import LabelQuality, with_masks
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import open_data
from unimatch.engine.selection import Selection, Unlabeled
from unimatch.engine.start_banner import _warnings
from unimatch.errors import DataError, UserError
from unimatch.methods import METHODS
from unimatch.tasks import MedicalTask
from unimatch.taxonomy import IGNORE_INDEX, Taxonomy


class OneProcess:
    device = torch.device("cpu")

    def alive(self) -> None:
        pass

    def autocast(self):
        return contextlib.nullcontext()

    def sum_on_device(self, values):
        return 2 * values  # another process with the same images

    @contextlib.contextmanager
    def together(self):
        self.agreed = True
        yield


class Told:
    """A task that predicts what its images say: the class, and in the second channel how sure it is of it."""

    taxonomy = Taxonomy(("sky", "road", "sign"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))

    def predicted(self, net: nn.Module, image: torch.Tensor, sure: bool):
        assert sure and not net.training
        return image[..., 0].to(torch.uint8), image[..., 1]


def test_precision_of_sure_labels_by_hand() -> None:
    said = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    conf = torch.tensor([0.95, 0.9, 0.95, 0.99, 0.5, 0.95])
    label = torch.tensor([0, 0, 1, 1, 1, IGNORE_INDEX], dtype=torch.uint8)
    batch = {"image": torch.stack([said, conf], -1)[None, None], "label": label[None, None], "keys": ["a"]}
    found = LabelQuality(OneProcess(), Told(), lambda: [batch])(nn.Linear(1, 1).train())
    assert found["precision"] == 0.75 and found["share"] == 0.8  # 4 of 5 labelled pixels are sure, 3 right
    assert found["precision_of"] == {"sky": pytest.approx(2 / 3), "road": 1.0, "sign": None}
    assert found["share_of"] == {"sky": 0.75, "road": 0.25, "sign": 0.0}


def test_what_one_process_cannot_read_ends_all() -> None:
    """They agree on it, and do not wait for its sums."""

    def broken():
        raise DataError("train-00000.tar:a: is damaged")
        yield

    runtime = OneProcess()
    runtime.sum_on_device = None
    with pytest.raises(DataError, match="is damaged"):
        LabelQuality(runtime, Told(), broken)(nn.Linear(1, 1))
    assert runtime.agreed


@pytest.fixture
def data(tmp_path: Path, tiny_shards: Path):
    return open_data(from_text(tiny_run_text(tmp_path / "run", tiny_shards), RunConfig))


def test_samples_with_masks_are_spread_over_the_list(data) -> None:
    rows = data.unlabeled.sets[0].rows
    assert with_masks(data.unlabeled, 3).rows.tolist() == [
        rows[0],
        rows[round((len(rows) - 1) / 2)],
        rows[-1],
    ]
    assert len(with_masks(data.unlabeled, 10_000).rows) == len(rows)
    one = data.unlabeled.sets[0]
    index = one.shards.index.copy()
    index["label_size"] = 0
    bare = SimpleNamespace(index=index)
    with pytest.raises(UserError, match="evaluation.pseudo_labels is 3, but no sample of .* has a mask"):
        with_masks(Unlabeled((Selection(bare, one.name, one.rows, ""),)), 3)


def test_a_short_run_is_told_that_it_is(data) -> None:
    """Unless it is the baseline."""

    def warned(name: str, steps: int) -> list[str]:
        entry = METHODS[name]
        task = SimpleNamespace(without_effect=list, part_of_image=lambda w, h: 1.0)
        runtime = SimpleNamespace(is_main=False)
        method = entry.cls(entry.config(), None, None)
        config = SimpleNamespace(batch=SimpleNamespace(labeled=4))
        trainer = SimpleNamespace(method=method, task=task, config=config, total_steps=steps, runtime=runtime)
        return _warnings(trainer, data, 1)

    (told,) = warned("unimatch", 20)
    assert told.startswith("20 steps of 4 labelled crops are 13.3 passes over the 6 labelled images")
    assert warned("ours", 20) == [told] and warned("supervised", 20) == [] == warned("unimatch", 90)


def test_passes_over_the_labels(data) -> None:
    """A crop of half of each side is a quarter of an image, which a larger crop shows once."""
    labeled = data.labeled
    count, width = len(labeled.rows), int(labeled.shards.index["width"][labeled.rows[0]])
    height = int(labeled.shards.index["height"][labeled.rows[0]])
    assert len(np.unique(labeled.shards.index["width"][labeled.rows])) == 1
    quarter = SimpleNamespace(part_of_image=lambda w, h: 0.25 if (w, h) == (width, height) else 9.0)
    assert label_passes(labeled, 4, 100, quarter) == pytest.approx(100 * 4 / 4 / count)
    enough = 60 * count
    assert too_short(labeled, 4, enough, quarter) is None
    assert too_short(labeled, 4, enough - 1, quarter) is not None
    told = too_short(labeled, 4, enough // 2, quarter)
    assert (
        told is not None and f"{enough // 2} steps of 4 labelled crops are 30 passes over the {count}" in told
    )
    assert f"take {enough} steps, or method: supervised" in told
    many = Selection(labeled.shards, "", np.repeat(labeled.rows, 1000), "")
    assert too_short(many, 4, 1, quarter) is None, "of long lists nothing was measured"
    assert MedicalTask.part_of_image(SimpleNamespace(), 300, 200) == 1.0


def test_images_of_each_size_count_as_often_as_they_are() -> None:
    index = {"width": np.array([9, 10, 20, 10, 10]), "height": np.array([9, 10, 10, 10, 10])}
    labeled = SimpleNamespace(shards=SimpleNamespace(index=index), rows=np.array([1, 2, 3, 4]))
    task = SimpleNamespace(part_of_image=lambda width, height: 100 / (width * height))
    assert label_passes(labeled, 4, 1, task) == pytest.approx((1 + 1 + 1 + 0.5) / 4)
