"""Trains each run configuration named on the command line in this process's group, one after the other.

One start of the group serves all of them: it takes longer than twenty steps of a tiny run.
"""

import sys

from unimatch import config as config_io
from unimatch.engine.build import build_trainer
from unimatch.engine.log import RunLog
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import open_data
from unimatch.engine.run_folder import start_run_folder
from unimatch.engine.runtime import Runtime

if __name__ == "__main__":
    runtime = Runtime()
    for path in sys.argv[1:]:
        config = config_io.load(path, RunConfig)
        trainer, _ = build_trainer(config, open_data(config), runtime, resume=False)
        if runtime.is_main:
            start_run_folder(config, resume=False)
        runtime.barrier()
        with RunLog(config.out, runtime.is_main, 0, trainer.total_steps) as log:
            trainer.train(log)
    runtime.close()
