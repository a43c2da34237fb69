"""Folders of results: the same from any number of processes, after a kill, and of what cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.support.predictors import TAXONOMY, as_ranks, predictor, restored
from tests.support.tiny_set import image_bytes, write_tiny
from unimatch.annotations.coco import read_annotations
from unimatch.annotations.labels import Segments
from unimatch.annotations.shapes import draw_shapes
from unimatch.codecs.prepared import Preparation
from unimatch.engine.runtime import Runtime
from unimatch.errors import UserError
from unimatch.predicting import sources
from unimatch.predicting.folder import Outcome, write_folder
from unimatch.predicting.inputs import find_inputs
from unimatch.predicting.output import KINDS, Output
from unimatch.predicting.predictor import Predictor
from unimatch.predicting.reading import Reader
from unimatch.predicting.results import picture_names
from unimatch.predicting.sources import Files, Samples, only
from unimatch.shardset.archive import ShardSet
from unimatch.taxonomy import IGNORE_INDEX

SIZES = [(12, 16), (12, 16), (20, 10), (12, 16), (20, 10), (12, 16), (12, 16)]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven pictures of two sizes, in turns, the third of which is damaged."""
    place = tmp_path / "photos"
    (place / "deep").mkdir(parents=True)
    for number, (height, width) in enumerate(SIZES):
        data = image_bytes(number, "png", height, width)
        name = f"deep/{number}.png" if number > 3 else f"{number}.png"
        (place / name).write_bytes(data[:60] if number == 2 else data)
    return place


def opened(photos: Path, found: Predictor) -> Files:
    return Files(Reader(found.task, Preparation()), find_inputs(photos, None, photos.parent / "out", 1))


def predicted(
    found: Predictor,
    source: sources.Source,
    out: Path,
    runtime: Runtime | None = None,
    kinds: tuple[str, ...] = KINDS,
    **asked: Any,
) -> Outcome:
    output = Output(out, kinds, found.task, picture_names([], stems=False))
    return write_folder(found, source, output, runtime or Runtime(), asked)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_processes_workers_and_batches_change_no_byte(photos: Path, tmp_path: Path) -> None:
    found = predictor(restored(tmp_path))
    outcome = predicted(found, opened(photos, found), tmp_path / "one")
    assert (outcome.images, outcome.failed, outcome.before) == (7, 1, 0)
    assert "2.png" in outcome.problems[0]
    one = files_of(tmp_path / "one")
    assert len(one) == 6 * 4 + len(("legend.png", "coco.json", "failed.txt"))
    assert one["failed.txt"].decode().splitlines() == outcome.problems

    def by_two(runtime: Runtime) -> Outcome:
        own = predictor(restored(tmp_path), batch=2, workers=2)
        return predicted(own, opened(photos, own), tmp_path / "two", runtime)

    both = as_ranks(2, by_two)
    assert [one.failed for one in both] == [1, 1]
    assert files_of(tmp_path / "two") == one
    alone = predictor(restored(tmp_path), batch=1)
    predicted(alone, opened(photos, alone), tmp_path / "alone")
    assert files_of(tmp_path / "alone") == one
    assert set(outcome.shares) == {"in the network", "on scenes and volumes", "waiting for images", "writing"}


def test_a_kill_costs_what_was_not_finished_and_changes_no_byte(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = predictor(restored(tmp_path), batch=1)
    predicted(found, opened(photos, found), tmp_path / "whole")
    seen: list[int] = []
    see = Predictor.see

    def until(limit: int) -> Callable[..., Any]:
        def counted(self: Predictor, images: np.ndarray, *rest: Any) -> Any:
            if len(seen) == limit:
                raise KeyboardInterrupt
            seen.append(len(images))
            return see(self, images, *rest)

        return counted

    monkeypatch.setattr(Predictor, "see", until(3))
    with pytest.raises(KeyboardInterrupt):
        predicted(found, opened(photos, found), tmp_path / "out")
    with (tmp_path / "out" / ".predict" / "done-0.jsonl").open("ab") as file:
        file.write(b'{"chunk": 6, "ima')  # a line that the kill cut off
    assert len(list((tmp_path / "out" / "ids").rglob("*.png"))) == 3
    with pytest.raises(UserError, match="begun with another scales, weights|begun with another run, weights"):
        other = predictor(restored(tmp_path, seed=2), batch=1)
        predicted(other, opened(photos, other), tmp_path / "out")
    monkeypatch.setattr(Predictor, "see", until(99))
    outcome = predicted(found, opened(photos, found), tmp_path / "out")
    assert (outcome.images, outcome.before, outcome.failed) == (7, 4, 1), "the damaged one is done too"
    assert len(seen) == 6 and files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    predicted(found, opened(photos, found), tmp_path / "out")
    assert len(seen) == 12, "what is finished is made anew"


def test_a_process_that_cannot_write_ends_the_others_with_its_reason(photos: Path, tmp_path: Path) -> None:
    def work(runtime: Runtime) -> Outcome:
        found = predictor(restored(tmp_path), batch=1)
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "ids").write_bytes(b"no folder")
        return predicted(found, opened(photos, found), tmp_path / "out", runtime)

    for error in as_ranks(2, work):
        assert isinstance(error, UserError) and "ids" in str(error)


def test_coco_json_is_read_back_as_the_ids(photos: Path, tmp_path: Path) -> None:
    found = predictor(restored(tmp_path, mode="centre", window=10))
    predicted(found, opened(photos, found), tmp_path / "out", kinds=("ids", "coco"))
    content = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert [one["id"] for one in content["images"]] == [1, 2, 3, 4, 5, 6]
    assert [one["id"] for one in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))
    back = read_annotations(tmp_path / "out", "coco.json", "instances", Segments(), tuple(TAXONOMY.names))
    for picture in back.pictures:
        assert picture.size is not None and not picture.faults
        shapes = [shape for _, shape in sorted(picture.shapes, key=lambda one: one[0])]
        drawn, empty = draw_shapes(shapes, *picture.size, IGNORE_INDEX)
        ids = cv2.imread(str(tmp_path / "out" / "ids" / f"{picture.name}.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(drawn, ids) and not empty and (ids == IGNORE_INDEX).any()
    area = sum(one["area"] for one in content["annotations"] if one["image_id"] == 1)
    assert area == 100 and all(0 < one["score"] <= 1 for one in content["annotations"])


def test_probabilities_are_of_the_classes_that_are_written(photos: Path, tmp_path: Path) -> None:
    for name, settings in (("whole", {}), ("sliding", {"mode": "sliding", "window": 8, "stride": 5})):
        found = predictor(restored(tmp_path, **settings))  # type: ignore[arg-type]
        predicted(found, opened(photos, found), tmp_path / name, kinds=("ids", "probabilities"))
        values = np.load(tmp_path / name / "probabilities" / "0.png.npy")
        assert values.shape == (3, 12, 16) and values.dtype == np.float16
        assert np.allclose(values.sum(0, dtype=np.float32), 1, atol=2e-3)
        ids = cv2.imread(str(tmp_path / name / "ids" / "0.png.png"), cv2.IMREAD_UNCHANGED)
        assert (values.argmax(0) == ids).mean() > 0.99


@pytest.mark.parametrize("kinds", [("ids",), ("ids", "probabilities")])
def test_pixels_that_are_less_sure_than_asked_have_no_class(
    photos: Path, tmp_path: Path, kinds: tuple[str, ...]
) -> None:
    plain, strict = (predictor(restored(tmp_path), threshold=threshold) for threshold in (0.0, 0.9))
    assert "threshold" not in plain.made_by() and strict.made_by()["threshold"] == 0.9
    image = opened(photos, plain).reader.open_file(photos / "0.png")[0][None]
    seen = plain.see(image, sure=True)
    assert seen.conf is not None
    wanted = np.where(seen.conf[0] < 0.9, IGNORE_INDEX, seen.ids[0])
    predicted(strict, opened(photos, strict), tmp_path / "strict", kinds=kinds)
    ids = cv2.imread(str(tmp_path / "strict" / "ids" / "0.png.png"), cv2.IMREAD_UNCHANGED)
    assert 0 < (ids == IGNORE_INDEX).sum() < ids.size and np.array_equal(ids, wanted)


def test_samples_have_the_pictures_of_their_keys(tmp_path: Path) -> None:
    shards = ShardSet.open(write_tiny(tmp_path / "shards"))
    found = predictor(restored(tmp_path))
    source = Samples(shards, shards.rows("train")[[4, 1, 9]], found.task)
    outcome = predicted(found, source, tmp_path / "out", kinds=("ids", "coco"))
    assert outcome.images == 3 and outcome.failed == 0
    assert sorted(path.name for path in (tmp_path / "out" / "ids").iterdir()) == [
        "t001.png",
        "t004.png",
        "t009.png",
    ]
    content = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert [one["file_name"] for one in content["images"]] == ["t004", "t001", "t009"]


def test_a_damaged_sample_is_listed_and_the_others_are_done(tmp_path: Path) -> None:
    root = write_tiny(tmp_path / "shards")
    shards = ShardSet.open(root)
    entry = shards.index[int(shards.rows("train")[1])]
    path = root / shards.shard_names[entry["shard"]]
    data = bytearray(path.read_bytes())
    start = int(entry["image_offset"])
    data[start : start + 40] = bytes(40)
    path.write_bytes(bytes(data))
    found = predictor(restored(tmp_path))
    source = Samples(ShardSet.open(root), shards.rows("train")[:4], found.task)
    outcome = predicted(found, source, tmp_path / "out", kinds=("ids",))
    assert outcome.failed == 1 and "t001" in outcome.problems[0]
    assert len(list((tmp_path / "out" / "ids").iterdir())) == 3


def test_a_list_names_paths_or_keys(photos: Path, tmp_path: Path) -> None:
    inputs = find_inputs(photos, None, tmp_path / "out", 1)
    (tmp_path / "list.txt").write_text("deep/5\n0.png\n")
    assert [str(one) for one in only(inputs, tmp_path / "list.txt")] == ["0.png", "deep/5.png"]


def test_large_pictures_are_left_to_the_process_that_predicts(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = predictor(restored(tmp_path), workers=1)
    predicted(found, opened(photos, found), tmp_path / "by workers")
    monkeypatch.setattr(sources, "LARGE", 195)
    source = opened(photos, found)
    assert source.read(range(7)).late == [2, 4]
    late: list[int] = []
    read = Files.late
    monkeypatch.setattr(Files, "late", lambda self, number: (late.append(number), read(self, number))[1])
    predicted(found, source, tmp_path / "late")
    assert late == [2, 4] and files_of(tmp_path / "late") == files_of(tmp_path / "by workers")
