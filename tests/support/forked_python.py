#!/usr/bin/env -S python3 -IS
"""In the place of `python` where a command starts Python by itself: the process is a fork of a warm one.

WARM_PYTHON is the address of its server. This process stands for the other: it passes signals on, ends as it
does, and takes it along when it is killed. A fork that starts `sys.executable` starts this file.
Options before the program, as in `python -I FILE`, are for an interpreter of their own and get one, but -u.
"""

import json
import os
import signal
import socket
import sys
from contextlib import suppress

NAMESPACES = ("user", "mnt", "net")  # which its fork enters, in this order
PASSED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


def main(args):
    address = os.environ["WARM_PYTHON"]
    if args[0] == "-u":
        args = args[1:]
    if args[0].startswith("-") and args[0] not in ("-m", "-c"):
        os.execv(sys.executable, [sys.executable, *args])
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    request = {"args": args, "cwd": os.getcwd(), "env": dict(os.environ), "executable": __file__}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server, theirs:
        server.connect(address)
        files = [theirs.fileno(), 1, 2]
        files += [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in NAMESPACES]
        socket.send_fds(server, [json.dumps(request).encode()], files)
    pid = int(ours.recv(64))

    def pass_on(number, _):
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    for number in PASSED:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED)
    code = int(ours.recv(64))
    if code < 0:
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
