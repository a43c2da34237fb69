"""Bad input through the real commands: one message that says what, where and what to do; nothing hangs."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import tiny_run_text
from tests.support.processes import Processes, data_worker, run
from unimatch import evaluate, predict, train
from unimatch.codecs.encode import jpeg, png
from unimatch.engine.entry import run_entry
from unimatch.shardset.archive import Record, ShardSet, ShardWriter, finish_set
from unimatch.taxonomy import Taxonomy

ROOT = Path(__file__).parents[2]
TAR = "train-00000.tar"
Command = Callable[[list[str]], object]
Refused = Callable[..., str]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Calls a command's main() with arguments; its one message, after checking that it is one."""

    def call(command: Command, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        capfd.readouterr()
        code = run_entry(command)
        return only_message(code, capfd.readouterr().err)

    return call


def only_message(code: int, err: str) -> str:
    """What a refused command wrote, which is a message and nothing around it."""
    assert code == 1, err
    assert err.startswith("error: ") and err.count("error: ") == 1, err
    assert "Traceback" not in err and "Warning" not in err, err
    return err


@pytest.fixture(scope="module")
def config(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps without evaluation."""
    folder = tmp_path_factory.mktemp("bad")
    path = folder / "run.yaml"
    text = tiny_run_text(folder / "new", tiny_shards)
    path.write_text(text.replace("steps: 20", "steps: 2").replace("val: val", "val: null"))
    return path


@pytest.fixture(scope="module")
def finished(config: Path) -> Path:
    """The folder of a run of two steps, with checkpoints and evaluations after both."""
    out = config.parent / "finished"
    settings = (f"out={out}", "data.val=val", "evaluation.every_steps=1", "checkpoint.every_steps=1")
    train.main(["--config", str(config), *sets(*settings)])
    return out


def sets(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


# Settings


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimizer.lrr=0.1", "optimizer.lrr: unknown key; did you mean 'lr'?"),
        ("optimizer.lr=fast", "optimizer.lr: expected a number, found 'fast'"),
        ("schedule.steps=2.5", "schedule.steps: expected an integer, found '2.5'"),
        ("schedule.steps=0", "steps must be at least 1"),
        ("optimizer.lr", "write it as a.b=value"),
        ("method.name=unimach", "unknown method 'unimach'; did you mean 'unimatch'"),
        ("model.head.name=deeplab", "unknown head 'deeplab'; did you mean 'deeplabv3plus'?"),
        ("model.encoder.name=resnet50ss", "no model 'resnet50ss'; the nearest names: resnet50s,"),
        ("model.encoder.name=swin_tiny_patch4_window7_224", "with output_stride=16 .*; models that can: "),
        ("model.encoder.weights=file:none.pth", "weights file none.pth: No such file"),
        ("model.encoder.weights=imagenet", "choose one of none, file:PATH, package, hub"),
        ("batch.unlabeled=64", "34 samples, fewer than one global batch of 64; lower batch.unlabeled"),
        ("batch.max_per_device=1", "max_per_device is 1, but .* raise it"),
        ("data.unlabeled=null", "method unimatch uses unlabelled samples: set data.unlabeled"),
        ("data.val=train", "6 samples are in data.labeled and in data.val .*remove them"),
        ("data.labeled=1_16", r"1_16: neither a subset of .* \(train, val\) nor a key-list file"),
        ("data.shards=data/none", "data/none: no such folder; make the shards first"),
        ("data.shards='pipe:cat x.tar'", "no folder, and no URL of a known kind such as https://"),
        ("out={config}/run", "cannot write to the run folder .*: Not a directory"),
    ],
)
def test_a_setting(refused: Refused, config: Path, setting: str, message: str) -> None:
    assert re.search(message, refused(train.main, "--config", config, "--set", setting.format(config=config)))
    assert not (config.parent / "new").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schedule:", "optimizer: {lr: 1}\nschedule:", "optimizer: this key is given twice; first in line"),
        ("{lr: 0.01}", "{lr: 0.01", r"run.yaml:\d+: not valid YAML"),
        ("{labeled: 4,", "{labled: 4,", r"run.yaml:\d+: batch.labled: unknown key; did you mean 'labeled'"),
    ],
)
def test_a_file(refused: Refused, config: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "run.yaml").write_text(config.read_text().replace(old, new))
    assert re.search(message, refused(train.main, "--config", tmp_path / "run.yaml"))


def test_no_such_file_and_no_such_argument(refused: Refused, config: Path) -> None:
    assert "no such file; did you mean 'run.yaml'?" in refused(
        train.main, "--config", config.with_name("ru.yaml")
    )
    told = refused(train.main, "--config", config, "--restart")
    assert "unrecognized arguments: --restart; see unimatch train --help" in told


# Splits


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "the split is empty"),
        (["train/000001", "train/000001"], r"1 key\(s\) are listed more than once: train/000001"),
        (["train/000001", "nope", "other"], "2 of 3 keys are not in .*: 'nope', 'other'"),
    ],
)
def test_a_split(refused: Refused, config: Path, tmp_path: Path, lines: list[str], message: str) -> None:
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    told = refused(train.main, "--config", config, "--set", f"data.labeled={tmp_path / 'list.txt'}")
    assert re.search(rf"list\.txt: {message}", told)


def test_a_list_named_like_a_number_is_a_list(
    config: Path, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """YAML would read 1_16 as 116; a path is text."""
    shutil.copy(tiny_shards.parent / "split" / "labeled.txt", tmp_path / "1_16")
    monkeypatch.chdir(tmp_path)
    train.main(["--config", str(config), *sets("out=run", "data.labeled=1_16", "schedule.steps=1")])
    assert "labeled: '1_16'" in Path("run/config.yaml").read_text()


# Shards


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)


def other_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        # Offsets of images are multiples of 512 behind a header of 512.
        (
            lambda s: cut(s.root / TAR, int(s.index["image_offset"][20]) - 512),
            f"{TAR}: .* the index says .*cut short",
        ),
        (
            lambda s: cut(s.root / TAR, 70001),
            f"{TAR}: 70001 bytes, the index says .* copy or pack them again",
        ),
        (lambda s: (s.root / TAR).unlink(), f"{TAR}: No such file"),
        (
            lambda s: (s.root / "index.json").unlink(),
            "has no index.json: .*unimatch pack, or index the tars",
        ),
        (lambda s: cut(s.root / "index.json", 300), "index.json is damaged: .*; copy or pack the data again"),
        (lambda s: other_byte(s.root / "index.npy"), "index.npy is damaged .*; copy or pack the data again"),
    ],
    ids=["boundary", "middle", "gone", "no index", "cut index", "other index"],
)
def test_damaged_shards(
    refused: Refused,
    config: Path,
    tiny_shards: Path,
    tmp_path: Path,
    damage: Callable[[ShardSet], None],
    message: str,
) -> None:
    root = tmp_path / "shards"
    shutil.copytree(tiny_shards, root)
    damage(ShardSet.open(root))
    assert re.search(message, refused(train.main, "--config", config, "--set", f"data.shards={root}"))


def rewritten(shards: Path, root: Path, key: str, image=None, label=None, taxonomy=None) -> Path:
    """The set written anew, with another `image` or `label` (functions of its Record) for one key."""
    opened = ShardSet.open(shards)
    writers = []
    for subset in opened.subsets:
        with ShardWriter(root, subset) as writer:
            for row in opened.rows(subset):
                old: Record = opened.read(int(row))
                changed = old.key == key
                new_image = image(old) if image and changed else old.image
                new_label = label(old) if label and changed else old.label
                writer.add(old.key, new_image, old.image_ext, new_label, old.width, old.height)
        writers.append(writer)
    finish_set(root, taxonomy or opened.taxonomy, {}, writers)
    return root


def labels(value: int, narrower: int = 0, channels: int | None = None) -> Callable[[Record], bytes]:
    """A label picture of one value in the place of a record's."""

    def make(old: Record) -> bytes:
        shape = (old.height, old.width - narrower, *([channels] if channels else []))
        return png(np.full(shape, value, np.uint8))

    return make


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image": lambda old: old.image[: len(old.image) // 2]},
            "the image is cut short .* replace the file",
        ),
        (
            {"label": labels(37)},
            r"label value\(s\) 37, but there are 8 classes \(0 to 7\) .*pack the data again",
        ),
        ({"label": labels(0, narrower=2)}, "the label is 62x48 pixels, the image 64x48; pack the right pair"),
        (
            {"label": labels(0, channels=3)},
            "the label is a 8-bit 3-channel PNG; it must be an 8-bit greyscale",
        ),
        ({"label": lambda old: None}, "have no label mask .*; only data.unlabeled"),
    ],
    ids=["cut image", "id 37", "size", "rgb label", "mask-free"],
)
def test_a_bad_sample_in_whole_shards(
    refused: Refused, config: Path, tiny_shards: Path, tmp_path: Path, change: dict, message: str
) -> None:
    """The labelled split is this one sample, so the first step meets it."""
    root = rewritten(tiny_shards, tmp_path / "shards", "train/000003", **change)
    (tmp_path / "list.txt").write_text("train/000003\n")
    settings = (f"out={tmp_path / 'run'}", f"data.shards={root}", f"data.labeled={tmp_path / 'list.txt'}")
    told = refused(train.main, "--config", config, *sets(*settings))
    assert "train/000003" in told and re.search(message, told)


def tool(name: str) -> Command:
    return runpy.run_path(str(ROOT / "tools" / f"{name}.py"))["main"]


def test_make_shards_tells_all_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """11 classes; ids, sizes, colours, missing and broken files; and nothing is written."""
    source = tmp_path / "source"
    good = png(np.zeros((8, 10), np.uint8))
    files = {
        "37": png(np.full((8, 10), 37, np.uint8)),
        "size": png(np.zeros((8, 12), np.uint8)),
        "rgb": png(np.full((8, 10, 3), (9, 0, 0), np.uint8)),
        "cut": good[:30],
        "gone": None,
        "good": good,
    }
    (source / "l").mkdir(parents=True)
    (source / "i").mkdir()
    for name, data in files.items():
        (source / "i" / f"{name}.jpg").write_bytes(jpeg(np.zeros((8, 10, 3), np.uint8), 90))
        if data is not None:
            (source / "l" / f"{name}.png").write_bytes(data)
    recipe = tmp_path / "recipe.yaml"
    classes = ", ".join("abcdefghijk")
    recipe.write_text(
        f"classes: [{classes}]\nsubsets: {{train: {{images: i/*.jpg, labels: 'l/{{stem}}.png'}}}}\n"
    )
    arguments = ["--recipe", recipe, "--source", source, "--out", tmp_path / "out", "--workers", 1]
    assert tool("make_shards")([str(argument) for argument in arguments]) == 1
    told = only_message(1, capsys.readouterr().err)
    for expected in (
        "5 problems",
        "l/37.png: unknown id 37 (80 pixels); the recipe knows 0 to 10",
        "l/size.png: is 12x8 pixels, its image i/size.jpg 10x8",
        "l/rgb.png: has RGB pixels, expected one channel of ids",
        "l/cut.png: ",
        "l/gone.png: no such file (label of i/gone.jpg)",
    ):
        assert expected in told
    assert not (tmp_path / "out").exists()


# Run folders


def test_an_occupied_finished_or_changed_run(refused: Refused, config: Path, finished: Path) -> None:
    mine = ("--config", config, *sets(f"out={finished}", "data.val=val"))
    assert "already holds a run; continue it with --resume, or choose another" in refused(train.main, *mine)
    told = refused(train.main, *mine, "--resume")
    assert "already at its last step, 2 of 2" in told
    assert f"--set model.weights=file:{finished}/last/model.safetensors" in told
    told = refused(train.main, *mine, "--resume", *sets("optimizer.lr=1", "schedule.steps=3"))
    assert "optimizer.lr: was 0.01, now 1.0" in told and "schedule.steps: was 2, now 3" in told
    assert "; to train longer, start a new run from its weights: " in told
    assert "longer" not in refused(train.main, *mine, "--resume", *sets("optimizer.lr=1"))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "trainer.json"])
def test_a_damaged_checkpoint(
    refused: Refused, config: Path, finished: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out, symlinks=True)
    newest = out / "checkpoints" / "step_00000002"
    cut(newest / name, 40)
    arguments = ("--config", config, *sets(f"out={out}", "data.val=val"), "--resume")
    told = refused(train.main, *arguments)
    assert re.search(
        rf"{name} is damaged .*--resume takes the newest one left once {newest} is removed", told
    )
    if name == "optimizer.pt":
        shutil.rmtree(newest)
        train.main([str(argument) for argument in arguments])  # the advice is right
        assert (newest / "trainer.json").exists()


def test_other_classes(refused: Refused, config: Path, finished: Path, tiny_shards: Path, tmp_path: Path):
    count = ShardSet.open(tiny_shards).taxonomy.num_classes
    classes = Taxonomy.of([f"class{number}" for number in range(count)])
    root = rewritten(tiny_shards, tmp_path / "shards", "", taxonomy=classes)
    told = refused(evaluate.main, finished, "--shards", root)
    assert "knows other classes than the shards" in told and "class7. Use shards" in told
    out = tmp_path / "run"
    shutil.copytree(finished, out, symlinks=True)
    shutil.rmtree(out / "checkpoints" / "step_00000002")
    mine = sets(f"out={out}", "data.val=val", f"data.shards={root}")
    assert "knows other classes" in refused(train.main, "--config", config, *mine, "--resume")


def test_a_loss_that_is_not_finite(refused: Refused, config: Path, tmp_path: Path) -> None:
    settings = (
        f"out={tmp_path / 'run'}",
        "optimizer.lr=1e9",
        "schedule.steps=8",
        "checkpoint.every_steps=1",
    )
    told = refused(train.main, "--config", config, *sets(*settings))
    assert "became NaN or infinite" in told and "Lower optimizer.lr" in told
    saved = [json.loads(path.read_text())["step"] for path in tmp_path.glob("run/checkpoints/*/trainer.json")]
    assert all(step < int(re.findall(r"before step (\d+)", told)[0]) for step in saved)


# What reads a run


def test_evaluate(refused: Refused, config: Path, finished: Path) -> None:
    for arguments, message in (
        ((config.parent,), "is not a run folder: it has no config.yaml"),
        (
            (finished, "--checkpoint", 77),
            "no checkpoint '77'; choose last, best or a step; steps there: 1, 2",
        ),
        ((finished, "--network", "ema"), "has no network 'ema'; networks there: model"),
        ((finished, "--data", "test"), r"test: neither a subset of .* \(train, val\) nor a key-list file"),
        ((finished, "--batch", 0), "--batch must be at least 1, found 0"),
        ((finished, "--workers", -1), "--workers must be at least 0, found -1"),
        ((finished, "--json", config / "x.json"), r"--json .*x\.json: .* is not a folder"),
        ((), "arguments are required: run; see unimatch.evaluate --help"),
    ):
        assert re.search(message, refused(evaluate.main, *arguments)), message


def test_a_network_that_is_not_the_configured_one(refused: Refused, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    path = tmp_path / "run" / "config.yaml"
    path.write_text(path.read_text().replace("test_efficientnet", "test_resnet"))
    told = refused(evaluate.main, tmp_path / "run")
    assert "wrong tensors" in told and "check the model's name" in told and len(told.splitlines()) == 1


def test_predict(refused: Refused, config: Path, finished: Path, tmp_path: Path) -> None:
    data = jpeg(np.zeros((48, 64, 3), np.uint8), 90)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.jpg").write_bytes(data)
    (tmp_path / "in" / "cut.jpg").write_bytes(data[:200])
    told = refused(predict.main, finished, "--images", tmp_path / "in", "--out", tmp_path / "out")
    assert "1 of 2 images could not be read" in told and "cut.jpg: is damaged or cut short" in told
    assert cv2.imread(str(tmp_path / "out" / "ids" / "good.jpg.png")) is not None
    told = refused(predict.main, finished, "--images", tmp_path / "in", "--out", config / "out")
    assert told == f"error: {config / 'out'}: Not a directory\n"
    assert "no images in" in refused(
        predict.main, finished, "--images", finished / "checkpoints", "--out", tmp_path
    )


def test_compare(refused: Refused, config: Path, finished: Path, tmp_path: Path) -> None:
    compare = tool("compare")
    assert "is not a run folder" in refused(compare, tmp_path / "no", "--out", tmp_path / "out")
    assert (
        refused(compare, finished, "--out", config / "out") == f"error: {config / 'out'}: Not a directory\n"
    )


def test_compare_tells_runs_of_one_name_apart(finished: Path, tmp_path: Path) -> None:
    """A folder of the same name elsewhere, whose log a kill cut in the middle of a line."""
    other = tmp_path / "other" / finished.name
    shutil.copytree(finished, other, symlinks=True)
    with (other / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "ev')
    tool("compare")([str(finished), str(other), "--out", str(tmp_path / "out"), "--images", "1"])
    table = (tmp_path / "out" / "summary.md").read_text()
    assert f"| {finished} |" in table and f"| {other} |" in table


# Two processes: all leave, one speaks


def test_one_process_meets_a_bad_sample(config: Path, tiny_shards: Path, tmp_path: Path) -> None:
    root = rewritten(
        tiny_shards, tmp_path / "shards", "train/000003", image=lambda old: old.image[: len(old.image) // 2]
    )
    (tmp_path / "list.txt").write_text("train/000003\ntrain/000004\n")
    settings = (
        f"out={tmp_path / 'run'}",
        f"data.shards={root}",
        f"data.labeled={tmp_path / 'list.txt'}",
        "batch={labeled: 2, unlabeled: 2}",
        "method.name=unimatch",
    )
    ended = run(2, "-m", "unimatch.train", "--config", str(config), *sets(*settings))
    told = only_message(ended[0].code, ended[0].err)
    assert re.match(rf"error: rank \d: {TAR}:train/000003: the image is cut short", told)
    assert ended[1].code == 1 and ended[1].err == ""


def test_a_killed_data_worker(config: Path, tmp_path: Path) -> None:
    """Of the process that does not speak."""
    log = tmp_path / "run" / "metrics.jsonl"
    settings = (f"out={tmp_path / 'run'}", "schedule.steps=4000")
    command = ("-m", "unimatch.train", "--config", str(config), *sets(*settings))
    with Processes(2, command) as processes:
        deadline = time.monotonic() + 240
        while not log.exists() or '"step": 2' not in log.read_text():
            assert time.monotonic() < deadline and processes.processes[0].poll() is None
            time.sleep(0.05)
        os.kill(data_worker(processes.processes[1].pid), signal.SIGKILL)
        ended = processes.wait()
    told = only_message(ended[0].code, ended[0].err)
    assert re.match(
        r"error: rank 1: data worker 0 \(pid \d+\) was killed \(signal 9; out of memory\?\)", told
    )
    assert ended[1].code == 1 and ended[1].err == ""


FULL = """
import resource, runpy, sys
from unimatch.codecs import compiled
from unimatch.views import resize
if compiled.AVAILABLE:
    resize.prepare()  # in memory, so that nothing depends on what numba finds on the disk
resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))
sys.argv[0] = "unimatch.train"
runpy.run_module("unimatch.train", run_name="__main__")
"""


def test_a_log_that_cannot_be_written(config: Path, tmp_path: Path) -> None:
    """A limit on file sizes stands for a full disk. Memory that processes share counts as files: none."""
    settings = (f"out={tmp_path / 'run'}", "data.workers=0", "schedule.steps=4000", "task.views.crop=16")
    rare = (
        "checkpoint.every_steps=4000",
        "log={every_steps: 1, pictures_every_steps: 0}",
        "data.decoded_mb=0",
    )
    ended = run(2, "-c", FULL, "--config", str(config), *sets(*settings, *rare))
    told = only_message(ended[0].code, ended[0].err)
    assert re.search(r"rank 0: cannot write the log in .*: File too large\. Checkpoints are intact", told)
    assert ended[1].code == 1 and ended[1].err == ""
