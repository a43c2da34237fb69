"""A board of real runs, from training to the page."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import tiny_run_text
from unimatch import experiment as command
from unimatch.engine.run_folder import settings_hash
from unimatch.errors import UserError
from unimatch.experiments.definition import load_experiment

TEXT = """
about: Tiny scenes
base: run.yaml
out: {out}
axes:
  method:
    supervised: [method.name=supervised, batch.unlabeled=null]
    ours: ["method={{name: ours, start: 0.0}}"]
across: method
baseline: supervised
"""
SHORT = ("schedule.steps=2", "evaluation={every_steps: 1, workers: 0, pseudo_labels: 2}", "log.every_steps=1")
SHORT += ("data.val=val", "data.workers=0", "log.pictures_every_steps=0")


def test_from_runs_to_the_page(tmp_path: Path, tiny_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text(tiny_run_text(tmp_path / "unused", tiny_shards))
    path = tmp_path / "tiny.yaml"
    path.write_text(TEXT.format(out=tmp_path / "runs"))
    settings = [part for one in SHORT for part in ("--set", one)]
    command.main(["run", str(path), *settings])
    capsys.readouterr()

    command.main(["table", str(path), *settings, "--html", str(tmp_path / "board.html")])
    table, text = capsys.readouterr().out, (tmp_path / "board.html").read_text()
    data = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)[0])
    base, ours = data["groups"][0]["rows"]
    assert (base["name"], ours["name"], ours["steps"]) == ("supervised", "ours", 2)
    assert ours["steps_difference"]["mean"] == pytest.approx(ours["mean"] - base["mean"])
    run, logged = ours["runs"][0], tmp_path / "runs" / "ours-seed0" / "metrics.jsonl"
    lines = [json.loads(line) for line in logged.read_text().splitlines()]
    seconds = sum(line["cpu_s"] for line in lines if line["kind"] == "train")
    assert ours["seconds"] == pytest.approx(seconds) and seconds > 0
    assert [step for step, _ in run["curve"]] == [one["step"] for one in run["pseudo"]] == [1, 2]
    runs = load_experiment(str(path), SHORT).runs
    assert run["settings"] == settings_hash(runs[1].config) != settings_hash(runs[0].config)
    assert run["settings"] in table and run["labeled"] in table and run["commit"] in table
    for picture, rows in ((data["truth"], 2), (ours["picture"], 1)):
        image = cv2.imdecode(
            np.frombuffer(base64.b64decode(picture.split(",")[1]), np.uint8), cv2.IMREAD_COLOR
        )
        assert image.shape[0] // 180 == rows and image.shape[1] > 3 * 200 and image.std() > 10

    environment = json.loads((tmp_path / "runs" / "ours-seed0" / "env.json").read_text())
    (tmp_path / "runs" / "ours-seed0" / "env.json").write_text(
        json.dumps({**environment, "sources": "other"})
    )
    with pytest.raises(UserError, match="these runs cannot stand in one table:\n  sources: "):
        command.main(["table", str(path), *settings])
    command.main(["table", str(path), *settings, "--mixed-code"])
