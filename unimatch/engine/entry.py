"""How every command ends: a user's mistake is one message, anything else keeps its traceback."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable
from typing import NoReturn

import torch.distributed as dist

from unimatch.engine.trainer import Stopped
from unimatch.errors import UserError, of_system


class Parser(argparse.ArgumentParser):
    """A mistake in the arguments is a UserError: told once, whatever the number of processes."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


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
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:  # no path that someone gave: a bug
            raise
        if tells:
            print(f"error: {of_system(error)}", file=sys.stderr, flush=True)
        return 1
    except RuntimeError as error:
        if not _lost_a_process(error):
            raise
        text = f"{error}".splitlines()[0]
        print(
            f"error: rank {os.environ.get('RANK', '0')}: another process of the run has ended or cannot be "
            f"reached ({text}); the first message tells why. Continue with --resume",
            file=sys.stderr,
            flush=True,
        )
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


def _lost_a_process(error: RuntimeError) -> bool:
    """Whether a collective failed because another process did: gloo says so in a plain RuntimeError."""
    return dist.is_initialized() and (isinstance(error, dist.DistError) or "gloo/" in str(error))
