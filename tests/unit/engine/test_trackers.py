"""Services are told what TensorBoard is told, know a resumed run again, and stop nothing when they fail."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unimatch.engine import trackers
from unimatch.engine.log import RunLog, read_metrics
from unimatch.engine.run_config import RunConfig
from unimatch.engine.runtime import Runtime
from unimatch.errors import UserError

PICTURE = np.zeros((4, 6, 3), np.uint8)


class Fake:
    """A tracker of accelerate's that writes down what it gets; `broken` calls fail."""

    def __init__(self, broken: tuple[str, ...] = ()) -> None:
        self.got: list[Any] = []
        self.broken = broken

    def log(self, values: dict[str, float], step: int) -> None:
        self._take("log", values, step)

    def finish(self) -> None:
        self._take("finish")

    def show(self, tracker: Any, pictures: dict[str, np.ndarray], step: int) -> None:
        self._take("show", sorted(pictures), step)

    def start(self, run: Path, project: str, token: str, settings: dict[str, Any]) -> Fake:
        self.settings = settings
        self._take("start", project, token)
        return self

    def _take(self, *what: Any) -> None:
        if what[0] in self.broken:
            raise ConnectionError(f"no route to the server\n  of {what[0]}")
        self.got.append(what)


@pytest.fixture
def config(tiny_config: RunConfig, tmp_path: Path) -> RunConfig:
    tiny_config.out = tmp_path
    tiny_config.log.trackers = ["tensorboard", "mlflow"]
    return tiny_config


def use(monkeypatch: pytest.MonkeyPatch, fake: Fake) -> None:
    monkeypatch.setattr(trackers, "_installed", lambda name: True)
    monkeypatch.setitem(trackers.SERVICES, "mlflow", (fake.start, fake.show))


def test_a_service_is_told_all_figures_and_pictures(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake()
    use(monkeypatch, fake)
    with RunLog(config.out, True, 0, 4, config) as log:
        log.record("train", 1, {"loss": 2.0, "share": {"a (b)": 0.5, "none": None}, "told": "text"})
        log.record("train", 2, {"loss": float("nan")})
        log.pictures(2, {"labeled": PICTURE})
        log.record("eval", 2, {"miou": 0.25}, "eval_model")
        log.headline(2, "miou", 0.25)
    token = (config.out / "tracker_id").read_text().strip()
    assert fake.got == [
        ("start", "unimatch", token),
        ("log", {"train/loss": 2.0, "train/share/a _b_": 0.5}, 1),
        ("show", ["labeled"], 2),
        ("log", {"eval_model/miou": 0.25}, 2),
        ("log", {"Result/miou": 0.25}, 2),
        ("finish",),
    ]
    assert fake.settings["method.name"] == "unimatch" and fake.settings["batch.labeled"] == 4
    again = Fake()
    use(monkeypatch, again)
    with RunLog(config.out, True, 2, 4, config):
        pass
    assert again.got[0] == ("start", "unimatch", token)


def wait_for_failure(log: RunLog) -> None:
    """Until the service's thread has met it, however busy the machine is."""
    (service,) = (one for one in log._trackers if isinstance(one, trackers.Service))
    until = time.monotonic() + 30
    while service._failed is None and time.monotonic() < until:
        time.sleep(0.002)


@pytest.mark.parametrize("broken", ["start", "log", "show", "finish"])
def test_one_that_fails_is_told_once_and_stops_nothing(
    broken: str, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake((broken,))
    use(monkeypatch, fake)
    said: list[str] = []
    monkeypatch.setattr(RunLog, "say", lambda self, text: said.append(text))
    with RunLog(config.out, True, 0, 4, config) as log:
        for step in (1, 2, 3):
            log.record("train", step, {"loss": 1.0})
            log.pictures(step, {"labeled": PICTURE})
            if broken != "finish":
                wait_for_failure(log)
    assert log.problem is None
    assert said == [
        "tracker mlflow failed and is left out from here on (no route to the server); metrics.jsonl has all "
        "figures"
    ]
    assert [line["step"] for line in read_metrics(config.out, "train")] == [1, 2, 3]


def test_one_that_answers_late_is_not_waited_for(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    release, fake = threading.Event(), Fake()
    use(monkeypatch, fake)
    monkeypatch.setitem(trackers.SERVICES, "mlflow", (lambda *_: release.wait() and fake, fake.show))
    monkeypatch.setattr(trackers, "CLOSE_S", 0.05)
    said: list[str] = []
    monkeypatch.setattr(RunLog, "say", lambda self, text: said.append(text))
    with RunLog(config.out, True, 0, 4, config) as log:
        log.record("train", 1, {"loss": 1.0})
    release.set()
    assert len(said) == 1 and "did not take the last figures within 0.05 s" in said[0]


def test_what_is_not_installed_is_refused_before_training(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "_installed", lambda name: name == "tensorboard")
    with pytest.raises(UserError, match=r"names mlflow, which is not installed: .*'unimatch\[mlflow\]'"):
        RunLog(config.out, True, 0, 4, config)
    RunLog(config.out, False, 0, 4, config)  # nor do other processes ask
    config.log.trackers = []
    with RunLog(config.out, True, 0, 4, config) as log:
        log.record("train", 1, {"loss": 1.0})
    assert not (config.out / "tensorboard").exists()
    with pytest.raises(ValueError, match="names mlflow more than once"):
        type(config.log)(trackers=["mlflow", "mlflow"])


def told_to(service: str, config: RunConfig) -> None:
    """A run of two steps in a service, of which the second is a resumed one."""
    Runtime()  # accelerate's trackers ask which process they are in
    config.log.trackers = [service]  # type: ignore[list-item]
    for step in (1, 2):
        with RunLog(config.out, True, step - 1, 2, config) as log:
            log.record("train", step, {"loss": 1.0 / step, "share": {"terrain (low)": 0.5}})
            log.pictures(step, {"labeled": PICTURE})
        assert log.problem is None
        config.log.every_steps += 1  # may differ when a run is resumed


def test_mlflow_has_one_run_with_figures_settings_and_pictures(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow: pip install unimatch[mlflow]")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    told_to("mlflow", config)
    assert "failed" not in "".join(capfd.readouterr())
    (run,) = mlflow.search_runs(experiment_names=["unimatch"], output_format="list")
    assert run.data.metrics["train/loss"] == 0.5 and run.data.metrics["train/share/terrain _low_"] == 0.5
    assert run.data.params["method.name"] == "unimatch" and run.info.status == "FINISHED"
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/loss")
    assert [(one.step, one.value) for one in history] == [(1, 1.0), (2, 0.5)]
    assert sorted(
        one.path for one in mlflow.artifacts.list_artifacts(run_id=run.info.run_id, artifact_path="pictures")
    ) == [
        "pictures/labeled-00000001.png",
        "pictures/labeled-00000002.png",
    ]


def test_trackio_has_one_run_with_figures_settings_and_pictures(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    trackio = pytest.importorskip("trackio", reason="the extra trackio: pip install unimatch[trackio]")
    told_to("trackio", config)
    assert "failed" not in "".join(capfd.readouterr())
    (run,) = trackio.Api().runs("unimatch")
    token = (config.out / "tracker_id").read_text().strip()
    assert run.name == f"{config.out.name}-{token}"


def test_wandb_keeps_a_run_without_a_network(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb", reason="the extra wandb: pip install unimatch[wandb]")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    told_to("wandb", config)
    assert "failed" not in "".join(capfd.readouterr())
    token = (config.out / "tracker_id").read_text().strip()
    kept = sorted(config.out.glob(f"wandb/offline-run-*-{token}/run-{token}.wandb"))
    assert kept and all(one.stat().st_size for one in kept)
