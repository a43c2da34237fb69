"""Boards: what is compared, what may not be, the table and the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from PIL import Image

from unimatch import experiment as command
from unimatch.errors import ConfigError, UserError
from unimatch.experiments.board import groups, markdown
from unimatch.experiments.definition import Experiment, load_experiment
from unimatch.experiments.page import page
from unimatch.experiments.plots import draw, figures
from unimatch.experiments.results import Result, require_comparable

TEXT = """
about: Tiny </script> scenes
base: run.yaml
recipe: camvid
out: {out}
axes:
  length:
    short: [schedule.steps=10]
    long: [schedule.steps=40]
  method:
    supervised: [method.name=supervised, batch.unlabeled=null]
    unimatch: ["data.val=val"]
across: method
budget: length
baseline: supervised
seeds: [0, 1]
skip: [{{length: [long], method: [unimatch]}}]
"""
FIGURES = {("short", "supervised"): (30.0, 32.0), ("long", "supervised"): (40.0, 40.0)}
FIGURES |= {("short", "unimatch"): (36.0, 37.0)}
SECONDS = {("short", "supervised"): 100.0, ("long", "supervised"): 400.0, ("short", "unimatch"): 200.0}


@pytest.fixture
def results(experiment: Experiment) -> list[Result]:
    found = []
    for run in experiment.runs:
        key = run.values["length"], run.values["method"]
        value = FIGURES[key][run.config.seed] / 100.0
        line = {"step": run.config.schedule.steps, "miou": value, "iou": {"sky": value, "sign": None}}
        line |= {"ece": 0.05, "samples": "abc", "labels": "def", "images": 3}
        pseudo = {"step": 10, "precision": 0.9, "share": 0.5, "precision_of": {"sky": 0.95, "sign": None}}
        code = {"commit": "c0ffee", "sources": "s", "machine": "m", "torch": "t"}
        splits = {"labeled": f"list{run.config.seed}"}
        found.append(
            Result(run, line, [line], [pseudo], line["step"], SECONDS[key], 1.5, "settings", splits, code)
        )
    return found


def test_combinations_are_left_out_and_a_seed_stands_in_settings(file: Path, experiment: Experiment) -> None:
    assert [run.values["length"] + run.values["method"] for run in experiment.runs[:3]] == [
        "shortsupervised", "shortunimatch", "longsupervised",
    ]  # fmt: skip
    assert len(experiment.runs) == 6 and [run.number for run in experiment.runs] == [1, 2, 3, 4, 5, 6]
    file.write_text(file.read_text().replace('"data.val=val"', '"log.every_steps=1{seed}"'))
    found = [run.config.log.every_steps for run in load_experiment(str(file)).runs]
    assert found[1::3] == [10, 11]


def test_differences_are_paired_and_at_equal_seconds_between_the_baselines_lengths(
    experiment: Experiment, results: list[Result]
) -> None:
    short, long = groups(experiment, results, "miou")
    base, method = short.entries
    assert (base.name, base.equal_steps, base.equal_seconds) == ("supervised", None, None)
    assert (method.mean, method.deviation) == (36.5, pytest.approx(0.5**0.5))
    assert method.equal_steps is not None and method.equal_steps.mean == pytest.approx(5.5)
    # After 200 of 100 to 400 seconds the baseline is half way: 35 and 36.
    assert method.equal_seconds is not None and method.equal_seconds.mean == pytest.approx(1.0)
    assert method.equal_seconds.half == pytest.approx(0.0, abs=1e-9)
    assert [one.name for one in long.entries] == ["supervised"]


def test_the_board_by_hand(experiment: Experiment, results: list[Result]) -> None:
    told = markdown(experiment, results, "miou", ["2 of 8 runs are missing."])
    assert "**length short**" in told
    assert "| supervised | 31.0 | 1.4 | 2 | - | - | 10 | 100 | 1.50 | 5.0 | 90.0 | 50.0 |" in told
    # The mean 5.5 of differences 6 and 5, t of one degree of freedom: 12.7 * 0.707 / 1.414.
    assert "| unimatch | 36.5 | 0.7 | 2 | +5.5 \u00b1 6.4 | **+1.0 \u00b1 0.0** | 10 | 200 |" in told
    assert "A difference of 6.4 points shows in half of such tables." in told
    assert "| method | sky | sign |" in told and "| unimatch | 36.5 | - |" in told
    assert "2 of 8 runs are missing." in told and "commit: c0ffee" in told
    assert "labelled lists, hashes: list0, list1" in told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"figures": {"samples": "other"}}, "evaluated samples: .*other .1 runs"),
        ({"figures": {"labels": "other"}}, "masks of the evaluated samples"),
        ({"splits": {"labeled": "other"}}, "labelled samples of one seed: .*other .1 runs"),
        ({"code": {"sources": "other"}}, "sources: .*other .1 runs"),
        ({"code": {"machine": "other"}}, "machine: "),
        ({"code": {"torch": "other"}}, "torch: "),
    ],
)
def test_what_is_not_comparable_stands_in_no_table(results: list[Result], change: dict, told: str) -> None:
    require_comparable(results)
    ((name, values),) = change.items()
    mixed = [replace(results[0], **{name: {**getattr(results[0], name), **values}}), *results[1:]]
    with pytest.raises(UserError, match=told):
        require_comparable(mixed)
    if name == "code":
        require_comparable(mixed, mixed_code=True)
    else:
        with pytest.raises(UserError, match=told):
            require_comparable(mixed, mixed_code=True)


def test_ways_of_evaluation_are_not_mixed(results: list[Result]) -> None:
    results[0].run.config.task.config.evaluate.multiple_of = 2
    with pytest.raises(UserError, match="way of evaluation"):
        require_comparable(results)


def shown_by(text: str) -> dict[str, Any]:
    return json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)[0])


def test_the_page_holds_all_figures_and_asks_no_host(experiment: Experiment, results: list[Result]) -> None:
    text = page(experiment, results, "miou", images=0)
    data = shown_by(text)
    assert data["about"] == "Tiny </script> scenes" and data["baseline"] == "supervised"
    row = data["groups"][0]["rows"][1]
    assert (row["name"], row["mean"], row["steps_difference"]["mean"]) == ("unimatch", 36.5, 5.5)
    assert row["runs"][1]["curve"] == [[10, 37.0]] and row["runs"][0]["classes"] == {
        "sky": 36.0,
        "sign": None,
    }
    assert row["runs"][0]["pseudo"] == [{"step": 10, "of": {"sky": 95.0, "sign": None}}]
    assert {row["runs"][0][name] for name in ("settings", "labeled", "commit")} == {
        "settings",
        "list0",
        "c0ffee",
    }
    assert "default-src 'none'" in text
    addresses = set(re.findall(r"https?://[^\"'\s]*", text))
    assert addresses == {"http://www.w3.org/2000/svg"}, "a name of XML, which no browser fetches"


def counted(experiment: Experiment, results: list[Result]) -> tuple[Experiment, list[Result]]:
    """The same figures, as if the lengths were counts of labelled images."""
    names = {"short": "8", "long": "16"}

    def renamed(values: dict[str, str]) -> dict[str, str]:
        return {axis: names.get(value, value) for axis, value in values.items()}

    axes = {**experiment.config.axes, "length": {"8": [], "16": []}}
    config = replace(experiment.config, axes=axes, budget=None, labels="length", skip=[])
    runs = [replace(run, values=renamed(run.values)) for run in experiment.runs]
    found = [replace(one, run=run) for one, run in zip(results, runs, strict=True)]
    return replace(experiment, config=config, runs=runs), found


def points(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """Of each line with error bars: its name and points."""
    return {one.get_label(): [tuple(point) for point in one.lines[0].get_xydata()] for one in axes.containers}


def test_pictures_show_the_figures_of_the_table(
    tmp_path: Path, experiment: Experiment, results: list[Result]
) -> None:
    drawn = figures(experiment, results, "miou")
    assert list(drawn) == ["differences", "seconds"]
    (panel,) = drawn["differences"].axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["unimatch"]
    (bar,) = panel.containers
    assert bar.lines[0].get_xydata().tolist() == [[pytest.approx(5.5), 0.0]]
    low, high = bar.lines[2][0].get_segments()[0][:, 0]
    assert (low, high) == (pytest.approx(5.5 - 6.353, abs=1e-3), pytest.approx(5.5 + 6.353, abs=1e-3))
    (panel,) = drawn["seconds"].axes
    assert points(panel) == {"supervised": [(100.0, 31.0), (400.0, 40.0)], "unimatch": [(200.0, 36.5)]}
    draw(experiment, results, "miou", tmp_path / "new" / "pictures")
    for name in drawn:
        with Image.open(tmp_path / "new" / "pictures" / f"{name}.png") as image:
            assert min(image.size) > 100 and image.convert("L").getextrema() == (0, 255)

    drawn = figures(*counted(experiment, results), "miou")
    (panel,) = drawn["labels"].axes
    assert points(panel) == {"supervised": [(8.0, 31.0), (16.0, 40.0)]}, "one count is no curve"


def test_the_page_shows_figures_over_labels(experiment: Experiment, results: list[Result]) -> None:
    assert shown_by(page(experiment, results, "miou", images=0))["labels"] == []
    found = shown_by(page(*counted(experiment, results), "miou", images=0))["labels"]
    assert found == [{"title": "", "lines": [{"name": "supervised", "points": [[8.0, 31.0], [16.0, 40.0]]}]}]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("baseline: supervised", "baseline: other", "baseline: 'other' is no value of the axis method"),
        ("budget: length", "budget: method", "budget: needs a baseline, and is another axis than `across`"),
        ("budget: length", "budget: time", "budget: 'time' is no axis"),
        ("budget: length", "budget: length\nlabels: count", "labels: 'count' is no axis"),
        ("budget: length", "labels: length", "labels: the values of length must be numbers, found 'short'"),
        ("length: [long]", "length: [longer]", r"skip: length \['longer'\]: no axis and values of it"),
    ],
)
def test_a_mistake_of_a_board_is_named(file: Path, old: str, new: str, told: str) -> None:
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=told):
        load_experiment(str(file))


def test_runs_are_chosen_by_values(file: Path, experiment: Experiment) -> None:
    def numbers(*conditions: str) -> list[int]:
        return [run.number for run in experiment.where(experiment.runs, conditions)]

    assert numbers() == [1, 2, 3, 4, 5, 6]
    assert numbers("method=unimatch") == [2, 5] and numbers("length=short,long", "method=supervised") == [
        1,
        3,
        4,
        6,
    ]
    for wrong in ("method=other", "speed=1", "method"):
        with pytest.raises(ConfigError, match=f"--where {wrong}: expected AXIS=VALUE"):
            numbers(wrong)
    for action, options, told in [
        ("list", ["--jobs"], "--jobs is for run without --launch"),
        ("run", ["--jobs", "-1"], "--jobs must be at least 1"),
        ("status", ["--html", "x"], "--html is for table, not for status"),
        ("run", ["--plots", "x"], "--plots is for table, not for run"),
        ("list", ["--mixed-code"], "--mixed-code is for table, not for list"),
    ]:
        with pytest.raises(UserError, match=told):
            command.main([action, str(file), *options])
    with pytest.raises(UserError, match="no run of tiny is finished"):
        command.main(["table", str(file)])
