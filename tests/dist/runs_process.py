"""Trains run configurations in this process's group, one after the other, each in the layout named with it.

Arguments: LAYOUT CONFIG LAYOUT CONFIG ...; a layout is 0 (DDP), a stage of ZeRO, or fsdp. `labels
CONFIG:OUT` labels the unlabelled samples of a run that has been trained. One start of the group serves all:
it takes longer than the steps. A UNet is built narrow.
"""

import os
import sys
from pathlib import Path

from tests.dist.test_zero import zero
from tests.support.label_sets import label_and_compare
from tests.support.launches import fsdp
from tests.support.narrow import NARROW_UNET
from unimatch import config as config_io
from unimatch.engine.build import build_trainer
from unimatch.engine.log import RunLog
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import open_data
from unimatch.engine.run_folder import start_run_folder
from unimatch.engine.runtime import Runtime
from unimatch.models import unet

LAYOUTS = {
    "0": {},
    **{str(stage): zero(stage) for stage in (1, 2, 3)},
    "fsdp": fsdp(),
}


def launch_as(layout: str) -> None:
    """Sets what a launch of this layout would have set, and nothing of another one."""
    for name in {name for told in LAYOUTS.values() for name in told}:
        os.environ.pop(name, None)
    os.environ.update(LAYOUTS[layout])


if __name__ == "__main__":
    layout, runtime = "", None
    unet.WIDTHS = NARROW_UNET
    for asked, path in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        if asked == "labels":
            config_path, _, out = path.partition(":")
            label_and_compare(config_io.load(config_path, RunConfig), Path(out), runtime or Runtime())
            continue
        if runtime is None or asked != layout:
            layout = asked
            launch_as(layout)
            runtime = Runtime()
        config = config_io.load(path, RunConfig)
        trainer, _ = build_trainer(config, open_data(config), runtime, resume=False)
        if runtime.is_main:
            start_run_folder(config, resume=False)
        runtime.barrier()
        with RunLog(config.out, runtime.is_main, 0, trainer.total_steps) as log:
            trainer.train(log)
        runtime.release()
    runtime.close()
