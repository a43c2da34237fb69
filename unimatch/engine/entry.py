"""How every command ends: a user's mistake is one message, anything else keeps its traceback."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import torch.distributed as dist

from unimatch.engine import roll_call
from unimatch.engine.signals import Stopped
from unimatch.engine.threads import limit_threads
from unimatch.errors import UserError, of_system

LAUNCHER_S = 2.0  # a launcher looks every 0.1 s, and should name the process that ended first
GLOO_MARKS = ("gloo/", "Application timeout caused pair closure")
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # where a process leaves what its launcher prints last


class Parser(argparse.ArgumentParser):
    """A mistake in the arguments is a UserError: told once, whatever the number of processes."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def run_entry(main: Callable[[list[str]], None]) -> int:
    """Runs a command with the arguments of this process and returns its exit status.

    A UserError is the same on all processes by then (Runtime.together): one process a node prints it.
    """
    limit_threads()
    # A bug leaves here, in the process group: the others notice only when this process has told it and ended.
    status = _status(main)
    if dist.is_initialized():
        dist.destroy_process_group()
    return status


def _status(main: Callable[[list[str]], None]) -> int:
    tells = os.environ.get("LOCAL_RANK", "0") == "0"
    try:
        main(sys.argv[1:])
    except Stopped as stopped:
        if tells:
            print(stopped, file=sys.stderr, flush=True)
        return stopped.code
    except UserError as error:
        return _end(str(error), tells)
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:  # no path that someone gave: a bug
            raise
        return _end(of_system(error), tells)
    except RuntimeError as error:
        if not _lost_a_process(error):
            raise
        text = f"{error}".splitlines()[0].split(". This is typically")[0]  # gloo goes on with advice
        if dist.is_initialized():
            what = f"another process of the run has ended or cannot be reached ({text})"
            if missing := roll_call.missing():
                what += f", no answer from {missing}"
            what += "; the first message tells why. Continue with --resume"
        else:
            place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            what = (
                f"the processes of the run did not find each other ({text}). Is the number of processes "
                f"right, and {place} (rank 0) open to all hosts?"
            )
        print(f"error: rank {os.environ.get('RANK', '0')}: {what}", file=sys.stderr, flush=True)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            time.sleep(LAUNCHER_S)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _end(message: str, tells: bool) -> int:
    """Tells of an error; the exit status. Under a launcher it is also the last of the many lines that this
    prints about the first process that fails, which is then the one that tells.
    """
    if tells:
        print(f"error: {message}", file=sys.stderr, flush=True)
        if ERROR_FILE in os.environ:
            told = {"message": f"error: {message}", "timestamp": int(time.time())}
            with suppress(OSError):
                Path(os.environ[ERROR_FILE]).write_text(json.dumps(told))
    elif ERROR_FILE in os.environ:
        time.sleep(LAUNCHER_S)
    return 1


def _lost_a_process(error: RuntimeError) -> bool:
    """Whether a collective failed because another process did: gloo says so in a plain RuntimeError, with the
    line of its source or, where one wait's timeout ended another, without.
    """
    return isinstance(error, dist.DistError) or any(mark in str(error) for mark in GLOO_MARKS)
