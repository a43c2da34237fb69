"""Times all-reduces between the processes of a launch: `python -m unimatch.scaling.messages BYTES ...`."""

from __future__ import annotations

import sys

from unimatch.engine.runtime import Runtime

if __name__ == "__main__":
    runtime = Runtime()
    for size in map(int, sys.argv[1:]):
        found = runtime.all_reduce_s(size)
        if runtime.is_main:
            print(f"all_reduce {size} {found:.9f}", flush=True)
    runtime.close()
