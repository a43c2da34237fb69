"""Whether ZeRO-2 and FSDP start on one GPU, train 20 steps, save and end."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from unimatch import shipped
from unimatch.engine.checkpoint import last_checkpoint, load_state
from unimatch.packing.splits import draw_splits, write_split
from unimatch.packing.synthetic import write_synthetic
from unimatch.scaling.spawn import places
from unimatch.shardset.archive import ShardSet

from .correctness import TINY, text_of
from .results import Teller
from .workload import Mode

LAST_LINES = 3


def run(teller: Teller) -> None:
    steps = 2 if teller.rehearsal else 20
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_synthetic(root / "set", train=24, val=1, height=72, width=96, workers=1)
        write_split(draw_splits(ShardSet.open(root / "set"), "train", [6])[0], root / "split")
        zero = {
            "ACCELERATE_USE_DEEPSPEED": "true",
            "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(shipped.found("launch/deepspeed/zero2", "launch")),
        }
        if find_spec("deepspeed") is None:
            teller.tell("ZeRO-2", note="not run: deepspeed is not installed here")
        else:
            _train(teller, root, "ZeRO-2", zero, steps)
        _train(teller, root, "FSDP", {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, steps)


def _train(teller: Teller, root: Path, name: str, launch: dict[str, str], steps: int) -> None:
    mode = Mode(name)
    out = root / name
    (root / f"{name}.yaml").write_text(text_of(root, mode, steps, TINY))
    command = [sys.executable, "-m", "unimatch.train", "--config", str(root / f"{name}.yaml")]
    env = {**os.environ, **places(1)[0], **launch}
    try:
        ended = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=max(1.0, teller.left_s)
        )
    except subprocess.TimeoutExpired:
        teller.tell(name, passed=False, note="not ended in the time that was left")
        return
    print(ended.stdout, ended.stderr)
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if line.strip()]
        told = " | ".join(lines[-LAST_LINES:])[:500]
        teller.tell(name, passed=False, note=told)
        return
    folder = last_checkpoint(out)
    saved = load_state(folder).step if folder else 0
    teller.tell(name, passed=saved == steps, saved_step=saved)
