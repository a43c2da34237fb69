"""Experiments: from a file to runs, what of them is finished, and the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.support.folder_source import RECIPES
from unimatch import config as config_io
from unimatch import experiment as command
from unimatch import plan
from unimatch.engine import checkpoint
from unimatch.engine.run_folder import IMPORTED
from unimatch.errors import ConfigError, UserError
from unimatch.experiments.definition import Experiment, load_experiment
from unimatch.experiments.listing import status
from unimatch.experiments.progress import Progress, claimed, progress_of
from unimatch.experiments.size import Paces, classes_of, samples, steps_of
from unimatch.experiments.table import table
from unimatch.scaling.cost import Activations, Passes
from unimatch.shardset.key_list import Published, write_keys

TEXT = """
about: Tiny scenes, mIoU on val
base: run.yaml
recipe: camvid
out: {out}
axes:
  method:
    supervised: [method.name=supervised, batch.unlabeled=null]
    unimatch: []
  rate:
    low: [optimizer.lr=0.001]
    high: [optimizer.lr=0.01]
across: rate
seeds: [0, 1]
published:
  - {{at: {{method: unimatch}}, figures: {{low: 71.25, high: null}}, source: the paper}}
  - {{name: Other, figures: {{low: 60, high: 61.5}}, source: a log}}
notes: [Best in hindsight.]
"""


def finish(experiment: Experiment, number: int, curve: dict[int, float], total: int = 20) -> Path:
    """A run folder as training leaves it: mIoU by step."""
    config = experiment.runs[number - 1].config
    config.out.mkdir(parents=True)
    (config.out / "config.yaml").write_text(config_io.dump(config))
    lines = [{"kind": "eval", "step": step, "network": "model", "miou": miou} for step, miou in curve.items()]
    (config.out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    taxonomy = {"names": [], "hash": ""}
    state = checkpoint.TrainerState(max(curve), "miou", None, None, taxonomy, {}, 1, total)
    checkpoint.save_weights(config.out, state, {"model": {"w": torch.zeros(1)}})
    return config.out


def test_axes_and_seeds_make_the_runs_a_seed_after_the_other(experiment: Experiment) -> None:
    found = [
        (run.number, run.config.out.name, run.config.seed, run.config.method.name, run.config.optimizer.lr)
        for run in experiment.runs
    ]
    assert found[:4] == [
        (1, "supervised-low-seed0", 0, "supervised", 0.001),
        (2, "supervised-high-seed0", 0, "supervised", 0.01),
        (3, "unimatch-low-seed0", 0, "unimatch", 0.001),
        (4, "unimatch-high-seed0", 0, "unimatch", 0.01),
    ]
    assert [(number, seed) for number, _, seed, _, _ in found[4:]] == [(5, 1), (6, 1), (7, 1), (8, 1)]
    assert experiment.runs[0].config.batch.unlabeled is None


def test_settings_for_all_runs_come_last_and_out_moves_the_folders(file: Path, tmp_path: Path) -> None:
    runs = load_experiment(str(file), ["optimizer.lr=0.5", "log.every_steps=7"], tmp_path / "other").runs
    assert {(run.config.optimizer.lr, run.config.log.every_steps) for run in runs} == {(0.5, 7)}
    assert runs[0].config.out == tmp_path / "other" / "supervised-low-seed0"


@pytest.mark.parametrize(
    ("only", "numbers"), [(None, range(1, 9)), ("3", [3]), ("2-4", [2, 3, 4]), ("8, 1-2", [1, 2, 8])]
)
def test_runs_are_chosen_by_number(experiment: Experiment, only: str | None, numbers: list[int]) -> None:
    assert [run.number for run in experiment.chosen(only)] == list(numbers)


@pytest.mark.parametrize("only", ["0", "9", "4-2", "x", "", "1-", "-1", "1,,2"])
def test_numbers_that_there_are_not(experiment: Experiment, only: str) -> None:
    with pytest.raises(ConfigError, match="expected numbers from 1 to 8"):
        experiment.chosen(only)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("across: rate", "across: speed", "across must be one of the axes method, rate, found 'speed'"),
        ("seeds: [0, 1]", "seeds: [1, 1]", "seeds must be at least one number, each once"),
        ("seeds: [0, 1]", "seeds: []", "seeds must be at least one number"),
        ("seeds: [0, 1]", "seeds: [a]", "expected an integer, found 'a'"),
        ("    low: [optimizer.lr=0.001]", "    lo/w: [optimizer.lr=0.001]", "found 'lo/w'"),
        ("  rate:\n", "  seed: {a: []}\n  rate:\n", "found 'seed'"),
        ("  rate:\n", "  empty: {}\n  rate:\n", "axes: empty has no values"),
        ("at: {method: unimatch}", "at: {method: unimach}", "method 'unimach' is no value of an axis"),
        ("at: {method: unimatch}", "at: {}", "`at` must also say method"),
        ("low: 71.25", "mid: 71.25", "rate 'mid' is no value of an axis"),
        ("low: 71.25", "low: good", "expected a number, found 'good'"),
        ("about:", "abuot:", "abuot: unknown key; did you mean 'about'"),
        ("[optimizer.lr=0.01]", "[out=here]", "axes: out=here: the experiment itself gives out and seed"),
        ("[optimizer.lr=0.01]", "[' seed =3']", "axes:  seed =3: the experiment itself gives out and seed"),
        ("[optimizer.lr=0.01]", "optimizer.lr=0.01", "expected a list, found 'optimizer.lr=0.01'"),
        ("  rate:\n", "  method: {}\n  rate:\n", "axes.method: this key is given twice; first in line 7"),
        (
            "recipe: camvid",
            "recipe: canvid",
            "canvid: no such file, nor a recipe of unimatch; did you mean 'camvid'",
        ),
        ("base: run.yaml", "base: none.yaml", r"run 1 \(supervised-low.*none.yaml: no such file"),
        (
            "[optimizer.lr=0.01]",
            "[optimizer.lr]",
            r"run 2 \(supervised-high-seed0\): .*write it as a.b=value",
        ),
        ("[optimizer.lr=0.01]", "[optimizer.rl=1]", "run 2 .*optimizer.rl: unknown key; choose"),
        ("\nout: ", "\nout: {} # ", "expected a path, found a mapping"),
    ],
)
def test_a_mistake_in_the_file_is_named(file: Path, old: str, new: str, told: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=told):
        load_experiment(str(file))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "expected 'key: value' lines, found nothing; the file is empty"),
        (b"[1, 2]", "expected 'key: value' lines, found a list"),
        (b"about: [", "not valid YAML"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b"about: a\nbase: a\nrecipe: a\nout: a\naxes: {}\nacross: a", "axes: at least one is needed"),
        (b"out: runs/a\ndata: {shards: a}", "about: required, but not given"),
        (None, "no such file, nor an experiment of unimatch; choose from: acdc, "),
    ],
)
def test_a_file_that_is_no_experiment(content: bytes | None, told: str, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content + b"\n")
    with pytest.raises(ConfigError, match=f"file.yaml.*{told}"):
        command.main(["list", str(path)])


def test_other_mistakes_of_the_caller_are_named(file: Path) -> None:
    with pytest.raises(
        ConfigError, match="--set seed=3: the experiment gives out and seed; the folder is --out"
    ):
        load_experiment(str(file), ["seed=3"])
    with pytest.raises(ConfigError, match="nor an experiment of unimatch; did you mean 'pascal'"):
        load_experiment("pasccal")
    for option in (["--launch", "cpu2"], ["--processes", "2"]):
        with pytest.raises(UserError, match="--launch and --processes are for run; list trains nothing"):
            command.main(["list", str(file), *option])
    with pytest.raises(UserError, match="--only is not for table, which shows all runs"):
        command.main(["table", str(file), "--only", "1"])
    with pytest.raises(UserError, match="arguments are required: FILE"):
        command.main(["list"])
    for rate in ("0", "-1", "nan", "inf", "fast"):
        with pytest.raises(UserError, match=f"'{rate}' is no rate in 10.12 operations a second"):
            command.main(["list", str(file), "--tflops", rate])
    with pytest.raises(UserError, match="--devices must be at least 1, found 0"):
        command.main(["list", str(file), "--devices", "4", "0"])
    with pytest.raises(UserError, match="invalid choice: 'train'"):
        command.main(["train", str(file)])


def test_how_far_a_run_is(experiment: Experiment) -> None:
    config = experiment.runs[2].config
    assert str(progress_of(config)) == "not begun"
    out = finish(experiment, 3, {10: 0.5, 12: 0.25})
    assert str(progress_of(config)) == "step 12 of 20" and progress_of(config).last is None
    (out / "checkpoints" / "step_00000012").rename(out / "checkpoints" / "step_00000011")
    finish(experiment, 4, {10: 0.5, 20: 0.25})
    found = progress_of(experiment.runs[3].config)
    assert str(found) == "finished"
    assert (found.last, found.best, found.best_step) == (0.25, 0.5, 10)


def test_a_folder_with_other_settings_does_not_count(file: Path, experiment: Experiment) -> None:
    finish(experiment, 3, {20: 0.5})
    changed = load_experiment(str(file), ["optimizer.momentum=0.5"])
    found = progress_of(changed.runs[2].config)
    assert not found.finished and "optimizer.momentum: was 0.9, now 0.5" in str(found)
    states = {run.number: progress_of(run.config) for run in changed.runs}
    told = table(changed, states, "miou")
    assert "50.0" not in told and "- run 3 (unimatch-low-seed0): unusable: " in told
    with pytest.raises(UserError, match=r"run 3 \(.*unimatch-low-seed0\): .*cannot be resumed with other"):
        command.main(["run", str(file), "--only", "3", "--set", "optimizer.momentum=0.5"])


def test_a_folder_that_is_no_run_of_this_experiment_does_not_count(experiment: Experiment) -> None:
    """Whatever its figures: checkpoints without a configuration, and weights that were trained elsewhere."""
    out = finish(experiment, 3, {20: 0.5})
    (out / IMPORTED).write_text("{}")
    assert "it holds imported weights" in str(progress_of(experiment.runs[2].config))
    (out / IMPORTED).unlink()
    assert progress_of(experiment.runs[2].config).finished
    (out / "config.yaml").unlink()
    found = progress_of(experiment.runs[2].config)
    assert not found.finished and "it has no config.yaml" in str(found)


def test_the_table_by_hand(experiment: Experiment) -> None:
    finish(experiment, 3, {10: 0.75, 20: 0.68})
    finish(experiment, 7, {10: 0.6, 20: 0.70})
    finish(experiment, 1, {20: 0.5})
    finish(experiment, 4, {10: 0.9})
    states = {run.number: progress_of(run.config) for run in experiment.runs}
    assert table(experiment, states, "miou") == (
        "Tiny scenes, mIoU on val\n"
        "\n"
        "| method | rate | last miou | seeds | range | best in hindsight | published |\n"
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| supervised | low | 50.0 | 1 of 2 | - | 50.0 | - |\n"
        "| supervised | high | - | 0 of 2 | - | - | - |\n"
        "| unimatch | low | 69.0 | 2 of 2 | 68.0 to 70.0 | 72.5 | 71.2 [1] |\n"
        "| unimatch | high | - | 0 of 2 | - | - | - |\n"
        "\n"
        "Published by others:\n"
        "\n"
        "| work | low | high | source |\n"
        "| --- | ---: | ---: | --- |\n"
        "| Other | 60.0 | 61.5 | [2] |\n"
        "\n"
        "[1] the paper\n"
        "[2] a log\n"
        "\n"
        "5 of 8 runs are missing.\n"
        "- run 4 (unimatch-high-seed0): step 10 of 20\n"
        "\n"
        "- Best in hindsight.\n"
    )


def test_other_works_stand_under_the_axes_that_one_of_them_names(file: Path) -> None:
    one = "  - {name: Third, at: {method: supervised}, figures: {low: 1}, source: a log}\nnotes:"
    file.write_text(file.read_text().replace("notes:", one))
    experiment = load_experiment(str(file))
    told = table(experiment, {run.number: Progress() for run in experiment.runs}, "miou")
    assert "| work | method | low | high | source |" in told
    assert "| Other | - | 60.0 | 61.5 | [2] |\n| Third | supervised | 1.0 | - | [2] |" in told


def test_one_program_trains_a_run(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    config = experiment.runs[0].config
    monkeypatch.setattr("unimatch.experiments.progress.PAUSE_S", 0.0)
    with claimed(config) as first, claimed(config) as second, claimed(experiment.runs[1].config) as other:
        assert (first, second, other) == (True, False, True)
    with claimed(config) as again:
        assert again


def test_status_of_runs(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unimatch.experiments.progress.PAUSE_S", 0.0)
    finish(experiment, 1, {20: 0.5})
    finish(experiment, 3, {10: 0.9})
    runs = experiment.runs[:3]
    told = [
        "   1 supervised-low-seed0: finished, 50.00",
        "   2 supervised-high-seed0: not begun",
        "   3 unimatch-low-seed0: step 10 of 20",
    ]
    assert status(runs).splitlines() == told
    with claimed(runs[2].config):
        assert status(runs).splitlines() == [*told[:2], told[2] + ", running"]


def test_a_finished_run_that_was_never_evaluated_is_missing(experiment: Experiment) -> None:
    out = finish(experiment, 3, {20: 0.5})
    (out / "metrics.jsonl").unlink()
    told = table(experiment, {run.number: progress_of(run.config) for run in experiment.runs}, "miou")
    assert "| unimatch | low | - | 0 of 2 | - | - | 71.2 [1] |" in told
    assert "8 of 8 runs are missing.\n- run 3 (unimatch-low-seed0): finished, but never evaluated\n" in told


def test_lengths_without_shards_are_those_with_them(
    file: Path, tmp_path: Path, experiment: Experiment
) -> None:
    """A published split tells how many samples there are."""
    config = experiment.runs[2].config
    assert samples(config) == (6, 34) and steps_of(config) == 20
    config.schedule.steps, config.schedule.epochs = None, 3
    keys = [f"scene/{number}" for number in range(5)]
    write_keys(tmp_path / "split.txt", keys, Published(40, "train", "ours"))
    assert steps_of(config) == 3 * (34 // 4)
    config.data.labeled, config.data.unlabeled = None, None
    config.data.split, config.data.shards = str(tmp_path / "split.txt"), str(tmp_path / "none")
    assert samples(config) == (5, 35) and steps_of(config) == 3 * (35 // 4)
    config.schedule.epoch_devices = 4  # ceil(35 / 4) samples of each device, one a batch
    assert steps_of(config) == 3 * 9
    (tmp_path / "split.txt").write_text("\n".join(keys))
    assert samples(config) is None and steps_of(config) is None


def column(text: str, name: str) -> dict[int, str]:
    """Of the table of `experiment list`: by the number of the run."""
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("| ")]
    return {int(row[1]): row[rows[0].index(name)] for row in rows if row[1].isdigit()}


def test_hours_are_those_of_plan(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run on as many devices has the same hours in both commands, and neither knows them for more
    devices than can share its batch.
    """
    memory = Activations(0.0, 1.0), Passes(1, 1), ((1, 1.0), (2, 2.0))
    monkeypatch.setattr("unimatch.scaling.forecast._activations", lambda *_: memory)  # seconds, not compared
    command.main(["list", str(file), "--only", "3,7", "--tflops", "0.001", "--devices", "1", "4", "8"])
    listed = capsys.readouterr().out
    changes = [part for one in load_experiment(str(file)).runs[2].changes for part in ("--set", one)]
    given = ["--config", str(file.parent / "run.yaml"), *changes, "--device-memory", "80GB"]
    plan.main([*given, "--devices", "4", "--tflops", "0.001"])
    alone, shared, too_many = (column(listed, f"hours on {count}") for count in (1, 4, 8))
    assert float(alone[3]) > float(shared[3]) > 0 and shared[3] == shared[7]
    assert f", {shared[3]} hours under DDP as configured" in capsys.readouterr().out
    with pytest.raises(UserError, match="is 4, which 8 processes cannot share evenly"):
        plan.main([*given, "--devices", "8"])
    assert too_many == {3: "-", 7: "-"} and "2 runs on 8 device(s): 0 hours for 0 of them" in listed
    assert f"2 runs on 1 device(s): {2 * float(alone[3]):.3g}"[:-1] in listed
    assert listed.count("at 0.001 TFLOP/s a device") == 1


def test_runs_that_differ_in_their_steps_have_paces_of_their_own(experiment: Experiment) -> None:
    """Lists and length apart, nothing may differ between runs whose pace is found once."""
    low, high = experiment.runs[2].config, experiment.runs[3].config
    paces = Paces(classes_of(low, experiment.recipe), 1e9)
    assert paces.of(low) is paces.of(high) is paces.of(experiment.runs[6].config)
    high.activation_checkpointing, high.sync_batchnorm = True, "off"
    assert paces.of(high).work.image_s > paces.of(low).work.image_s
    assert paces.of(high).work.norms == 0 < paces.of(low).work.norms


def test_classes_where_there_are_no_shards(experiment: Experiment) -> None:
    """They are the recipe's then, if it names them."""
    config = experiment.runs[0].config
    config.data.shards = "none"
    assert classes_of(config, RECIPES / "cityscapes.yaml").num_classes == 19
    with pytest.raises(UserError, match="recipe camvid reads the classes from classes.txt.*pack the data"):
        classes_of(config, RECIPES / "camvid.yaml")
    assert (experiment.recipe, classes_of(experiment.runs[1].config, experiment.recipe).num_classes) == (
        RECIPES / "camvid.yaml",
        8,
    )
