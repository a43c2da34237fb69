"""The options of `unimatch predict`: which go together, and what is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from unimatch import predict
from unimatch.codecs.prepared import Preparation
from unimatch.errors import UserError
from unimatch.predicting.inputs import Inputs


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("", "give --images for files, or --data and --shards for samples"),
        ("--images a --data b --out c", "give --images for files, or --data and --shards"),
        ("--images a --shards b --out c", "give --images for files, or --data and --shards"),
        ("--images a", "give --out for a folder of results, or --labels for a label set"),
        ("--images a --out b --labels c", "give --out for a folder of results, or --labels"),
        ("--images a --labels c", "--images is for --out: leave it out beside --labels"),
        ("--data a --labels b --write ids", "--write is for --out: leave it out beside --labels"),
        ("--data a --labels b --alpha 0.1", "--alpha is for --out: leave it out beside --labels"),
        ("--data a --out b --stems", "--stems is for files: leave it out beside --data and --shards"),
        ("--shards a --out b --only c", "--only is for files: leave it out beside --data and --shards"),
        ("--data a --out b --second c", "--second is for files"),
        ("--images a --out b --batch 0", "--batch must be at least 1, found 0"),
        ("--images a --out b --workers -1", "--workers must be at least 0, found -1"),
        ("--images a --out b --scales 1 0", "--scales must be above 0, found 0"),
        ("--images a --out b --threshold 1", "--threshold must be from 0 to below 1, found 1"),
        ("--images a --out b --alpha 2", "--alpha must be from 0 to 1, found 2"),
        ("--images a --out b --write masks", "invalid choice: 'masks'"),
    ],
)
def test_options_that_do_not_go_together(arguments: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        predict.arguments(["run", *arguments.split()])


def test_files_come_alone_and_samples_by_fours() -> None:
    files = predict.arguments(["run", "--images", "a", "--out", "b"])
    assert files.batch == 1 and files.write == ["ids", "colors", "overlays"] and files.others == []
    assert predict.arguments(["run", "--shards", "a", "--labels", "b"]).batch == 4
    asked = predict.arguments(["run", "--data", "a", "--out", "b", "--batch", "8", "--with", "c", "d"])
    assert asked.batch == 8 and asked.others == [Path("c"), Path("d")]


def test_how_files_are_read_is_told() -> None:
    inputs = Inputs([Path("in")], [Path("a.nii.gz")], [])
    known = Preparation(downscale=2)
    told = list(predict.how_read(Path("run"), known, known, inputs))
    assert "1/2 of their width and height" in told[0]
    assert "axcodes SAR" in told[1] and "give --axcodes" in told[1]
    (text,) = predict.how_read(Path("run"), None, Preparation(), Inputs([Path("in")], [Path("a.png")], []))
    assert "does not say what packing did" in text
