"""A Python that has imported what the trainer imports, and forks itself for each process that a test starts.

Imports are most of what a process of a tiny run costs: five seconds of CPU. A fork has them at once. It is a
process of its own all the same: its own session, environment, folder, streams and exit status, and the
command runs as `__main__`. What the imports printed, each process prints again.

Three things differ. Variables that are read while importing are the server's, FIXED among them. No import
fails late. The interpreter is left after its exit handlers, before it takes its modules down. So a test that
is about start or end itself starts a fresh interpreter.

One server serves all test processes of a session, and ends when none is left that has asked it. Where a
command starts Python by itself, forked_python.py does it in the place of the interpreter.

This file is both: the client, as a module, and the server, as a script that never imports `tests`.
"""

from __future__ import annotations

import atexit
import ctypes
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
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
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
    "accelerate.commands.accelerate_cli",
    "torch.distributed.run",
)
# For runs with ZeRO besides: DeepSpeed, and what it imports when it wraps a network.
ZERO = (
    "deepspeed",
    "unimatch.engine.zero",
    "setuptools",
    "distutils.ccompiler",
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.runtime.zero.muon.muon_optimizer",
)
# Read at import: the same for all that are forked.
FIXED = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
FORKED_PYTHON = Path(__file__).with_name("forked_python.py")
SESSION = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
ADDRESS = f"{tempfile.gettempdir()}/warm-python-{SESSION}"
START_S = 120
NAMESPACES = ("user", "mnt", "net")  # of forked_python.py, which its fork enters
LIBC = ctypes.CDLL(None, use_errno=True)


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
    """A connection to the server of this session, which is started by the first that needs it."""

    def __init__(self, *more: str, base: WarmPython | None = None) -> None:
        """more: modules to have imported besides those of `base`, of which the server is then a fork; the
        first one names it.
        """
        self.address = "-".join([ADDRESS, *more[:1]])
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        asked, deadline = False, time.monotonic() + START_S
        while self._socket.connect_ex(self.address):  # nobody there yet, or no longer
            assert time.monotonic() < deadline, f"no warm Python at {self.address}"
            if not asked and base is None:
                _start_server(self.address)
            elif not asked and base is not None:
                base._socket.send(json.dumps({"address": self.address, "more": more}).encode())
            asked = True
            time.sleep(0.02)

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
        self._socket.close()


def _start_server(address: str) -> None:
    """Of two that are started at once, the later one ends: the address is taken."""
    subprocess.Popen(
        [sys.executable, __file__, address],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, **FIXED},
    )


def _preload(names: Sequence[str]) -> bytes:
    """Imports; what that printed, for each process to print as if it had done the imports."""
    with tempfile.TemporaryFile() as told:
        streams = os.dup(1), os.dup(2)
        os.dup2(told.fileno(), 1)
        os.dup2(told.fileno(), 2)
        gc.disable()
        for name in names:
            with suppress(ModuleNotFoundError):  # of another release; a process that needs it says so itself
                importlib.import_module(name)
        _register_encoder()
        # The compiler, the first look at a network and at the packages have half a second of their own.
        sys.modules["unimatch.views.resize"].prepare()
        sys.modules["unimatch.engine.run_folder"]._environment()
        encoders = sys.modules["unimatch.models.encoders"]
        with sys.modules["torch"].random.fork_rng([]):
            encoders.build_encoder(encoders.EncoderConfig("test_efficientnet", "none"))
        for stream, standard in zip(streams, (1, 2), strict=True):
            os.dup2(stream, standard)
            os.close(stream)
        told.seek(0)
        text = told.read()
    gc.enable()
    gc.collect()
    gc.freeze()  # a collection in a fork must not touch, and so copy, what it shares
    return text


def _register_encoder() -> None:
    """Lets timm know the encoder of five convolutions."""
    spec = spec_from_file_location("tiny_encoder", Path(__file__).with_name("tiny_encoder.py"))
    assert spec is not None and spec.loader is not None
    sys.modules["tiny_encoder"] = module = module_from_spec(spec)
    spec.loader.exec_module(module)


def _serve(address: str, names: Sequence[str], printed: bytes = b"") -> tuple[bytes, dict[str, Any]] | None:
    """Imports `names`, then forks a process for each request and returns in it, with what imports printed.

    Returns None once nobody can ask any more, or if there is another server at the address.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(address)
    except OSError:
        return None
    listener.listen()
    printed += _preload(names)
    asking = [listener.accept()[0]]
    while asking:
        ready, _, _ = select([listener, *asking], [], [])
        _reap()
        for one in ready:
            if one is listener:
                asking.append(listener.accept()[0])
                continue
            message, files, *_ = socket.recv_fds(one, 2**18, 3 + len(NAMESPACES))
            if not message:
                asking.remove(one)
                one.close()
            elif os.fork() == 0:
                for other in (listener, *asking):
                    other.close()
                request = json.loads(message)
                if "address" in request:
                    return _serve(request["address"], request["more"], printed)
                return printed, _child(request, *files)
            for file in files:
                os.close(file)
    os.unlink(address)
    return None


def _reap() -> None:
    """Collects the parents of processes that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _child(request: dict[str, Any], told: int, out: int, err: int, *namespaces: int) -> dict[str, Any]:
    """Returns in the process that was asked for. Its parent stays: to tell how it ends, and to end it when
    nobody waits for that any more.
    """
    for name, file in zip(NAMESPACES, namespaces, strict=False):
        if os.fstat(file).st_ino != os.stat(f"/proc/self/ns/{name}").st_ino and LIBC.setns(file, 0):
            raise OSError(ctypes.get_errno(), f"cannot enter the namespace {name}")
        os.close(file)
    pid = os.fork()
    if pid:
        for file in (out, err):
            os.close(file)
        ended = os.pidfd_open(pid)
        if ended not in select([ended, told], [], [])[0]:
            os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with suppress(OSError):
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
    sys.executable = request.get("executable", sys.executable)
    # As torch does when it is imported.
    sys.modules["torch"].set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
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
    if found := _serve(sys.argv[1], PRELOADED):
        text, wanted = found
        os.write(2, text)
        _end(partial(_become, wanted["args"], own_paths))
    os._exit(0)
