"""Released checkpoints through the commands: imported, used, exported; and wrong files."""

from __future__ import annotations

import argparse
import io
import shlex
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

import unimatch
from tests.conftest import tiny_run_text
from tests.support import tiny_encoder
from tests.support.folder_source import RECIPES
from tests.support.narrow import narrow_networks
from tests.unit.models.test_released import NETWORKS, hollow, parts, random_state
from unimatch import compare, evaluate, export_weights, import_weights, plan, predict, train
from unimatch.codecs.encode import png
from unimatch.codecs.prepared import Preparation
from unimatch.config import load as load_config
from unimatch.config import plain
from unimatch.engine import checkpoint
from unimatch.engine.run_config import RunConfig
from unimatch.errors import UserError
from unimatch.models import released
from unimatch.models.segmentor import Segmentor, build_segmentor
from unimatch.packing.recipe import Recipe
from unimatch.shardset.archive import ShardSet

# Of each published network: the configuration that describes it, settings, and the recipe of its classes.
RUNS = {
    "natural R50": ("base/pascal", ["model.encoder.name=resnet50s"], "pascal"),
    "natural R101": ("base/cityscapes", ["model.encoder.name=resnet101s"], "cityscapes"),
    "natural Xception-65": ("base/coco", [], "coco"),
    "change DeepLabv3+ R50": ("base/levir", [], "levir"),
    "change DeepLabv3+ R101": ("base/whu", ["model.encoder.name=resnet101s"], "whu"),
    "change PSPNet R50": (
        "base/levir",
        ["model.head={name: pspnet}", "model.encoder.output_stride=8"],
        "levir",
    ),
    "medical UNet": ("base/acdc", [], "acdc"),
}


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow_networks(monkeypatch)


def save_released(path: Path, network: str, state: dict[str, Tensor] | None = None) -> None:
    """A file as the released training script writes it, of our tensors, or of random ones."""
    theirs = released.to_released(state or random_state(hollow(network)), *parts(network))
    model = {f"module.{key}": value for key, value in theirs.items()}
    torch.save({"model": model, "epoch": 79, "previous_best": np.float64(75.2)}, path)


def imported(path: Path, network: str, out: Path, *options: str) -> None:
    config, settings, recipe = RUNS[network]
    changes = [part for one in settings for part in ("--set", one)]
    import_weights.main(
        [str(path), "--config", config, *changes, "--out", str(out), "--classes", recipe, *options]
    )


def literal_input(image: np.ndarray, net: Segmentor) -> Tensor:
    """float64: what the network sees of an image: normalised as ImageNet's, or a slice resized to 256."""
    values = torch.from_numpy(image).double() / 255
    if image.ndim == 2:
        return F.interpolate(values[None, None], (256, 256), mode="bilinear")
    mean, std = (torch.tensor(one, dtype=torch.float64) for one in (net.encoder.mean, net.encoder.std))
    return ((values - mean) / std).movedim(-1, -3)[None]


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[str, dict[str, Tensor], np.ndarray, Tensor]:
    """A published network, random tensors of it, an image, and the logits by hand, in float64.

    The classifier's biases make all classes equally likely: with others the same one wins everywhere.
    """
    network = request.param
    dates, grey = NETWORKS[network][2], "in_channels: 1" in NETWORKS[network][0]
    shape = (48, 64) if grey else (48, 64, 3) if dates == 1 else (2, 48, 64, 3)
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    net, state = hollow(network), random_state(hollow(network))
    net.load_state_dict(state, assign=True)
    with torch.no_grad():
        logits = net.double().eval()(literal_input(image, net))["logits"]
    bias = next(key for key in state if key.endswith("classifier.bias"))
    centred = (state[bias] - logits.mean((0, 2, 3))).float()
    logits += (centred.double() - state[bias].double())[:, None, None]
    if grey:
        logits = F.interpolate(logits, shape, mode="bilinear")
    return network, {**state, bias: centred}, image, logits[0]


def test_round_trip_and_predictions(
    case: tuple[str, dict[str, Tensor], np.ndarray, Tensor],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Bits in, bits out; and the run predicts what the network does that was built from the same tensors."""
    network, state, image, logits = case
    save_released(tmp_path / "w.pth", network, state)
    imported(tmp_path / "w.pth", network, tmp_path / "run")
    assert "w.pth (sha256 " in capsys.readouterr().out
    saved = load_file(tmp_path / "run" / "last" / "model.safetensors")
    assert saved.keys() == state.keys() and all(torch.equal(saved[key], state[key]) for key in state)

    export_weights.main([str(tmp_path / "run"), "--out", str(tmp_path / "back.pth")])
    first, second = (
        torch.load(tmp_path / name, weights_only=name == "back.pth")["model"]
        for name in ("w.pth", "back.pth")
    )
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)

    run = unimatch.load(tmp_path / "run")
    predicted = torch.from_numpy(run.predict(image))
    net = hollow(network)
    net.load_state_dict(state, assign=True)
    net.eval().to(memory_format=torch.channels_last)
    batch = torch.from_numpy(
        image[None] if image.ndim > 2 else 257 * image[None, ..., None].astype(np.uint16)
    )
    with torch.no_grad():
        assert torch.equal(predicted, run.task.predict(net, batch)[0]), "the same tensors, the same bits"
    # By hand in float64 every pixel is equal, but where two classes are closer than float32 can tell.
    best, second_best = logits.topk(2, dim=0).values
    sure = best - second_best > 1e-5 * logits.abs().max()
    assert len(logits.argmax(0).unique()) >= min(len(logits), 15) and sure.float().mean() > 0.99
    assert torch.equal(predicted[sure], logits.argmax(0)[sure].to(torch.uint8))


def test_weights_with_our_names_go_into_one_file(tmp_path: Path) -> None:
    state = random_state(hollow("medical UNet"))
    save_released(tmp_path / "w.pth", "medical UNet", state)
    imported(tmp_path / "w.pth", "medical UNet", tmp_path / "run")
    recipe = plain(load_config(RECIPES / "acdc.yaml", Recipe))
    prepared = checkpoint.load_state(checkpoint.find(tmp_path / "run", "last")).prepared
    assert prepared is not None and prepared == Preparation.of(recipe).to_json(), "as predict prepares images"
    export_weights.main([str(tmp_path / "run"), "--format", "ours", "--out", str(tmp_path / "o.safetensors")])
    found = load_file(tmp_path / "o.safetensors")
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


def test_all_commands_take_an_imported_run(
    tmp_path: Path, tiny_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run's own weights imported: the same figures; and a training that starts from them."""
    text = tiny_run_text(tmp_path / "trained", tiny_shards).replace("test_efficientnet", tiny_encoder.NAME)
    (tmp_path / "run.yaml").write_text(text.replace("{name: deeplabv3plus, channels: 32}", "{name: linear}"))
    config = ["--config", str(tmp_path / "run.yaml")]
    train.main([*config, "--set", "schedule.steps=4"])
    weights = tmp_path / "trained" / "last" / "model.safetensors"
    import_weights.main([str(weights), *config, "--out", str(tmp_path / "run"), "--evaluate"])
    assert "miou" in capsys.readouterr().out
    evaluate.main([str(tmp_path / "run"), "--workers", "0"])
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png(np.zeros((48, 64, 3), np.uint8)))
    predict.main(
        [str(tmp_path / "run"), "--images", str(tmp_path / "images"), "--out", str(tmp_path / "predicted")]
    )
    assert (tmp_path / "predicted" / "ids" / "a.png.png").exists()
    compare.main([str(tmp_path / "run"), str(tmp_path / "trained"), "--out", str(tmp_path / "compared")])
    rows = (tmp_path / "compared" / "summary.md").read_text().splitlines()
    figures = [row.split("|")[3] for row in rows if row.startswith(("| run |", "| trained |"))][-2:]
    assert figures[0] == figures[1]
    own = str(tmp_path / "run" / "config.yaml")
    plan.main(["--config", own, "--devices", "1", "--device-memory", "8GB"])
    further = [f"out={tmp_path / 'on'}", f"model.weights=file:{weights}", "schedule.steps=1"]
    train.main([*config, *(part for one in further for part in ("--set", one))])
    assert "whole network: " in capsys.readouterr().out
    with pytest.raises(UserError, match="holds weights only: training cannot resume from it"):
        train.main(["--config", own, "--resume"])


def test_an_imported_run_that_was_never_evaluated(
    tmp_path: Path, tiny_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It can be evaluated; to compare it, the command is told that does what is missing."""
    (tmp_path / "run.yaml").write_text(tiny_run_text(tmp_path / "unused", tiny_shards))
    config = load_config(tmp_path / "run.yaml", RunConfig)
    weights = tmp_path / "my weights.safetensors"
    save_file(
        build_segmentor(config.model, ShardSet.open(tiny_shards).taxonomy.num_classes).state_dict(), weights
    )
    command = [str(weights), "--config", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "run")]
    with pytest.raises(UserError, match="nowhere: neither a subset of .* nor a key-list file"):
        import_weights.main([*command, "--set", "data.val=nowhere", "--evaluate"])
    assert not (tmp_path / "run").exists()
    import_weights.main(command)
    with pytest.raises(UserError) as caught:
        compare.main([str(tmp_path / "run"), "--out", str(tmp_path / "compared")])
    told = str(caught.value)
    assert "was imported and never evaluated, so there are no figures to compare; import it again:" in told
    capsys.readouterr()
    evaluate.main([str(tmp_path / "run"), "--workers", "0"])
    figures = capsys.readouterr().out.splitlines()[1:]
    command = shlex.split(told.splitlines()[-1])
    assert command[:2] == ["unimatch", "import"] and command[-1] == "FOLDER"
    import_weights.main([*command[2:-1], str(tmp_path / "again")])
    assert capsys.readouterr().out.splitlines()[-len(figures) :] == figures
    compare.main([str(tmp_path / "again"), "--out", str(tmp_path / "compared"), "--images", "1"])
    assert "| again | 0 |" in (tmp_path / "compared" / "summary.md").read_text()


def test_an_imported_run_without_its_data(tmp_path: Path) -> None:
    """It predicts; what needs samples says that they are missing."""
    save_released(tmp_path / "w.pth", "medical UNet")
    imported(
        tmp_path / "w.pth", "medical UNet", tmp_path / "run", "--set", f"data.shards={tmp_path / 'none'}"
    )
    assert unimatch.load(tmp_path / "run").predict(np.zeros((48, 64), np.uint8)).shape == (48, 64)
    own = str(tmp_path / "run" / "config.yaml")
    for command, arguments in (
        (evaluate.main, [str(tmp_path / "run")]),
        (plan.main, ["--config", own, "--devices", "1", "--device-memory", "8GB"]),
        (import_weights.main, [str(tmp_path / "w.pth"), "--config", own, "--out", str(tmp_path / "x")]),
    ):
        with pytest.raises(UserError, match="none: no such folder; make the shards first"):
            command(arguments)
    with pytest.raises(UserError, match="was imported and never evaluated"):
        compare.main([str(tmp_path / "run"), "--out", str(tmp_path / "compared")])


@cache
def released_r50() -> dict[str, Tensor]:
    return released.to_released(random_state(hollow("natural R50")), "resnet50s", "deeplabv3plus")


def broken(path: Path, kind: str) -> None:
    """A file that is no network."""
    good = released_r50()
    file = io.BytesIO()
    torch.save(good, file)
    data = file.getvalue()
    if kind == "half":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("404: not found")
    elif kind == "page":
        path.write_text("<html>404</html>")
    elif kind == "pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    elif kind == "safetensors":
        path.write_bytes(data)  # a PyTorch file of that name
    elif kind == "settings":
        torch.save({"model": good, "args": argparse.Namespace(lr=0.1)}, path)
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "a")
    elif kind == "code":
        torch.save({"model": good, "args": sys.exit}, path)
    else:
        contents: dict[str, Any] = {
            "half of the tensors": dict(list(good.items())[: len(good) // 2]),
            "no tensors": {"epoch": 3},
            "a list": [1, 2],
            "an optimizer": {"optimizer": {"state": {}, "param_groups": []}},
            "an encoder": {key: value for key, value in good.items() if key.startswith("backbone.")},
            "another shape": {**good, "reduce.0.weight": torch.zeros(24, 32, 1, 1)},
            "a tensor more": {**good, "extra.weight": torch.zeros(1)},
            "another head": {key.replace("head.b0", "head.b9"): value for key, value in good.items()},
        }
        torch.save(contents[kind], path)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("half", "is damaged"),
        ("empty", "is damaged"),
        ("text", "is damaged .no whole PyTorch file.; fetch or save it again"),
        ("page", "is a web page, as a download that failed leaves one"),
        ("pointer", "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"),
        ("safetensors", "is damaged .*header too large"),
        ("zip", "is damaged"),
        ("code", r"holds more than tensors .sys.exit., which is not opened for safety. Save the state_dict"),
        ("settings", r"holds more than tensors .argparse.Namespace., which is not opened for safety"),
        ("half of the tensors", "wrong tensors \\(.* missing"),
        ("no tensors", "found 0 tensors and 1 other entries"),
        ("a list", "expected named tensors, found list"),
        ("an optimizer", "found 0 tensors"),
        ("an encoder", "missing: head.aspp.*It has no tensor of a head; .*model.encoder.weights=file:"),
        ("another shape", r"1 of another shape: head.reduce.0.weight \(24, 32, 1, 1\) instead of \(48,"),
        ("a tensor more", "1 unexpected: extra.weight"),
        ("another head", "missing: head.aspp.point"),
    ],
)
def test_a_file_that_is_no_network_says_what_it_is(kind: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    broken(path, kind)
    with pytest.raises(UserError, match=rf"{path.name}.*{told}"):
        imported(path, "natural R50", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_wrong_networks_and_places(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    save_released(path, "natural R50")
    with pytest.raises(
        UserError, match="released checkpoint with encoder resnet50s.*describes encoder resnet101s"
    ):
        imported(path, "natural R101", tmp_path / "run")
    with pytest.raises(UserError, match="21 classes.*describes .*2 classes"):
        imported(path, "change DeepLabv3+ R50", tmp_path / "run")
    with pytest.raises(UserError, match="head deeplabv3plus, 21 classes.*head pspnet, 2 classes"):
        imported(path, "change PSPNet R50", tmp_path / "run")
    with pytest.raises(UserError, match="images of 3 channel.*images of 1 channel"):
        imported(path, "medical UNet", tmp_path / "run")
    options = [
        "--config",
        "base/pascal",
        "--set",
        "model.encoder.name=resnet50s",
        "--out",
        str(tmp_path / "run"),
    ]
    with pytest.raises(UserError, match="none.pth is not a file"):
        import_weights.main([str(tmp_path / "none.pth"), *options])
    with pytest.raises(UserError, match="set data.shards, or, only to predict, name a recipe"):
        import_weights.main([str(path), *options, "--set", f"data.shards={tmp_path / 'none'}"])
    with pytest.raises(UserError, match="--classes pascl: no such file, nor a recipe"):
        import_weights.main([str(path), *options, "--classes", "pascl"])
    with pytest.raises(UserError, match="--classes camvid: this recipe reads the classes from classes.txt"):
        import_weights.main([str(path), *options, "--classes", "camvid"])
    with pytest.raises(UserError, match="--evaluate needs the shards"):
        import_weights.main([str(path), *options, "--classes", "pascal", "--evaluate"])
    assert not (tmp_path / "run").exists()
    import_weights.main([str(path), *options, "--classes", "pascal"])
    with pytest.raises(UserError, match="already holds a run: name another folder with --out"):
        import_weights.main([str(path), *options, "--classes", "pascal"])
    run = str(tmp_path / "run")
    for out, told in (("w.pth", "exists"), ("w.bin", "must end on .pth or"), ("no/w.pth", "is not a folder")):
        with pytest.raises(UserError, match=told):
            export_weights.main([run, "--out", str(tmp_path / out)])
    with pytest.raises(UserError, match="is not a run folder"):
        export_weights.main([str(tmp_path), "--out", str(tmp_path / "x.pth")])
    with pytest.raises(UserError, match="has no checkpoint 'best'"):
        export_weights.main([run, "--checkpoint", "best", "--out", str(tmp_path / "x.pth")])


def test_a_network_that_was_not_published_has_no_released_names(tmp_path: Path, tiny_shards: Path) -> None:
    (tmp_path / "run.yaml").write_text(tiny_run_text(tmp_path / "run", tiny_shards))
    train.main(["--config", str(tmp_path / "run.yaml"), "--set", "schedule.steps=1"])
    with pytest.raises(UserError, match="no released network with encoder test_efficientnet and head"):
        export_weights.main([str(tmp_path / "run"), "--out", str(tmp_path / "x.pth")])
    assert not (tmp_path / "x.pth").exists()
    assert checkpoint.load_state(checkpoint.find(tmp_path / "run", "last")).total == 1
