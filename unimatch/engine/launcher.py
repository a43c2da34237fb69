"""`--launch`: the processes of a command, started by accelerate; how they ended, they alone say."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from unimatch import shipped
from unimatch.errors import UserError, summary


def add_launch_options(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--launch",
        metavar="FILE",
        help="start processes as this launch file of accelerate says, or the one of that name that came "
        "with unimatch (cpu2, gpu8, zero2, ...)",
    )
    parser.add_argument(
        "--processes", type=int, metavar="N", help="with --launch: how many, in place of the file's number"
    )


def launched(module: str, options: argparse.Namespace, args: Sequence[str]) -> bool:
    """Whether `options` ask for processes. They have then run `python -m MODULE` with the other arguments;
    SystemExit, with their status, if one failed.
    """
    path = launch_path(options)
    if path is None:
        return False
    own = argparse.ArgumentParser(allow_abbrev=False)
    add_launch_options(own)
    status = _launch(path, options.processes, module, own.parse_known_args(args)[1])
    if status:
        sys.exit(status)
    return True


def launch_path(options: argparse.Namespace) -> Path | None:
    """The launch file that `options` name; None: they ask for no processes. UserError: a wrong file"""
    if options.launch is None:
        if options.processes is not None:
            raise UserError("--processes is the number of processes of --launch: name a launch file too")
        return None
    if "LOCAL_RANK" in os.environ:
        raise UserError("--launch starts processes, and this one was started by a launcher: leave it out")
    path = shipped.found(options.launch, "launch")
    if not path.is_file():
        names = summary(shipped.of_kind("launch"), 20)
        raise UserError(
            f"--launch {options.launch}: no such file, and none of that name came with unimatch: {names}"
        )
    return path


def apart(module: str, arguments: Sequence[str]) -> int:
    """Exit status of `python -m MODULE ARGUMENTS`, below 0 where a signal killed it; this process waits.

    SIGTERM is passed on; Ctrl-C reaches both.
    """
    running: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: object) -> None:
        if not running:
            sys.exit(128 + number)
        running[0].send_signal(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        running.append(subprocess.Popen([sys.executable, "-m", module, *arguments]))
        return running[0].wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _launch(path: Path, processes: int | None, module: str, arguments: Sequence[str]) -> int:
    """The exit status: of several processes, that of the first one that failed."""
    # Seconds of imports that other starts do without.
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    count = [] if processes is None else ["--num_processes", str(processes)]
    command = ["--config_file", str(path), *count, "-m", module, *arguments]
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun sets it too, with a line of its own
    # Torchrun has handlers of its own for several processes; what waits for a single one has none.
    signal.signal(signal.SIGTERM, _pass_on)
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches the process too, which then ends
    try:
        launch_command(launch_command_parser().parse_args(command))
    except ChildFailedError as error:  # the process has said why
        return abs(error.get_first_failure()[1].exitcode)
    except subprocess.CalledProcessError as error:  # so has a single one
        return abs(error.returncode)
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"--launch: {path} is no launch file of accelerate ({error})") from error
    return 0


def _pass_on(number: int, _: object) -> None:
    """To the processes that this one has started."""
    for child in psutil.Process().children():
        child.send_signal(number)
