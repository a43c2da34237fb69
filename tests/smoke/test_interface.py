"""What `import unimatch` offers, used as in a notebook; the figures are those of the commands."""

from __future__ import annotations

from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest
import torch

import unimatch
from tests.conftest import ROOT, tiny_run_text
from tests.support.change_set import write_change_run
from tests.support.medical_set import scan, write_medical_run
from unimatch import config as config_io
from unimatch import predict
from unimatch.engine.log import read_metrics
from unimatch.engine.run_config import RunConfig
from unimatch.errors import DataError, UserError

SHORT = ("schedule.steps=4", "evaluation.every_steps=2", "checkpoint.every_steps=2", "data.workers=0")
SHORT += ("log.pictures_every_steps=0",)


@pytest.fixture(scope="module")
def text(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of photographs as YAML."""
    out = tmp_path_factory.mktemp("natural") / "run"
    return tiny_run_text(out, tiny_shards)


@pytest.fixture(scope="module")
def natural(text: str) -> Path:
    return unimatch.fit(text, *SHORT)


@pytest.fixture(scope="module")
def change(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unimatch.fit(write_change_run(tmp_path_factory.mktemp("change")), *SHORT)


@pytest.fixture(scope="module")
def medical(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unimatch.fit(str(write_medical_run(tmp_path_factory.mktemp("medical"))), *SHORT)


def images(folder: Path, **arrays: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        cv2.imwrite(str(folder / f"{name}.png"), array if array.ndim == 2 else array[..., ::-1])


def predicted(run: Path, tmp_path: Path, *arguments: str) -> dict[str, np.ndarray]:
    """What `unimatch predict` writes for tmp_path/in, by file name."""
    predict.main([str(run), "--images", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *arguments])
    return {
        f"{kind}/{path.name.removesuffix('.png')}": cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        for kind in ("ids", "overlays")
        for path in (tmp_path / "out" / kind).glob("*.png")
    }


def test_text_file_and_object_train_the_same_run(natural: Path, text: str, tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    by_file = unimatch.fit(path, *SHORT, f"out={tmp_path / 'file'}")
    config = config_io.load(path, RunConfig, SHORT)
    config.out = tmp_path / "object"
    assert (by_file, unimatch.fit(config)) == (tmp_path / "file", tmp_path / "object")
    losses = [[line["loss"] for line in read_metrics(run, "train")] for run in (natural, by_file, config.out)]
    assert len(losses[0]) == 4 and losses[0] == losses[1] == losses[2]
    # Another precision in the same process; and what is finished is not resumed.
    assert unimatch.fit(config, f"out={tmp_path / 'bf16'}", "precision=bf16", "schedule.steps=1").is_dir()
    assert unimatch.load(config.out).step == 4
    with pytest.raises(UserError, match="already at its last step"):
        unimatch.fit(config, resume=True)


def test_mistakes_are_errors_that_a_program_can_catch(text: str, tmp_path: Path):
    with pytest.raises(UserError, match="methd: unknown key; did you mean 'method'"):
        unimatch.fit(text, "methd.name=fixmatch")
    with pytest.raises(UserError, match="none.yaml: no such file"):
        unimatch.fit(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="is not a run folder"):
        unimatch.load(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        unimatch.open_shards(tmp_path / "none")


def test_a_run_is_loaded_by_its_folder_and_by_a_checkpoint(natural: Path):
    run = unimatch.load(natural)
    assert run.step == 4 and run.config.method.name == "unimatch" and len(run.classes) == len(run.colors) == 8
    places = ["last", "best", "checkpoints/step_00000002", "checkpoints/step_00000004"]
    folders = [unimatch.load(natural / place).folder for place in places]
    assert folders == [unimatch.load(natural, which).folder for which in ("last", "best", 2, "4")]
    assert unimatch.load(natural / "checkpoints" / "step_00000002").step == 2
    with pytest.raises(UserError, match="is a checkpoint itself"):
        unimatch.load(natural / "best", "last")
    with pytest.raises(UserError, match="no checkpoint '3'; choose last, best or a step; steps there: 2, 4"):
        unimatch.load(natural, 3)
    with pytest.raises(UserError, match="has no network 'teacher'; networks there: model"):
        unimatch.load(natural, network="teacher")


def test_arrays_and_files_are_predicted_as_the_command_does(natural: Path, tiny_shards: Path, tmp_path: Path):
    samples = unimatch.open_shards(tiny_shards, "val")
    photo, grey = samples[0].image, samples[1].image[..., 0]
    images(tmp_path / "in", photo=photo, grey=grey)
    files = predicted(natural, tmp_path)
    run = unimatch.load(natural)
    for name, array in (("photo.png", photo), ("grey.png", grey)):
        labels = run.predict(array)
        assert labels.dtype == np.uint8 and np.array_equal(labels, files[f"ids/{name}"])
        assert np.array_equal(labels, run.predict(run.read(tmp_path / "in" / name)))
    shown = run.overlay(photo, run.predict(photo))
    assert np.array_equal(shown[..., ::-1], files["overlays/photo.png"])
    assert np.array_equal(run.predict(grey[..., None]), run.predict(grey))
    with pytest.raises(DataError, match="no.png: is not a picture"):
        (tmp_path / "in" / "no.png").write_bytes(b"text")
        run.read(tmp_path / "in" / "no.png")
    with pytest.raises(UserError, match="reads 1 image.* given 2"):
        run.read("a.png", "b.png")


def test_a_batch_of_any_size_is_what_its_images_are(natural: Path, tiny_shards: Path):
    batch = np.stack([sample.image for sample in unimatch.open_shards(tiny_shards, "val")])
    assert len(batch) > 8  # more than a pass takes
    run = unimatch.load(natural)
    labels = run.predict(batch)
    assert labels.shape == batch.shape[:3]
    single = np.stack([run.predict(image) for image in batch])
    assert (labels != single).mean() < 1e-3  # sums of another order may turn a tie


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((8, 9, 3), np.float32),
        ((8, 9, 3), np.uint16),
        ((8, 9, 4), np.uint8),
        ((2, 8, 9), np.uint8),
        ((9,), np.uint8),
        ((1, 1, 8, 9, 3), np.uint8),
        ((0, 8, 9, 3), np.uint8),
    ],
)
def test_an_array_of_another_kind_is_refused(natural: Path, shape: tuple[int, ...], dtype: type):
    with pytest.raises(UserError) as caught:
        unimatch.load(natural).predict(np.zeros(shape, dtype))
    told = (
        f"reads an image [H, W, 3] of uint8, or several of one size behind another axis; found {list(shape)}"
    )
    assert told in str(caught.value)


def test_pairs(change: Path, tmp_path: Path):
    run = unimatch.load(change)
    sample = unimatch.open_shards(run.config.data.shards, "val")[0]
    assert sample.image.shape == (2, 48, 64, 3)
    images(tmp_path / "in", a=sample.image[0])
    images(tmp_path / "second", a=sample.image[1])
    files = predicted(change, tmp_path, "--second", str(tmp_path / "second"))
    labels = run.predict(sample.image)
    assert np.array_equal(labels, files["ids/a.png"]) and run.classes == ("unchanged", "changed")
    pair = run.read(tmp_path / "in" / "a.png", tmp_path / "second" / "a.png")
    assert np.array_equal(pair, sample.image)
    assert np.array_equal(run.overlay(pair, labels)[..., ::-1], files["overlays/a.png"])
    assert np.array_equal(run.predict(pair[None])[0], labels)
    for wrong in (pair[0], pair[:1], np.concatenate([pair, pair])):
        with pytest.raises(UserError, match=r"reads an image \[2, H, W, 3\] of uint8"):
            run.predict(wrong)
    with pytest.raises(UserError, match="reads 2 image.* given 1"):
        run.read("a.png")
    with pytest.raises(UserError, match="one image at a time"):
        run.overlay(pair[None], labels)


def test_slices_and_volumes(medical: Path, tmp_path: Path):
    run = unimatch.load(medical)
    sample = unimatch.open_shards(run.config.data.shards, "val")[0]
    assert sample.image.ndim == 2
    images(tmp_path / "in", slice=sample.image)
    volume, _ = scan(7, 9, 50, 37)
    nibabel.save(nibabel.Nifti1Image(volume.T.astype(np.float32), np.eye(4)), tmp_path / "in" / "v.nii.gz")
    files = predicted(medical, tmp_path)
    labels = run.predict(sample.image)
    assert np.array_equal(labels, files["ids/slice.png"])
    assert np.array_equal(labels, run.predict(run.read(tmp_path / "in" / "slice.png")))
    read = run.read(tmp_path / "in" / "v.nii.gz")
    assert read.shape == (9, 50, 37, 1) and read.dtype == np.uint16
    written = np.asarray(nibabel.load(tmp_path / "out" / "ids" / "v.nii.gz").dataobj)
    assert np.array_equal(run.predict(read), written.T)
    assert np.array_equal(run.predict(read[..., 0]), written.T)
    # 8 bits mean what the same file would: 255 is white.
    eight = np.round(sample.image / 257).astype(np.uint8)
    assert np.array_equal(run.predict(eight), run.predict(eight.astype(np.uint16) * np.uint16(257)))
    with pytest.raises(UserError, match=r"reads an image \[H, W\] of uint8 or uint16"):
        run.predict(sample.image.astype(np.float32))


def test_samples_by_number_and_by_key(tiny_shards: Path):
    everything = unimatch.open_shards(tiny_shards)
    labeled = unimatch.open_shards(str(tiny_shards), tiny_shards.parent / "split" / "labeled.txt")
    assert everything.subsets == ("train", "val") and (len(everything), len(labeled)) == (50, 6)
    assert set(labeled.keys) < set(everything.keys) and everything.classes == labeled.classes
    sample = labeled[2]
    assert sample.key == labeled.keys[2] and sample.image.shape == (48, 64, 3)
    assert sample.label is not None and sample.label.shape == (48, 64)
    assert {0} <= set(np.unique(sample.label)) <= {*range(len(labeled.classes)), 255}
    again = everything[sample.key]
    assert np.array_equal(again.image, sample.image) and np.array_equal(again.label, sample.label)
    assert labeled[-1].key == labeled.keys[-1]
    assert [one.key for one in labeled] == labeled.keys
    for wrong, error in ((6, IndexError), (-7, IndexError), ("none", KeyError)):
        with pytest.raises(error):
            labeled[wrong]
    loader = torch.utils.data.DataLoader(labeled, batch_size=None, num_workers=0)
    assert len(list(loader)) == 6


def test_the_readmes_example_runs(text: str, tiny_shards: Path, tmp_path: Path, monkeypatch, capsys):
    example = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert len([line for line in example.splitlines() if line]) <= 10
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_run.yaml").write_text(text)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "my").symlink_to(tiny_shards)
    images(tmp_path / "photos", street=np.full((40, 50, 3), 90, np.uint8))
    (tmp_path / "photos" / "street.png").rename(tmp_path / "photos" / "street.jpg")
    assert example.count('"schedule.steps=2000"') == 1
    exec(example.replace('"schedule.steps=2000"', '*short, "out=run"'), {"short": SHORT})
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(str(unimatch.open_shards(tiny_shards).classes))


def test_the_names_are_few_and_typed():
    assert sorted(unimatch.__all__) == ["Run", "Sample", "Samples", "UserError", "fit", "load", "open_shards"]
    assert all(getattr(unimatch, name).__doc__ for name in unimatch.__all__)
    assert set(unimatch.__all__) <= set(dir(unimatch))
    assert (Path(unimatch.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="module 'unimatch' has no attribute 'fitt'"):
        unimatch.fitt  # noqa: B018
