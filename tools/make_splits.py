"""The command `unimatch split`, from a clone: the arguments are the same."""

import sys

from unimatch.split import main

if __name__ == "__main__":
    sys.exit(main())
