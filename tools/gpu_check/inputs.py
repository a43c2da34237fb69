"""The share of its time that training waits for samples, with real shards and real workers."""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path

import torch

from unimatch import config as config_io
from unimatch.engine.log import read_metrics
from unimatch.engine.run_config import RunConfig
from unimatch.packing.splits import draw_splits, write_split
from unimatch.packing.synthetic import write_synthetic
from unimatch.shardset.archive import ShardSet
from unimatch.train import train_runs

from .cases import cases
from .results import Teller

GOAL = 0.03  # of a step
EVERY = 10  # steps a logged line
RUN = """
data:
  shards: {root}/set
  labeled: {root}/split/labeled.txt
  unlabeled: {root}/split/unlabeled.txt
  workers: {workers}
out: {root}/{name}
schedule: {{steps: {steps}}}
log: {{every_steps: {every}, pictures_every_steps: 0}}
checkpoint: {{every_steps: {steps}}}
"""


def run(teller: Teller) -> None:
    case = cases(teller.rehearsal)["r101-321"]
    count, size = (24, (48, 64)) if teller.rehearsal else (512, (375, 500))  # as of Pascal
    steps, every = (4, 2) if teller.rehearsal else (50, EVERY)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        cores = len(os.sched_getaffinity(0))
        write_synthetic(root / "set", train=count, val=1, height=size[0], width=size[1], workers=cores)
        write_split(draw_splits(ShardSet.open(root / "set"), "train", [count // 4])[0], root / "split")
        for workers in (1,) if teller.rehearsal else (8, 16):
            for views in ("cpu", "accelerator"):
                name = f"{workers} workers, views by the {'workers' if views == 'cpu' else 'device'}"
                if teller.left_s < 8:
                    teller.tell(name, note="not measured: no time was left")
                    continue
                precision = "bf16" if torch.cuda.is_available() else "fp32"
                text = _merged(
                    case.yaml(precision=precision, views=views),
                    RUN.format(
                        root=root, name=f"{views}{workers}", workers=workers, steps=steps, every=every
                    ),
                )
                config = config_io.from_text(text, RunConfig)
                train_runs([config], resume=False, timeout_s=60.0)
                lines = read_metrics(config.out, "train")[
                    2 if not teller.rehearsal else 0 :
                ]  # without the start
                wait = statistics.median(line["data_wait"] for line in lines)
                teller.tell(
                    name,
                    passed=None if teller.rehearsal else wait <= GOAL,
                    wait_share=round(wait, 4),
                    images_s=round(statistics.median(line["images_per_s"] for line in lines), 1),
                    queue=round(statistics.median(line["data_queue"] for line in lines), 1),
                    decode_ms=round(1e3 * statistics.median(line["data_decode_s"] for line in lines), 1),
                    views_ms=round(1e3 * statistics.median(line["data_views_s"] for line in lines), 1),
                )


def _merged(text: str, own: str) -> str:
    """A case's configuration with a run's own sections in place of the case's."""
    names = [line.split(":")[0] for line in own.splitlines() if line and line[0].isalpha()]
    kept = [line for line in text.splitlines() if line.split(":")[0] not in names]
    return "\n".join(kept) + own
