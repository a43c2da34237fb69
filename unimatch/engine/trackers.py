"""What else is told of a run beside metrics.jsonl: TensorBoard, and services through accelerate's trackers.

metrics.jsonl holds all figures; a tracker shows them. TensorBoard's files lie on the run's disk: that it is
full is the run's own problem. A service that fails is told once and left out, and no step ever waits for one.
"""

from __future__ import annotations

import importlib.util
import math
import queue
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from unimatch import config as config_io
from unimatch.durable import replace_file
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_folder import flat
from unimatch.errors import UserError

TOKEN = "tracker_id"  # in the run folder
CLOSE_S = 30.0  # how long the end of a run waits for what a service has not been told yet


class Tracker(Protocol):
    """Takes what is told of steps, in their order."""

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def pictures(self, values: Mapping[str, np.ndarray], step: int) -> None:
        """uint8 [H, W, 3] by name."""

    def flush(self) -> None:
        """Returns when what was told is on disk, as far as it goes there."""

    def failure(self) -> str | None:
        """Why it takes no more; said once."""

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run folder. OSError: they cannot be written."""

    def __init__(self, run: Path, start_step: int) -> None:
        # Half a second of import that other processes, and commands that only read logs, do without.
        from torch.utils.tensorboard import SummaryWriter

        # Not accelerate's, which waits for the disk with every line.
        purge = start_step + 1 if start_step else None
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=purge)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def pictures(self, values: Mapping[str, np.ndarray], step: int) -> None:
        for name, picture in values.items():
            self._writer.add_image(name, picture, step, dataformats="HWC")

    def flush(self) -> None:
        self._writer.flush()

    def failure(self) -> str | None:
        return None

    def close(self) -> None:
        self._writer.close()


class Service:
    """A tracker of accelerate's, in a thread of its own: training waits for no answer.

    start: makes the tracker and begins, or continues, its run. show: gives it pictures.
    """

    def __init__(
        self, name: str, start: Callable[[], Any], show: Callable[[Any, Mapping[str, np.ndarray], int], None]
    ) -> None:
        self.name = name
        self._show = show
        self._failed: str | None = None
        self._told = False
        self._tracker: Any = None
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()
        self._jobs.put(lambda: setattr(self, "_tracker", start()))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        kept = {_plain(tag): value for tag, value in values.items() if math.isfinite(value)}
        if kept:
            self._jobs.put(lambda: self._tracker.log(kept, step=step))

    def pictures(self, values: Mapping[str, np.ndarray], step: int) -> None:
        self._jobs.put(lambda: self._show(self._tracker, values, step))

    def flush(self) -> None:
        """Nothing: it is told in its own time."""

    def failure(self) -> str | None:
        if self._failed is None or self._told:
            return None
        self._told = True
        return (
            f"tracker {self.name} failed and is left out from here on ({self._failed}); metrics.jsonl has "
            "all figures"
        )

    def close(self) -> None:
        self._jobs.put(lambda: self._tracker.finish())
        self._jobs.put(None)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive() and self._failed is None:
            self._failed = f"it did not take the last figures within {CLOSE_S:g} s"

    def _work(self) -> None:
        for job in iter(self._jobs.get, None):
            if self._failed is None:
                try:
                    job()
                except Exception as error:  # of any kind: it is a service's
                    text = str(error).strip() or type(error).__name__
                    self._failed = text.splitlines()[0][:300]


def _plain(tag: str) -> str:
    """MLflow takes letters, digits and some marks; class names may have any."""
    return re.sub(r"[^\w\-. /]", "_", tag)


def open_trackers(run: Path, start_step: int, config: RunConfig | None) -> list[Tracker]:
    """Those of the configuration, or TensorBoard. UserError: the package of one is not installed."""
    names = ["tensorboard"] if config is None else config.log.trackers
    for name in names:
        if not _installed(name):
            raise UserError(
                f"log.trackers names {name}, which is not installed: pip install 'unimatch[{name}]'"
            )
    return [
        TensorBoard(run, start_step) if name == "tensorboard" else _service(name, run, config)
        for name in names
    ]


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _service(name: str, run: Path, config: RunConfig | None) -> Service:
    assert config is not None
    start, show = SERVICES[name]
    token, project = _token(run / TOKEN), config.log.project
    settings = {
        key: value if isinstance(value, int | float | str) else str(value)
        for key, value in flat(config_io.plain(config)).items()
    }
    return Service(name, lambda: start(run, project, token, settings), show)


def _token(path: Path) -> str:
    """By which services know this run again when it is resumed."""
    if not path.exists():
        replace_file(path, f"{secrets.token_hex(4)}\n".encode())
    return path.read_text().strip()


def _wandb(run: Path, project: str, token: str, settings: Mapping[str, Any]) -> Any:
    from accelerate.tracking import WandBTracker

    tracker = WandBTracker(project, id=token, name=run.name, dir=str(run), resume="allow")
    tracker.start()
    tracker.store_init_configuration(settings)
    return tracker


def _trackio(run: Path, project: str, token: str, settings: Mapping[str, Any]) -> Any:
    from accelerate.tracking import TrackioTracker

    # Its name is all that a run is known by; and accelerate would give it a configuration too late.
    tracker = TrackioTracker(project, name=f"{run.name}-{token}", resume="allow", config=dict(settings))
    tracker.start()
    return tracker


def _mlflow(run: Path, project: str, token: str, settings: Mapping[str, Any]) -> Any:
    import mlflow
    from accelerate.tracking import MLflowTracker

    known = mlflow.search_runs(
        experiment_names=[project], filter_string=f"tags.unimatch = '{token}'", output_format="list"
    )
    run_id = known[0].info.run_id if known else None
    tracker = MLflowTracker(project, run_id=run_id, run_name=run.name, tags={"unimatch": token})
    tracker.start()
    if not known:  # another value of what it knows is an error, and `log` may differ when a run is resumed
        tracker.store_init_configuration(settings)
    return tracker


def _to_wandb(tracker: Any, pictures: Mapping[str, np.ndarray], step: int) -> None:
    tracker.log_images({name: [picture] for name, picture in pictures.items()}, step=step)


def _to_mlflow(tracker: Any, pictures: Mapping[str, np.ndarray], step: int) -> None:
    import mlflow

    for name, picture in pictures.items():
        mlflow.log_image(picture, artifact_file=f"pictures/{name}-{step:08d}.png")


def _to_trackio(tracker: Any, pictures: Mapping[str, np.ndarray], step: int) -> None:
    import trackio

    tracker.log({name: trackio.Image(picture) for name, picture in pictures.items()}, step=step)


SERVICES = {
    "wandb": (_wandb, _to_wandb),
    "mlflow": (_mlflow, _to_mlflow),
    "trackio": (_trackio, _to_trackio),
}
"""By name: what starts a run, or continues it, and what shows it pictures."""
