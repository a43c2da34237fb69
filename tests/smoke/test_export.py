"""`unimatch export`: a run becomes a file, which is checked, quantised and used without unimatch."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unimatch
from tests.conftest import ROOT, tiny_run_text
from tests.support.small_net import small_net
from unimatch import config as config_io
from unimatch import export
from unimatch.engine import build, checkpoint
from unimatch.engine.restore import restore
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_folder import start_run_folder
from unimatch.engine.runtime import Runtime
from unimatch.errors import UserError
from unimatch.exporting.images import Samples
from unimatch.shardset.archive import ShardSet

SCRIPT = ("--format", "torchscript")


@pytest.fixture(scope="module")
def patched() -> object:
    """Every network that is built is the small one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "build_segmentor", lambda config, classes, dates: small_net(3, classes, dates))
        yield patch


@pytest.fixture(scope="module")
def run(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory, patched: object) -> Path:
    """A run folder of a network that was not trained."""
    out = tmp_path_factory.mktemp("export") / "run"
    config = config_io.from_text(tiny_run_text(out, tiny_shards), RunConfig, ["method={name: supervised}"])
    start_run_folder(config, resume=False)
    taxonomy = ShardSet.open(tiny_shards).taxonomy
    state = checkpoint.TrainerState(7, "miou", None, None, taxonomy.to_json(), {}, 1, total=7)
    net = small_net(3, taxonomy.num_classes)
    checkpoint.save_weights(out, state, {checkpoint.NETWORK: net.state_dict()})
    return out


def exported(run: Path, out: Path, *arguments: str) -> Path:
    export.main([str(run), "--out", str(out), "--turns", "1", *arguments])
    return out


@pytest.fixture(scope="module")
def onnx_file(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported once, which takes seconds; checked on the run's data.val."""
    pytest.importorskip("onnxruntime", reason="the extra onnx: pip install unimatch[onnx]")
    return exported(run, tmp_path_factory.mktemp("onnx") / "net.onnx")


def test_a_file_of_onnx_is_used_without_unimatch(
    run: Path,
    onnx_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_file)
    about = json.loads(session.get_modelmeta().custom_metadata_map["unimatch"])
    trained = unimatch.load(run)
    assert about["classes"] == list(trained.classes) and about["step"] == 7
    assert about["input"]["layout"] == ["batch", "height", "width", "channel"]

    photo = np.random.default_rng(1).integers(0, 255, (30, 41, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    script = ROOT / "tools" / "predict_onnx.py"
    files = (onnx_file, tmp_path / "photo.png", tmp_path / "o.png")
    monkeypatch.setattr(sys, "argv", [script.name, *map(str, files)])
    runpy.run_path(str(script))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "o.png")), trained.predict(photo))
    assert trained.classes[trained.predict(photo)[0, 0]] in capsys.readouterr().out
    assert len([line for line in script.read_text().split('"""')[2].splitlines() if line]) <= 22


def test_eight_bits_are_calibrated_with_unlabelled_images(
    run: Path,
    onnx_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import onnx

    suffix, _, read = export.FORMATS["onnx"]
    copied = lambda graph, image, sizes, path, told: shutil.copy(onnx_file, path)  # noqa: E731
    monkeypatch.setitem(export.FORMATS, "onnx", (suffix, copied, read))
    file = exported(run, tmp_path / "net.onnx", "--int8", "--calibration", "3")
    said = capsys.readouterr().out
    assert "miou: " in said and "of the run's own predictions" in said
    kinds = {node.op_type for node in onnx.load(file).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert "unimatch" in {one.key for one in onnx.load(file).metadata_props}
    with pytest.raises(UserError, match="net.onnx exists"):
        exported(run, file)


def test_unlabelled_images_are_taken_from_all_over_their_list(run: Path, tiny_shards: Path) -> None:
    runtime = Runtime()
    samples = Samples(restore(run, "last", None, runtime), None, None, runtime)
    listed = unimatch.open_shards(tiny_shards, str(tiny_shards.parent / "split" / "unlabeled.txt"))
    given = list(samples.unlabeled(2))
    assert [one.shape[0] for one in given] == [1, 1]
    for one, place in zip(given, (0, len(listed) - 1), strict=True):
        np.testing.assert_array_equal(one[0], listed[place].image)


def test_files_instead_of_samples_and_half_precision(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    for number, size in enumerate(((20, 30), (25, 18))):
        photo = np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(photo).save(tmp_path / "photos" / f"{number}.png")
    exported(run, tmp_path / "net.pt", *SCRIPT, "--fp16", "--images", str(tmp_path / "photos"))
    said = capsys.readouterr().out
    assert "2 images: " in said and "miou" not in said
    inside = torch.jit.load(tmp_path / "net.pt")  # type: ignore[no-untyped-call]
    assert {one.dtype for one in inside.parameters()} == {torch.float16}


def test_a_file_that_disagrees_is_not_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suffix, write, read = export.FORMATS["torchscript"]

    def wrong(path: Path) -> object:
        return lambda image: (1 - read(path)(image)[0] // 255, read(path)(image)[1])

    monkeypatch.setitem(export.FORMATS, "torchscript", (suffix, write, wrong))
    with pytest.raises(UserError, match="another class than the run for .*was not kept"):
        exported(run, tmp_path / "net.pt", *SCRIPT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--out", "a.pt"], "a file of --format onnx ends on .onnx"),
        (["--out", "a.pt", *SCRIPT, "--int8"], "--int8 is ONNX Runtime's"),
        (["--out", "no/a.pt2", "--format", "torch.export"], "no is not a folder"),
        (
            ["--out", "a.pt", "--format", "torchscript", "--images", "x", "--data", "val"],
            "leave one of them out",
        ),
        (["--out", "a.pt", *SCRIPT, "--calibration", "0"], "at least 1"),
    ],
)
def test_what_cannot_be_is_said_at_once(arguments: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        export.main(["runs/none", *arguments])


def test_without_the_shards_pictures_of_a_folder_are_asked_for(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone.*--images checks the file on pictures of a folder instead"):
        exported(run, tmp_path / "net.pt", *SCRIPT, "--shards", str(tmp_path / "gone"))


def test_windows_are_no_part_of_a_file_and_patches_fix_the_size(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (run / "config.yaml").read_text()
    monkeypatch.setattr(
        build, "build_segmentor", lambda config, classes, dates: small_net(3, classes, patch=8)
    )
    sliding = tmp_path / "run"
    sliding.mkdir()
    (sliding / "checkpoints").symlink_to(run / "checkpoints")
    (sliding / "config.yaml").write_text(
        text.replace("mode: whole", "mode: sliding").replace("border: cut", "border: inside")
    )
    with pytest.raises(UserError, match="mode of this run is sliding.*--mode whole"):
        exported(sliding, tmp_path / "net.pt", *SCRIPT)
    exported(sliding, tmp_path / "net.pt", *SCRIPT, "--mode", "whole")
    said = capsys.readouterr().out
    assert "of 64x48 pixels, no other size: " in said and "100.000 %" in said
