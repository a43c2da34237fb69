"""What is given away of a run: a run folder that `load` takes, of one checkpoint without its optimiser."""

from __future__ import annotations

import shutil
from pathlib import Path

from unimatch.engine import checkpoint
from unimatch.engine.run_folder import read_config

CARD = "README.md"


def fill(folder: Path, run: Path, which: str, card: str) -> int:
    """Fills an empty folder with the configuration, the figures and one checkpoint's networks of a run, and
    its card. The bytes that lie there then.

    which: "last", "best", or the number of a step; it is the last one of the new folder.
    """
    read_config(run)
    source = checkpoint.find(run, which)
    target = folder / "checkpoints" / f"step_{checkpoint.load_state(source).step:08d}"
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.suffix == ".safetensors" or path.name == "trainer.json":
            shutil.copy(path, target / path.name)
    for name in ("config.yaml", "metrics.jsonl"):
        if (run / name).exists():
            shutil.copy(run / name, folder / name)
    (folder / CARD).write_text(card)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
