"""A published run in slices: each continues where the one before was stopped, on this machine or another.

ACDC, 7 labelled cases, UniMatch, the whole published schedule. `build/gpu_check` holds the slices (acdc.zip,
see `slices`) and, from the second time on, what the time before left in its report's folder (accuracy.tar).
The volumes of the test do not travel: the last checkpoint is evaluated where they are, without a GPU.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import tarfile
import tempfile
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from unimatch import config as config_io
from unimatch import shipped
from unimatch.engine.checkpoint import last_checkpoint, load_state
from unimatch.engine.log import read_metrics
from unimatch.engine.run_config import RunConfig
from unimatch.engine.signals import Stopped
from unimatch.packing import folder
from unimatch.packing.recipe import Recipe
from unimatch.train import train_runs

from . import slices
from .carry import CARRIED
from .results import Teller

DATA, STATE = "acdc.zip", "accuracy.tar"
KEPT = ("config.yaml", "env.json", "metrics.jsonl", "last")  # of a run folder, with what `last` points to
SAVE_S = 20.0  # for the checkpoint after the signal, and for the archive
MOST_WORKERS = 12


def run(teller: Teller) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        archive = _made_up(root) if teller.rehearsal else CARRIED / DATA
        if not archive.exists():
            teller.tell(
                "ACDC", passed=False, note=f"{archive} is not there: python -m gpu_check.slices makes it"
            )
            return
        count = slices.read(archive, root / "files")
        whole = config_io.load(shipped.found("acdc", "recipes"), Recipe)
        recipe = replace(whole, subsets={"train": whole.subsets["train"]})
        workers = min(MOST_WORKERS, len(os.sched_getaffinity(0)))
        folder.pack(recipe, root / "files", root / "set", workers)
        teller.tell("ACDC: slices", passed=count == (12 if teller.rehearsal else 1312), slices=count)
        _train(teller, root, workers)


def _train(teller: Teller, root: Path, workers: int) -> None:
    out = root / "run"
    changes = [
        f"out={out}",
        f"data.shards={root / 'set'}",
        "data.val=null",
        f"data.workers={max(1, workers - 1)}",
    ]
    changes += ["log.pictures_every_steps=0", "log.every_steps=98"]
    if teller.rehearsal:
        (teller.out / "labeled.txt").write_text("".join(f"data/slices/{number:02}\n" for number in range(4)))
        changes += [
            f"data.split={teller.out / 'labeled.txt'}",
            "batch={labeled: 2, unlabeled: 2}",
            "task.views.crop=32",
        ]
        changes += ["schedule={steps: 4, epochs: null}", "log.every_steps=1", "data.workers=0"]
    config = config_io.load("base/acdc.yaml", RunConfig, changes)
    before = (teller.out if teller.rehearsal else CARRIED) / STATE
    if before.exists():
        with tarfile.open(before) as tar:
            tar.extractall(out, filter="data")
    resumed = last_checkpoint(out)
    state = load_state(resumed) if resumed else None
    if state is None or state.step != state.total:
        timer = threading.Timer(max(1.0, teller.left_s - SAVE_S), os.kill, (os.getpid(), signal.SIGTERM))
        timer.daemon = True
        timer.start()
        with suppress(Stopped):
            train_runs([config], resume=resumed is not None, timeout_s=120.0)
        timer.cancel()
    _tell(teller, out, state.step if state else 0)


def _tell(teller: Teller, out: Path, began: int) -> None:
    saved = last_checkpoint(out)
    assert saved is not None, "a run that ends has saved"
    state = load_state(saved)
    _keep(out, teller.out / STATE)
    lines = read_metrics(out, "train")[-20:]
    step_s = statistics.median(line["step_s"] for line in lines)
    total = state.total or state.step
    again = f"copy {STATE} into build/gpu_check and run --parts accuracy again"
    teller.tell(
        "ACDC, 7 cases",
        from_step=began,
        to_step=state.step,
        of=total,
        step_ms=round(1e3 * step_s, 2),
        loss=round(statistics.fmean(line["loss"] for line in lines), 4),
        minutes_left=round((total - state.step) * step_s / 60, 1),
        note=again if state.step < total else f"finished: unpack {STATE} and evaluate it (docs/gpu.md)",
    )


def _keep(out: Path, target: Path) -> None:
    """The archive from which the next slice continues, with the last checkpoint alone: 15 MB."""
    with tarfile.open(target, "w") as tar:
        for name in KEPT:
            tar.add(out / name, arcname=name)
        step = (out / "last").resolve()
        tar.add(step, arcname=str(step.relative_to(out.resolve())))


def _made_up(root: Path) -> Path:
    """An archive of a dozen slices of noise, by the function that makes the true one."""
    import h5py

    source = root / "made_up"
    made = source / "data" / "slices"
    made.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(12):
        with h5py.File(made / f"{number:02}.h5", "w") as file:
            file["image"] = rng.integers(0, 257, (40, 36)).astype(np.float32) / slices.WHITE
            file["label"] = rng.integers(0, 4, (40, 36)).astype(np.uint8)
    slices.write(source, root / DATA)
    shutil.rmtree(source)
    return root / DATA
