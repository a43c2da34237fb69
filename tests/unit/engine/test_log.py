import json

from unimatch.engine.log import RunLog, read_metrics


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


def test_other_processes_write_nothing(tmp_path):
    with RunLog(tmp_path, False, 0, 10) as log:
        log.say("hello")
        log.record("train", 1, {"loss": 1.0})
        log.figures(1, {"loss": 1.0}, 5.0)
    assert list(tmp_path.iterdir()) == []
