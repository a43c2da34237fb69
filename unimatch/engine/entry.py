"""How every command ends: a user's mistake is one message, anything else keeps its traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import torch.distributed as dist

from unimatch.engine.trainer import Stopped
from unimatch.errors import UserError


def run_entry(main: Callable[[list[str]], None]) -> int:
    """Runs a command with the arguments of this process and returns its exit status.

    A UserError is the same on all processes by then (Runtime.together): one process a node prints it.
    """
    tells = os.environ.get("LOCAL_RANK", "0") == "0"
    try:
        main(sys.argv[1:])
    except Stopped as stopped:
        if tells:
            print(stopped, file=sys.stderr, flush=True)
        return stopped.code
    except UserError as error:
        if tells:
            print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0
