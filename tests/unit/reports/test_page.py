"""The page of a report: what it says and what not, what it refuses, and how a browser shows it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import opened
from unimatch import report
from unimatch.engine.log import read_metrics
from unimatch.errors import UserError
from unimatch.pages.document import document


def figures(file: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', file.read_text())
    assert found is not None
    told: dict[str, Any] = json.loads(found[1])
    return told


@pytest.fixture(scope="module")
def written(done: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "deeper" / "report.html"
    report.main([str(done), "--images", "4", "--out", str(file)])
    return file


def copied(done: Path, folder: Path, steps: int = 2, points: float = 0.0) -> Path:
    """The run as it was after some steps, its headline so many points higher."""
    shutil.copytree(done, folder, symlinks=True)
    if steps < 2:
        shutil.rmtree(folder / "checkpoints" / "step_00000002")
    if steps < 1:
        shutil.rmtree(folder / "checkpoints")
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if "miou" in line:
            line["miou"] += points / 100
    kept = [json.dumps(line) + "\n" for line in lines if line["step"] <= steps]
    (folder / "metrics.jsonl").write_text("".join(kept))
    return folder


def test_the_page_answers_what_people_ask(done: Path, written: Path) -> None:
    told, logged = figures(written), read_metrics(done, "eval")[-1]
    (run,) = told["runs"]
    assert run["last"] == pytest.approx(100 * logged["miou"]) and (run["done"], run["total"]) == (2, 2)
    assert run["classes"] == {
        name: None if value is None else pytest.approx(100 * value) for name, value in logged["iou"].items()
    }
    assert [step for step, _ in run["curve"]] == [step for step, _ in run["loss"]] == [1, 2]
    pseudo, quality = run["pseudo"][-1], read_metrics(done, "pseudo_labels")[-1]
    assert pseudo["share"] == pytest.approx(100 * quality["share"])
    assert sum(pseudo["yield_of"].values()) == pytest.approx(pseudo["share"])
    cost, steps = run["cost"], read_metrics(done, "train")
    assert cost["steps_s"] == pytest.approx(sum(line["step_s"] for line in steps))
    assert cost["memory_gib"] == max(line["memory_gib"] for line in steps) and 0 <= cost["data_wait"] <= 1
    assert run["config"] == (done / "config.yaml").read_text() and run["settings"]
    assert run["lists"].keys() == {"labeled", "unlabeled", "val"} and "torch" in run["versions"]
    assert told["fed"]["samples"] == {"labeled": 6, "unlabeled": 34, "val": 10}
    assert sum(told["fed"]["shares"]) == pytest.approx(1)
    assert [share < 0.01 for share in told["fed"]["shares"]] == told["fed"]["rare"]
    assert set(told["fed"]["views"]["sheets"]) == {"labeled", "unlabeled"}
    assert [one["kind"] for one in told["samples"]] == ["worst", "worst", "best", "best"]
    assert told["samples"][0]["value"] <= told["samples"][3]["value"]
    assert set(told["samples"][0]["layers"]) == {"image", "truth", "done", "done confidence"}


def test_the_page_asks_no_host(written: Path) -> None:
    text = written.read_text()
    assert "default-src 'none'" in text
    assert set(re.findall(r"https?://[^\"' ]*", text)) == {"http://www.w3.org/2000/svg"}  # a name, no address


def test_a_name_cannot_end_the_script() -> None:
    text = document("<b>", "unimatch.reports", "report", {"name": "</script><b>"})
    assert "<title>&lt;b&gt;</title>" in text and "</script><b>" not in text


def test_a_baseline_is_held_against_after_the_same_steps(done: Path, tmp_path: Path) -> None:
    base, early = copied(done, tmp_path / "base", points=3.0), copied(done, tmp_path / "early", steps=1)
    file = tmp_path / "report.html"
    report.main([str(done), str(early), "--baseline", str(base), "--out", str(file), "--samples", "0"])
    told = figures(file)
    assert [run["name"] for run in told["runs"]] == ["done", "early", "base"] and told["baseline"] == "base"
    against = told["runs"][0]["against"]
    assert against["points"] == pytest.approx(-3) and (against["step"], against["same"]) == (2, True)
    assert set(against["classes"].values()) <= {0.0, None}
    assert told["runs"][1]["against"]["step"] == 1 and told["runs"][2]["against"] is None
    report.main([str(early), "--baseline", str(base), "--out", str(file), "--samples", "0"])
    assert figures(file)["title"] == "early against base"
    report.main([str(base), "--baseline", str(early), "--out", str(file), "--samples", "0"])
    against = figures(file)["runs"][0]["against"]
    assert (against["step"], against["same"]) == (1, False)


def test_what_is_not_there_is_said(done: Path, tmp_path: Path) -> None:
    begun, file = copied(done, tmp_path / "begun", steps=0), tmp_path / "report.html"
    report.main([str(begun), "--out", str(file)])
    told = figures(file)
    (run,) = told["runs"]
    assert not run["evaluated"] and run["cost"] is None and run["skipped"] is None and run["pseudo"] == []
    assert "There is no checkpoint yet" in told["missing"]["begun"] and told["samples"] == []
    assert "There is no checkpoint yet" in told["fed"]["views"]["missing"]
    assert told["names"], "the shards know the classes"
    moved = copied(done, tmp_path / "moved")
    config = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(re.sub(r"shards: .*", f"shards: {tmp_path / 'gone'}", config, count=1))
    report.main([str(moved), "--out", str(file)])
    told = figures(file)
    assert "gone" in told["missing"]["moved"] and "gone" in told["fed"]["missing"] and told["names"]
    report.main([str(done), "--out", str(file), "--samples", "0"])
    assert "--samples 0" in figures(file)["missing"]["done"]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (("--data", "tset"), r"tset: neither a subset of .* \(.*val.*\) nor a key-list file"),
        (("--shards", "gone"), "gone: no such folder"),
        (("--shards", "gone", "--samples", "0"), "gone: no such folder"),
        (("--data", "val", "--samples", "0"), "leave it out beside --samples 0"),
    ],
)
def test_what_was_asked_for_by_name_is_there_or_an_error(
    done: Path, tmp_path: Path, asked: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        report.main([str(done), "--out", str(tmp_path / "report.html"), *asked])
    assert not list(tmp_path.iterdir())


def test_runs_that_saw_other_samples_are_refused(done: Path, tmp_path: Path) -> None:
    other = copied(done, tmp_path / "other")
    text = (other / "metrics.jsonl").read_text()
    (other / "metrics.jsonl").write_text(re.sub(r'"samples": "\w+"', '"samples": "x"', text))
    with pytest.raises(UserError, match="different samples"):
        report.main([str(done), str(other), "--out", str(tmp_path / "report.html"), "--samples", "0"])
    with pytest.raises(UserError, match="is not a run folder"):
        report.main([str(tmp_path)])
    with pytest.raises(UserError, match="--images must be at least 0, found -1"):
        report.main([str(done), "--images", "-1"])


def test_watching_writes_what_is_new_until_the_run_is_done(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, slept = copied(done, tmp_path / "begun", steps=1), 0

    def sleep(seconds: float) -> None:
        nonlocal slept
        assert seconds == 7
        slept += 1
        if slept == 2:
            shutil.rmtree(begun)
            copied(done, begun)

    monkeypatch.setattr(report.time, "sleep", sleep)
    report.main([str(begun), "--watch", "7", "--samples", "0"])
    lines = capsys.readouterr().out.splitlines()
    assert slept == 2 and len(lines) == 2
    assert lines[0].endswith("begun: 1 of 2 steps") and lines[1].endswith("begun: 2 of 2 steps")
    assert figures(begun / "report.html")["runs"][0]["done"] == 2


SEEN = """({
  wide: document.documentElement.scrollWidth - innerWidth,
  sections: [...document.querySelectorAll("section")].map((one) => one.id).join(" "),
  images: document.images.length,
  bare: [...document.images].filter((one) => !one.alt || !one.naturalWidth).length,
  nameless: [...document.querySelectorAll("input, select")]
    .filter((one) => !one.labels.length && !one.ariaLabel).length,
})"""
MOVED = """(() => {
  const slider = document.querySelector("figure input");
  slider.value = 20;
  slider.dispatchEvent(new Event("input"));
  const side = document.querySelectorAll(".controls select")[1];
  side.value = "done confidence";
  side.dispatchEvent(new Event("change"));
  const figure = document.querySelector("figure");
  return [figure.querySelector(".stack").style.getPropertyValue("--at"), figure.querySelector(".right").alt];
})()"""


def test_a_browser_shows_it_on_desks_and_telephones(written: Path, tmp_path: Path) -> None:
    with opened(tmp_path) as tab:
        for width in (1200, 390):
            tab.open(written, width)
            told = tab.says(SEEN)
            assert told["sections"] == "result classes images trust fed cost repeat"
            assert told["images"] == 4 * 3 + 2 and told["bare"] == told["nameless"] == 0
            assert told["wide"] <= 0, f"at {width} pixels"
        key = figures(written)["samples"][0]["key"]
        assert tab.says(MOVED) == ["20%", f"right: confidence of {key}"]
        assert tab.complaints == [] and {url.partition(":")[0] for url in tab.requests} <= {"file", "data"}
