"""A tiny medical run from end to end: train, evaluate, plan, predict volumes and slices."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import h5py
import nibabel
import numpy as np
import pytest

from tests.support.medical_set import scan, write_medical_run
from unimatch import evaluate, plan, predict, prelabel, rank, train
from unimatch.codecs.sheet import BREAK, GAP, LINE, MARGIN, TILE
from unimatch.engine.log import read_metrics
from unimatch.errors import UserError


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder."""
    path = write_medical_run(tmp_path_factory.mktemp("medical"))
    train.main(["--config", str(path)])
    return path.parent / "run"


def test_training_logs_and_evaluates_volumes(finished: Path) -> None:
    lines = read_metrics(finished, "train")
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert sum(line["loss_x"] for line in lines[-5:]) < sum(line["loss_x"] for line in lines[:5])
    last = read_metrics(finished, "eval")[-1]
    assert set(last["dice"]) == {"ring", "disc"} and 0 <= last["mean_dice"] <= 1


def test_evaluate_prints_every_class(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.main([str(finished), "--workers", "0", "--json", str(tmp_path / "e.json")])
    found = json.loads((tmp_path / "e.json").read_text())
    last = read_metrics(finished, "eval")[-1]
    assert found["mean_dice"] == last["mean_dice"] and found["hd95"] == last["hd95"]
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("ring", "disc", "mean_dice", "hd95"))


def test_plan_knows_the_network(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--devices", "2", "--device-memory", "16GB"]
    plan.main(["--config", str(finished / "config.yaml"), *arguments])
    assert "1.81 M parameters" in capsys.readouterr().out


def test_predict_writes_volumes_on_the_grid_of_the_input(finished: Path, tmp_path: Path) -> None:
    images, _ = scan(7, 9, 50, 37)
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "deep").mkdir(parents=True)
    with h5py.File(source / "a.h5", "w") as file:
        file["image"] = (images / 65535).astype(np.float32)
    affine = np.diag([1.25, 1.25, 10, 1])
    nibabel.save(nibabel.Nifti1Image(images.T.astype(np.float32), affine), source / "deep" / "a.nii.gz")
    assert cv2.imwrite(str(source / "slice.png"), images[4])
    predict.main([str(finished), "--images", str(source), "--out", str(out)])
    with h5py.File(out / "ids" / "a.h5") as file:
        ids = file["label"][()]
    assert ids.shape == images.shape and ids.dtype == np.uint8 and len(np.unique(ids)) > 1
    written = nibabel.load(out / "ids" / "deep" / "a.nii.gz")
    assert written.shape == (37, 50, 9)
    np.testing.assert_array_equal(written.affine, affine)
    # NIfTI values are stretched to the volume's range, which changes little here.
    assert np.mean(ids == np.asarray(written.dataobj).T) > 0.95
    single = cv2.imread(str(out / "ids" / "slice.png.png"), cv2.IMREAD_UNCHANGED)
    assert np.mean(single == ids[4]) > 0.999
    sheet = cv2.imread(str(out / "overlays" / "deep" / "a.nii.gz.png"))
    side = TILE * 37 // 50  # nine slices of 50 x 37
    assert 0 <= sheet.shape[1] - 3 * (side + GAP) < 3 * BREAK + 2 * MARGIN
    assert 0 <= sheet.shape[0] - 3 * (TILE + LINE) < 3 * BREAK + LINE + 2 * MARGIN
    colours = cv2.imread(str(out / "colors" / "slice.png.png"))
    assert colours.shape == (50, 37, 3) and not (out / "colors" / "a.h5.png").exists()


def test_volumes_are_ranked_as_a_whole_and_only_pictures_prelabelled(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name, slices in (("a", 9), ("b", 2)):
        with h5py.File(source / f"{name}.h5", "w") as file:
            file["image"] = scan(slices, slices, 50, 37)[0]
    rank.main([str(finished), "--images", str(source), "--count", "1", "--out", str(out)])
    assert (out / "chosen.txt").read_text() in ("a.h5\n", "b.h5\n")
    assert len((out / "ranking.csv").read_text().splitlines()) == 3
    options = ["--format", "labelme", "--out", str(out), "--threshold", "0", "--images"]
    with pytest.raises(UserError, match=r"a.h5 is a volume, which these tools do not show"):
        prelabel.main([str(finished), *options, str(source / "a.h5")])
    assert cv2.imwrite(str(tmp_path / "slice.png"), scan(7, 9, 50, 37)[0][4])
    prelabel.main([str(finished), *options, str(tmp_path / "slice.png")])
    assert (out / "slice.json").exists()
    assert "100.0% of the pixels have a class" in capsys.readouterr().out
    rank.main(
        [str(finished), "--data", "val", "--count", "1", "--workers", "0", "--out", str(tmp_path / "v")]
    )
    assert "slices of" in capsys.readouterr().out


def test_unreadable_volumes_are_told_and_the_others_written(finished: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "bad.nii.gz").write_bytes(b"no gzip")
    (source / "bad.h5").write_bytes(b"no hdf5")
    assert cv2.imwrite(str(source / "colour.png"), np.zeros((20, 20, 3), np.uint8))
    with h5py.File(source / "good.h5", "w") as file:
        file["image"] = np.zeros((2, 20, 20), np.uint8)
    with pytest.raises(UserError, match="3 of 4 images could not be read") as error:
        predict.main([str(finished), "--images", str(source), "--out", str(tmp_path / "out")])
    for words in (
        "bad.nii.gz: no NIfTI file",
        "bad.h5#image: no HDF5 file",
        "colour.png: a colour or palette picture",
    ):
        assert words in str(error.value)
    assert (tmp_path / "out" / "ids" / "good.h5").is_file()


def test_sliding_windows_have_no_meaning_for_slices(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mode: task medical resizes images to the crop"):
        evaluate.main([str(finished), "--mode", "sliding", "--workers", "0"])
