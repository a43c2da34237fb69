"""The command `unimatch bench`, from a clone: the arguments are the same."""

import sys

from unimatch.bench import main

if __name__ == "__main__":
    sys.exit(main())
