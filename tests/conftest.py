"""What all tests share: where real data is, a tiny shard set, and a tiny run.

Imports of the package are in the fixtures: the process that only hands tests to others needs none of torch.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from unimatch.engine.run_config import RunConfig

# Read by torch when it is imported: on few cores the thread pools of several processes would fight.
os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).parent.parent

TINY_RUN = """
out: {out}
data:
  {{shards: {shards}, labeled: {split}/labeled.txt, unlabeled: {split}/unlabeled.txt, val: val, workers: 1}}
batch: {{labeled: 4, unlabeled: 4}}
model:
  encoder: {{name: test_efficientnet, weights: none, output_stride: 16}}
  head: {{name: deeplabv3plus, channels: 32}}
method: {{name: unimatch}}
task:
  name: natural
  views: {{crop: 48}}
optimizer: {{lr: 0.01}}
schedule: {{steps: 20}}
log: {{every_steps: 1, pictures_every_steps: 0}}
evaluation: {{every_steps: 10, workers: 0}}
checkpoint: {{every_steps: 10}}
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough",
        action="store_true",
        help="each method for 20 steps on each task, and under each stage of ZeRO: some minutes more",
    )


def tiny_run_text(out: Path, shards: Path | str, split: Path | None = None) -> str:
    """The configuration of a 20-step run; its split lies beside the shards unless it is given."""
    return TINY_RUN.format(out=out, shards=shards, split=split or Path(shards).parent / "split")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What it imports and makes stays: looking for garbage in that would be a quarter of its time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        gc.set_threshold(20_000, 10, 10)  # a test makes a network or two, not garbage by the million


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real data sets in their native layouts."""
    folder = Path(os.environ.get("UNIMATCH_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(
            f"no real data at {folder}; set UNIMATCH_TEST_DATA to a folder that holds camvid/, voc2012/ ..."
        )
    return folder


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 training and 10 validation scenes as shards; beside them `split/`, with 6 labelled."""
    from unimatch.packing.splits import draw_splits, write_split
    from unimatch.packing.synthetic import write_synthetic
    from unimatch.shardset.archive import ShardSet

    folder = tmp_path_factory.mktemp("tiny") / "shards"
    write_synthetic(folder, train=40, val=10, height=48, width=64, seed=0)
    write_split(draw_splits(ShardSet.open(folder), "train", [6])[0], folder.parent / "split")
    return folder


@pytest.fixture
def tiny_run(tiny_shards: Path, tmp_path: Path) -> Path:
    """The configuration file of a 20-step run; its folder is `run` beside the file."""
    path = tmp_path / "run.yaml"
    path.write_text(tiny_run_text(tmp_path / "run", tiny_shards))
    return path


@pytest.fixture
def tiny_config(tiny_run: Path) -> RunConfig:
    from unimatch import config as config_io
    from unimatch.engine.run_config import RunConfig

    return config_io.load(tiny_run, RunConfig)
