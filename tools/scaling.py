"""The command `unimatch scale`, from a clone: the arguments are the same."""

import sys

from unimatch.engine.entry import run_entry
from unimatch.scale import main

if __name__ == "__main__":
    sys.exit(run_entry(main))
