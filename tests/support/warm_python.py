"""A Python that has imported what the trainer imports, and forks itself for each process that a test starts.

Imports are most of what a process of a tiny run costs: five seconds of CPU. A fork has them at once. It is a
process of its own all the same: its own session, environment, folder, streams and exit status, and the
command runs as `__main__`. What the imports printed, each process prints again.

Three things differ. Variables that are read while importing are the server's, FIXED among them. No import
fails late. The interpreter is left after its exit handlers, before it takes its modules down. So a test that
is about start or end itself starts a fresh interpreter.

This file is both: the client, as a module, and the server, as a script that never imports `tests`.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from select import select
from types import NoneType
from typing import IO, Any, NoReturn

# Not unimatch.train itself: it runs as `__main__`. Not deepspeed: a run without ZeRO must do without it, so
# that those with it have a server of their own.
PRELOADED = (
    "unimatch.engine.build",
    "unimatch.engine.entry",
    "unimatch.engine.preflight",
    "unimatch.engine.run_folder",
    "unimatch.engine.log",
    "torch._inductor.compile_fx",  # DeepSpeed imports it at its start, a compiled run too
    "torch._dynamo.repro.after_dynamo",
    "torch.utils.tensorboard",
    "scipy.ndimage",
)
# Read at import: the same for all that are forked.
FIXED = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


class Forked:
    """One process of a WarmPython, in the manner of `subprocess.Popen`."""

    def __init__(self, status: socket.socket) -> None:
        self._status = status
        self.pid = int(self._read())
        self.returncode: int | None = None

    def _read(self) -> str:
        text = self._status.recv(64).decode()
        assert text, "the warm Python has ended"
        return text

    def poll(self) -> int | None:
        if self.returncode is None and select([self._status], [], [], 0)[0]:
            self.returncode = int(self._read())
            self._status.close()
        return self.returncode

    def wait(self, timeout_s: float | None = None) -> int:
        """The exit status, negative for a signal; TimeoutExpired as Popen's."""
        if self.returncode is None:
            select([self._status], [], [], timeout_s)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout_s or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class WarmPython:
    """The server, which ends with the process that made it."""

    def __init__(self, *preloaded: str) -> None:
        """preloaded: modules to import besides PRELOADED."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *preloaded],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **FIXED},
            )

    def start(
        self, args: Sequence[str], cwd: Path | None, env: Mapping[str, str], out: IO[Any], err: IO[Any]
    ) -> Forked:
        """`python ARGS` in a new session, in the manner of `subprocess.Popen`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {"args": list(args), "cwd": str(cwd or os.getcwd()), "env": dict(env)}
        with theirs:
            files = [theirs.fileno(), out.fileno(), err.fileno()]
            socket.send_fds(self._socket, [json.dumps(request).encode()], files)
        return Forked(ours)

    def close(self) -> None:
        """Ends it, unless a process that it started is still there."""
        self._socket.close()
        with suppress(subprocess.TimeoutExpired):
            self._server.wait(10)


def _preload() -> bytes:
    """Imports PRELOADED; what that printed, for each process to print as if it had done the imports."""
    with tempfile.TemporaryFile() as told:
        streams = os.dup(1), os.dup(2)
        os.dup2(told.fileno(), 1)
        os.dup2(told.fileno(), 2)
        for name in (*PRELOADED, *sys.argv[2:]):
            importlib.import_module(name)
        sys.modules["unimatch.views.resize"].prepare()  # the compiler has half a second of imports of its own
        for stream, standard in zip(streams, (1, 2), strict=True):
            os.dup2(stream, standard)
            os.close(stream)
        told.seek(0)
        text = told.read()
    gc.collect()
    gc.freeze()  # a collection in a fork must not touch, and so copy, what it shares
    return text


def _serve(requests: socket.socket) -> dict[str, Any] | None:
    """Forks a process for each request and returns in it; returns None once nobody can ask any more."""
    while True:
        message, files, *_ = socket.recv_fds(requests, 2**18, 3)
        _reap(0 if not message else os.WNOHANG)
        if not message:
            return None
        if os.fork() == 0:
            requests.close()
            return _child(json.loads(message), *files)
        for file in files:
            os.close(file)


def _reap(options: int) -> None:
    """Waits for the parents of processes that have ended, so that their time counts as the server's."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, options)[0]:
            pass


def _child(request: dict[str, Any], told: int, out: int, err: int) -> dict[str, Any]:
    """Returns in the process that was asked for, whose parent stays to tell how it ends."""
    pid = os.fork()
    if pid:
        for file in (out, err):
            os.close(file)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.write(told, str(code).encode())
        os._exit(0)
    os.setsid()
    os.write(told, str(os.getpid()).encode())
    for file, standard in ((out, 1), (err, 2)):
        os.dup2(file, standard)
    for file in (told, out, err):
        os.close(file)
    os.environ.clear()
    os.environ.update(request["env"])
    tempfile.tempdir = None  # to be found anew, by TMPDIR
    os.chdir(request["cwd"])
    return request


def _end(run: Callable[[], None]) -> NoReturn:
    """Ends this process as an interpreter does after `run`, up to its exit handlers.

    Taking down every inherited module besides would copy their memory: half a second of CPU a process.
    """
    status: object = None
    try:
        run()
    except SystemExit as end:
        status = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    if not isinstance(status, (int, NoneType)):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    gc.collect()  # what still has a destructor: a file, a socket, a group of processes
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


def _become(args: list[str], paths: list[str]) -> None:
    """What `python ARGS` does, after its start."""
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [*(folder for folder in folders if folder and folder not in paths), *paths]
    if args[0] == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = args[1:]
        runpy.run_module(args[1], run_name="__main__", alter_sys=True)
    elif args[0] == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *args[2:]]
        exec(compile(args[1], "<string>", "exec"), globals())
    else:
        sys.argv = args
        sys.path.insert(0, str(Path(args[0]).parent))
        runpy.run_path(args[0], run_name="__main__")


if __name__ == "__main__":
    own_paths = sys.path[1:]
    sys.path[0] = os.getcwd()
    printed = _preload()
    wanted = _serve(socket.socket(fileno=int(sys.argv[1])))
    if wanted is not None:
        os.write(2, printed)
        _end(partial(_become, wanted["args"], own_paths))
