"""Two hosts on one machine: network namespaces, joined by a link that can be cut, or by one that is slow."""

from __future__ import annotations

import fcntl
import heapq
import os
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
MTU = 9000
INTERFACE = "link0"
ADDRESSES = ("10.213.77.1", "10.213.77.2")


def why_not() -> str | None:
    """Why this machine cannot play two hosts; none: it can."""
    if shutil.which("ip") is None:
        return "two hosts need the command `ip` (iproute2)"
    name = f"probe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"two hosts need `ip netns add`, which is refused here: {made.stderr.strip()}"
    _ip("netns", "del", name)
    return None


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


class Hosts:
    """Two namespaces whose `link0` have ADDRESSES. delay_s: of the link, each way; none: an ordinary one."""

    def __init__(self, delay_s: float | None = None) -> None:
        self.names = tuple(f"host{end}-{os.getpid()}" for end in "ab")
        self._slow: _SlowLink | None = None
        for name in self.names:
            _ip("netns", "add", name)
        ends = [f"{end}{os.getpid()}" for end in "xy"]
        if delay_s is None:
            _ip(
                "link",
                "add",
                ends[0],
                "mtu",
                f"{MTU}",
                "type",
                "veth",
                "peer",
                "name",
                ends[1],
                "mtu",
                f"{MTU}",
            )
        else:
            self._slow = _SlowLink(ends, delay_s)
        for name, end, address in zip(self.names, ends, ADDRESSES, strict=True):
            _ip("link", "set", end, "netns", name, "name", INTERFACE)
            _ip("-n", name, "address", "add", f"{address}/24", "dev", INTERFACE)
            _ip("-n", name, "link", "set", INTERFACE, "mtu", f"{MTU}", "up")
            _ip("-n", name, "link", "set", "lo", "up")

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *_: object) -> None:
        if self._slow:
            self._slow.close()
        for name in self.names:
            _ip("netns", "del", name)

    def link(self, state: str) -> None:
        """Cuts the link ("down") or mends it ("up")."""
        _ip("-n", self.names[0], "link", "set", INTERFACE, state)

    def inside(self, host: int, command: Sequence[str]) -> list[str]:
        """The command that runs `command` on a host."""
        return ["ip", "netns", "exec", self.names[host], *command]


class _SlowLink:
    """Two network devices; what one sends, the other receives `delay_s` later.

    Not the kernel's netem, which few containers and virtual machines have: a thread carries the packets.
    """

    def __init__(self, names: Sequence[str], delay_s: float) -> None:
        self._delay_s = delay_s
        self._files = []
        for name in names:
            file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
            self._files.append(file)
        self._open = True
        self._thread = threading.Thread(target=self._carry)
        self._thread.start()

    def _carry(self) -> None:
        under_way: list[tuple[float, int, int, bytes]] = []  # due, order, to, packet
        sent = 0
        while self._open:
            wait_s = max(0.0, under_way[0][0] - time.monotonic()) if under_way else 0.1
            ready, _, _ = select.select(self._files, [], [], min(wait_s, 0.1))
            for file in ready:
                with suppress(OSError):  # a device that is down has nothing
                    packet = os.read(file, MTU + 100)
                    to = self._files[1 - self._files.index(file)]
                    sent += 1
                    heapq.heappush(under_way, (time.monotonic() + self._delay_s, sent, to, packet))
            while under_way and under_way[0][0] <= time.monotonic():
                _, _, to, packet = heapq.heappop(under_way)
                with suppress(OSError):
                    os.write(to, packet)

    def close(self) -> None:
        self._open = False
        self._thread.join()
        for file in self._files:
            os.close(file)
