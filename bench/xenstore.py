# SPDX-License-Identifier: GPL-2.0-or-later
"""What a program waits for the store: one client on the socket, and large directories."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.harness import Result
from xenograft.store.client import StoreClient
from xenograft.store.server import SocketServer
from xenograft.store.service import Xenstore

_READS = 20_000
_ENTRIES = 10_000
_EVENTS = 50
_PATH = "/local/domain/1/device/vbd/51712/state"

# The client is a process of its own; it asks, and waits for the answer, again and again.
_CLIENT = f"""
import socket, struct, sys, time
path = b"{_PATH}\\0"
message = struct.pack("<IIII", 2, 1, 0, len(path)) + path
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
begin = time.perf_counter()
for _ in range({_READS}):
    sock.send(message)
    sock.recv(4096)
print((time.perf_counter() - begin) / {_READS} * 1e6)
"""


def read_over_socket() -> float:
    """Microseconds of one read, best of three clients that come one after the other."""
    store = Xenstore()
    StoreClient(store).write(_PATH, "4")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "socket"
        with SocketServer(store, path) as server:
            server.start()
            command = [sys.executable, "-c", _CLIENT, str(path)]
            runs = [subprocess.run(command, capture_output=True, check=True) for _ in range(3)]
    return min(float(run.stdout) for run in runs)


def large_directory() -> tuple[float, float]:
    """Microseconds of one write into a directory of ten thousand, and of listing it."""
    client = StoreClient(Xenstore())
    for i in range(_ENTRIES):
        client.write(f"/big/{i}", "")
    begin = time.perf_counter()
    for i in range(_ENTRIES):
        client.write(f"/big/{i}", "x")
    wrote = time.perf_counter() - begin
    begin = time.perf_counter()
    client.ls("/big")
    return wrote / _ENTRIES * 1e6, (time.perf_counter() - begin) * 1e6


def watch_event() -> tuple[float, float]:
    """Microseconds from a write until a Linux guest takes the event, and until it has answered.

    The guest sleeps; its balloon driver watches memory/target and reads it when it changes.  The
    event is there when the guest is interrupted for it.  The answer, its first request, holds the
    awakening of two of the guest's threads beside the way back.
    """
    from xenograft import Machine
    from xenograft.toolstack.images.cache import ImageCache

    cache = ImageCache()
    there: list[float] = []
    back: list[float] = []
    with Machine() as machine:
        guest = machine.create_pvh(
            kernel=cache.get("debian-cloud").path,
            ramdisk=cache.get("demo-initrd").path,
            cmdline='console=hvc0 quiet xg.run="sleep 1000"',
        )
        guest.console.expect("demo-initrd: user space", 120)
        machine.run(timeout=1.0, until=lambda: False)
        services, target = machine.services, f"/local/domain/{guest.domid}/memory/target"
        value = services.client.read(target)
        taken: list[float] = []
        answers: list[float] = []

        def answered(domid: int, *_: object) -> None:
            if domid == guest.domid:
                answers.append(time.perf_counter())
                machine.hypervisor.attention = True

        services.store.on_request = answered
        machine.hypervisor.instruments.injection = lambda *_: taken.append(time.perf_counter())
        for _ in range(_EVENTS):
            machine.run(timeout=0.02, until=lambda: False)
            answers.clear()
            taken.clear()
            begin = time.perf_counter()
            services.client.write(target, value)
            machine.run(timeout=5.0, until=lambda: bool(answers))
            there.append((taken[0] - begin) * 1e6)
            back.append((answers[0] - begin) * 1e6)
    return statistics.median(there), statistics.median(back)


def run(runs: int) -> list[Result]:
    """A read per 50 us is the promise of 20,000 reads a second."""
    write, listing = large_directory()
    there, back = watch_event()
    return [
        Result("xenstore read over the socket", read_over_socket(), "us", 50.0),
        Result("xenstore write among 10,000 nodes", write, "us", 200.0),
        Result("xenstore watch event to a guest", there, "us", 1000.0),
        Result("  and back", back, "us"),
        Result("xenstore list of 10,000 nodes", listing, "us", 50_000.0),
    ]
