import errno
import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from unimatch.engine.log import RunLog, read_metrics
from unimatch.errors import UserError


def test_lines_after_the_resumed_step_are_dropped_and_written_again(tmp_path):
    with RunLog(tmp_path, True, 0, 10) as log:
        for step in (1, 2, 3):
            log.record("train", step, {"loss": float(step), "hist": {"sky": 0.5, "car": None}})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # killed in the middle of a line
    with RunLog(tmp_path, True, 2, 10) as log:
        log.record("train", 3, {"loss": 30.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert read_metrics(tmp_path, "eval") == []


def test_several_networks_of_a_step_have_scalars_of_their_own(tmp_path):
    with RunLog(tmp_path, True, 0, 10) as log:
        log.record("eval", 5, {"network": "ema", "miou": 0.5, "iou": {"sky": 0.25}})
        log.record("eval", 5, {"network": "model", "miou": 0.75}, "eval_model")
        log.headline(5, "miou", 0.5)
        log.headline(6, "miou", None)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    found = {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}
    assert found == {
        "eval/miou": [(5, 0.5)],
        "eval/iou/sky": [(5, 0.25)],
        "eval_model/miou": [(5, 0.75)],
        "Result/miou": [(5, 0.5)],
    }
    assert [line["network"] for line in read_metrics(tmp_path, "eval")] == ["ema", "model"]


def test_other_processes_write_nothing(tmp_path):
    with RunLog(tmp_path, False, 0, 10) as log:
        log.say("hello")
        log.record("train", 1, {"loss": 1.0})
        log.figures(1, {"loss": 1.0}, 5.0)
    assert list(tmp_path.iterdir()) == []


def test_a_cut_last_line_is_left_out_and_a_damaged_one_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "eval", "step": 1}\n{"kind": "eval", "st')
    assert [line["step"] for line in read_metrics(tmp_path, "eval")] == [1]
    path.write_text('{"kind": "ev\n{"kind": "eval", "step": 1}\n')
    with pytest.raises(UserError, match="metrics.jsonl:1 is damaged; remove this line"):
        read_metrics(tmp_path, "eval")


@pytest.mark.parametrize("writer", ["file", "board"])
def test_a_full_disk_is_kept_as_the_problem(tmp_path, monkeypatch, capsys, writer):
    """The trainer raises it, on all processes; nothing is printed here, also not by TensorBoard's thread."""

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with RunLog(tmp_path, True, 0, 10) as log:
        log.record("train", 1, {"loss": 1.0})
        log.flush()
        assert log.problem is None
        if writer == "file":
            # Closing tries to write again what could not be written.
            monkeypatch.setattr(log, "_file", type("Full", (), {"write": full, "close": full})())
        else:
            monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
        for step in (2, 3):
            log.record("train", step, {"loss": 1.0})
            log.flush()
    assert "No space left on device. Checkpoints are intact: make room" in str(log.problem)
    assert str(tmp_path) in str(log.problem)
    assert capsys.readouterr().err == ""
