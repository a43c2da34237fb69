"""The command `unimatch compare`, from a clone: the arguments are the same."""

import sys

from unimatch.compare import main
from unimatch.engine.entry import run_entry

if __name__ == "__main__":
    sys.exit(run_entry(main))
