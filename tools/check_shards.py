"""The command `unimatch check`, from a clone: the arguments are the same."""

import sys

from unimatch.check import main

if __name__ == "__main__":
    sys.exit(main())
