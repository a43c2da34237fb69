"""The command `unimatch pack`, from a clone: the arguments are the same."""

import sys

from unimatch.pack import main

if __name__ == "__main__":
    sys.exit(main())
