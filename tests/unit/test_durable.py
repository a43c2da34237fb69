from __future__ import annotations

import json

import pytest

from tests.support.power_cut import cuts
from unimatch import config as config_io
from unimatch.durable import replace_file
from unimatch.engine.log import RunLog, read_metrics
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_folder import read_config, start_run_folder


def test_a_replaced_file_is_the_old_or_the_new_one_whenever_the_power_goes(tmp_path):
    path, found = tmp_path / "file", []
    for _ in cuts(lambda: replace_file(path, b"new" * 9), tmp_path, lambda: path.write_bytes(b"old")):
        found.append(path.read_bytes())
    old = found.count(b"old")
    assert found == [b"old"] * old + [b"new" * 9] * (len(found) - old)
    assert 2 <= old < len(found)


def test_what_is_written_later_is_not_there_without_what_came_before(tmp_path):
    def work() -> None:
        replace_file(tmp_path / "first", b"1")
        replace_file(tmp_path / "second", b"2")

    def fresh() -> None:
        for path in tmp_path.iterdir():
            path.unlink()

    for _ in cuts(work, tmp_path, fresh):
        found = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name[0] != "."}
        assert found in ({}, {"first": b"1"}, {"first": b"1", "second": b"2"})
    assert len(found) == 2


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_beside_it(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_run_whose_resume_was_cut_can_still_be_resumed(tiny_run):
    config = config_io.load(tiny_run, RunConfig)
    changed = config_io.load(tiny_run, RunConfig, ["log.every_steps=7"])
    for _ in cuts(
        lambda: start_run_folder(changed, resume=True),
        config.out.parent,
        lambda: start_run_folder(config, resume=True),
    ):
        assert read_config(config.out).log.every_steps in (1, 7)
        json.loads((config.out / "env.json").read_text())
    assert read_config(config.out).log.every_steps == 7


def test_a_log_whose_resume_was_cut_keeps_its_lines(tmp_path):
    lines = [{"kind": "train", "step": step} for step in range(1, 5)]

    def fresh() -> None:
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def resume() -> None:
        with RunLog(tmp_path, True, 2, 10):
            pass

    for _ in cuts(resume, tmp_path, fresh):
        assert [line["step"] for line in read_metrics(tmp_path, "train")] in ([1, 2, 3, 4], [1, 2])
    assert len(read_metrics(tmp_path, "train")) == 2
