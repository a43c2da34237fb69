"""Tables of runs through the commands: two steps of one run of each on real samples; killed, continued."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import ROOT, tiny_run_text
from tests.support import tiny_encoder
from tests.support.folder_source import RECIPES
from tests.support.processes import Processes
from unimatch import config as config_io
from unimatch import experiment, train
from unimatch.engine import checkpoint
from unimatch.engine.log import read_metrics
from unimatch.engine.run_config import RunConfig
from unimatch.errors import UserError
from unimatch.experiments.definition import load_experiment
from unimatch.experiments.progress import Progress, claimed
from unimatch.packing.folder import pack
from unimatch.packing.recipe import Recipe
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.key_list import Published, write_keys

# Of each experiment: recipe, source, changes of the recipe, the run that is tried, what it evaluates on.
TABLES = {
    "pascal": ("pascal", "voc2012/VOCdevkit/VOC2012", ["subsets.val.optional=true"], 11, None),
    "pascal_blended": ("pascal", "voc2012/VOCdevkit/VOC2012", ["subsets.val.optional=true"], 16, None),
    "cityscapes": ("cityscapes", "cityscapes", ["subsets.val.optional=true"], 11, None),
    "coco": ("coco", "coco", ["shard_mb=64"], 11, "val"),
    "levir": ("levir", "levir", [], 21, "test"),
    "whu": ("whu", "levir", [], 9, "test"),
    "acdc": ("acdc", "acdc", [], 9, "val+test"),
    "pascal_v2": ("pascal", "voc2012/VOCdevkit/VOC2012", ["subsets.val.optional=true"], 11, None),
    "levir_v2": ("levir", "levir", [], 9, "test"),
}
SMALL = [
    "schedule={epochs: null, steps: 2, epoch_devices: 1}",
    "log={every_steps: 1, pictures_every_steps: 0}",
    "data.workers=0",
    "batch={labeled: 2, unlabeled: 2}",
    "evaluation={every_steps: 2, workers: 0, batch: 4}",
]


def few_slices(source: Path, out: Path) -> Path:
    """Some of ACDC's slices and two of its volumes, in its layout."""
    (out / "data" / "slices").mkdir(parents=True)
    (out / "splits").mkdir()
    for path in sorted((source / "data" / "slices").glob("*.h5"))[:6]:
        (out / "data" / "slices" / path.name).symlink_to(path)
    for subset, path in zip(("val", "test"), sorted((source / "data").glob("*.h5"))[:2], strict=True):
        (out / "data" / path.name).symlink_to(path)
        (out / "splits" / f"{subset}.txt").write_text(f"data/{path.name}\n")
    return out


@pytest.mark.parametrize("name", TABLES)
def test_two_steps_of_a_run_of_each_table(
    name: str, real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, folder, changes, number, val = TABLES[name]
    source = real_data / folder
    if name == "acdc":
        source = few_slices(source, tmp_path / "source")
    shards = tmp_path / "shards"
    pack(config_io.load(RECIPES / f"{recipe}.yaml", Recipe, changes), source, shards)
    opened = ShardSet.open(shards)
    keys = opened.keys(opened.rows("train"))
    write_keys(tmp_path / "split.txt", keys[: len(keys) // 2], Published(len(keys), "train", "a test"))
    few = val
    if val == "val":
        few = str(tmp_path / "val.txt")
        write_keys(Path(few), opened.keys(opened.rows(val)[:3]))
    settings = [
        *SMALL,
        f"data.shards={shards}",
        f"data.split={tmp_path / 'split.txt'}",
        f"data.val={few or 'null'}",
    ]
    settings.append(f"task.views.crop={32 if name == 'acdc' else 48}")
    if name.endswith("v2"):
        settings += ["model.encoder.name=test_vit", "model.encoder.weights=none"]
        settings += ["model.head={name: dpt, channels: 8}", "task.evaluate.multiple_of=16"]
    elif name != "acdc":
        stride = 8 if name == "levir" else 16
        settings += ["model.encoder.name=test_efficientnet", "model.encoder.weights=none"]
        settings.append(f"model.encoder.output_stride={stride}")
    if name == "cityscapes":
        settings.append("task.loss.ohem_min_kept_per_image=400")
    options = ["--out", str(tmp_path / "runs"), *(part for one in settings for part in ("--set", one))]
    experiment.main(["run", name, "--only", str(number), *options])
    run = load_experiment(name, settings, tmp_path / "runs").runs[number - 1]
    assert checkpoint.load_state(checkpoint.find(run.config.out, "last")).step == 2
    assert run.config.method.name == ("unimatch_v2" if name.endswith("v2") else "unimatch")
    capsys.readouterr()
    experiment.main(["status", name, "--only", f"{number - 1},{number}", *options])
    other, own = capsys.readouterr().out.splitlines()
    assert other.endswith(": not begun") and f"{run.name}: finished" in own
    experiment.main(["run", name, "--only", str(number), *options])
    assert f"run {number}, {run.name}: finished" in capsys.readouterr().out
    experiment.main(["table", name, *options])
    table = capsys.readouterr().out
    assert table.count("| 1 of 3 |") == (val is not None)


FILE = """
about: Tiny scenes
base: run.yaml
recipe: camvid
out: {out}
axes:
  rate: {{low: [optimizer.lr=0.001, schedule.steps=4], high: [optimizer.lr=0.01]}}
across: rate
"""


@pytest.fixture
def tiny(tmp_path: Path, tiny_shards: Path) -> Path:
    """An experiment of two runs of 4 and of 16 steps, a checkpoint after every second."""
    text = tiny_run_text(tmp_path / "unused", tiny_shards).replace("steps: 20", "steps: 16")
    (tmp_path / "run.yaml").write_text(
        text.replace("checkpoint: {every_steps: 10}", "checkpoint: {every_steps: 2}")
        .replace("{name: deeplabv3plus, channels: 32}", "{name: linear}")
        .replace("test_efficientnet", tiny_encoder.NAME)
    )
    path = tmp_path / "tiny.yaml"
    path.write_text(FILE.format(out=tmp_path / "runs"))
    return path


def started(file: Path, *options: str) -> Processes:
    return Processes(1, ["-m", "unimatch.experiment", "run", str(file), *options], cwd=ROOT)


def test_killed_in_the_second_run_it_goes_on_there(tiny: Path, tmp_path: Path) -> None:
    """What is finished stays as it is, and what was interrupted ends as if it had not been."""
    first, second = (run.config for run in load_experiment(str(tiny)).runs)
    deadline = time.monotonic() + 300
    with started(tiny) as processes:
        while time.monotonic() < deadline:
            done = checkpoint.last_checkpoint(second.out)
            if done is not None and done.name >= "step_00000002":
                break
            assert processes.processes[0].poll() is None, processes.wait()[0]
            time.sleep(0.02)
        processes.kill()
        assert processes.wait()[0].code == -signal.SIGKILL
    left = checkpoint.load_state(checkpoint.find(second.out, "last")).step
    assert 2 <= left < 16
    kept = {path: path.stat().st_mtime_ns for path in sorted(first.out.rglob("*")) if path.is_file()}
    with started(tiny) as processes:
        ended = processes.wait()[0]
    assert ended.code == 0, ended.err
    said = ended.out
    assert f"run 1, {first.out.name}: finished" in said and f"run 2, {second.out.name}: training" in said
    assert f"step {left}" in said and "finished after step 16" in said
    assert {path: path.stat().st_mtime_ns for path in sorted(first.out.rglob("*")) if path.is_file()} == kept
    # What came after the last checkpoint was lost with it; every step stands in the log once.
    assert [line["step"] for line in read_metrics(second.out, "train")] == list(range(1, 17))
    settings = ["optimizer.lr=0.01", "seed=0", f"out={tmp_path / 'whole'}"]
    train.main(
        ["--config", str(tmp_path / "run.yaml"), *(part for one in settings for part in ("--set", one))]
    )
    ends = [load_file(folder / "last" / "model.safetensors") for folder in (tmp_path / "whole", second.out)]
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())


FAILING = """{diverges: [optimizer.lr=1e30], blind: [data.val=none], crashes: [optimizer.lr=0.5], \
low: [optimizer.lr=0.001]}"""


def test_a_run_that_fails_does_not_keep_the_others(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are trained, and the end tells which failed and why: in training, before it, and by a bug."""

    plain = train.train_one

    def trained(config: RunConfig, *rest: Any, **settings: Any) -> None:
        if config.optimizer.lr == 0.5:
            raise RuntimeError("out of memory")
        plain(config, *rest, **settings)

    monkeypatch.setattr(train, "train_one", trained)
    tiny.write_text(
        tiny.read_text().replace(
            "{low: [optimizer.lr=0.001, schedule.steps=4], high: [optimizer.lr=0.01]}", FAILING
        )
    )
    short = [part for one in ("schedule.steps=2", "data.workers=0") for part in ("--set", one)]
    reasons = (
        r"run 1 \(.*diverges-seed0\): the loss became NaN or infinite",
        r"run 2 \(.*blind-seed0\): .*none",
        r"run 3 \(.*crashes-seed0\): RuntimeError: out of memory",
    )
    with pytest.raises(UserError, match=r"^3 of 4 runs failed\n" + r"(.|\n)*\n".join(reasons)):
        experiment.main(["run", str(tiny), *short])
    said = capsys.readouterr()
    assert all(re.search(f"failed: {reason}", said.err) for reason in reasons)
    assert "Traceback" in said.err and "run 4, low-seed0: training" in said.out
    runs = load_experiment(str(tiny)).runs
    assert checkpoint.load_state(checkpoint.find(runs[3].config.out, "last")).step == 2
    with pytest.raises(UserError, match=f"^{reasons[2]}$"):
        experiment.main(["run", str(tiny), *short, "--only", "3"])
    monkeypatch.undo()
    experiment.main(["run", str(tiny), *short, "--only", "3-4"])
    assert "run 4, low-seed0: finished" in capsys.readouterr().out
    assert checkpoint.load_state(checkpoint.find(runs[2].config.out, "last")).step == 2


def test_without_data_no_run_is_begun(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message for all of them, before processes are started; what another place holds can be trained."""
    monkeypatch.setattr(experiment, "apart", lambda *_: 1)
    missing = f"data.shards={tmp_path / 'none'}"
    for options in ([], ["--launch", "cpu2"]):
        with pytest.raises(
            UserError, match=r"^no run can start: \S*none: no such folder; make the shards.*\)$"
        ):
            experiment.main(["run", str(tiny), "--set", missing, *options])
    assert not (tmp_path / "runs").exists()
    tiny.write_text(tiny.read_text().replace("low: [", f"low: ['{missing}', "))
    with pytest.raises(UserError, match=r"2 of 2 runs failed"):
        experiment.main(["run", str(tiny), "--launch", "cpu2"])
    monkeypatch.setattr(experiment, "progress_of", lambda config: Progress(20, 20))
    experiment.main(["run", str(tiny), "--set", missing])


def test_each_run_is_launched_apart(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In processes of its own: whatever ends them, the next run is started; after a signal none is."""
    started: list[list[str]] = []
    codes = {1: 1, 2: -signal.SIGKILL, 3: 0, 4: 128 + signal.SIGTERM}

    def apart(module: str, arguments: list[str]) -> int:
        started.append([module, *arguments])
        return codes[int(arguments[-1])]

    monkeypatch.setattr(experiment, "apart", apart)
    tiny.write_text(tiny.read_text() + "seeds: [0, 1, 2]\n")
    options = ["--launch", "cpu2", "--processes", "3"]
    with pytest.raises(UserError, match=r"2 of 3 runs failed\nrun 1 .*status 1; .*\nrun 2 .*status -9; "):
        experiment.main(["run", str(tiny), "--only=1-3", *options])
    assert started == [
        ["unimatch.experiment", "run", str(tiny), *options, "--only", str(number)] for number in (1, 2, 3)
    ]
    with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
        experiment.main(["run", str(tiny), *options, "--only", "3-6"])
    assert [command[-1] for command in started[3:]] == ["3", "4"]
    finished = Progress(20, 20)
    monkeypatch.setattr(experiment, "progress_of", lambda config: finished)
    experiment.main(["run", str(tiny), *options])
    assert len(started) == 5 and capsys.readouterr().out.count(": finished\n") == 6
    with pytest.raises(UserError, match="--launch gpu9: no such file"):
        experiment.main(["run", str(tiny), "--launch", "gpu9"])


def test_a_run_that_another_program_trains_is_passed_over(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimatch.experiments.progress.PAUSE_S", 0.01)
    first, second = (run.config for run in load_experiment(str(tiny)).runs)
    with claimed(first) as mine:
        assert mine
        experiment.main(["run", str(tiny), "--set", "schedule.steps=2"])
    assert "another program is training it" in capsys.readouterr().out
    assert not first.out.exists() and checkpoint.load_state(checkpoint.find(second.out, "last")).step == 2


def test_a_stopped_run_says_how_to_go_on(tiny: Path) -> None:
    folder = load_experiment(str(tiny)).runs[1].config.out
    deadline = time.monotonic() + 300
    with started(tiny, "--only", "2", "--set", "schedule.steps=9999") as processes:
        while time.monotonic() < deadline and checkpoint.last_checkpoint(folder) is None:
            assert processes.processes[0].poll() is None
            time.sleep(0.02)
        processes.kill(signal.SIGTERM)
        ended = processes.wait()[0]
    assert ended.code == 128 + signal.SIGTERM
    assert "stopped in run 2; the same command continues the experiment" in ended.out + ended.err
