# SPDX-License-Identifier: GPL-2.0-or-later
"""A crowd at the store: two hundred guests' watches, and eight clients' transactions at once.

Each transaction adds one to a counter that all share, and writes a node of the client's own.
Whoever meets a conflict tries again; at the end nothing may be missing.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

from xenograft.store.client import StoreClient
from xenograft.store.server import SocketServer
from xenograft.store.service import Xenstore

GUESTS = 200
WATCHES = 16
CLIENTS = 8
ROUNDS = 12_500
WARM_UP = 200
SHARED = 50
"""One transaction in so many is on the counter that all share."""

# A process of its own: it asks and waits, with nothing but the wire protocol.
_CLIENT = """
import socket, struct, sys
path, me, rounds, shared = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
READ, START, END, WRITE, ERROR = 2, 6, 7, 11, 16
sock = socket.socket(socket.AF_UNIX)
sock.connect(path)
file = sock.makefile("rb")

def ask(kind, tx, payload):
    sock.sendall(struct.pack("<IIII", kind, 0, tx, len(payload)) + payload)
    reply, _, _, size = struct.unpack("<IIII", file.read(16))
    return reply, file.read(size)

done = conflicts = 0
while done < rounds:
    node = b"/crowd/all\\0" if done % shared == 0 else b"/crowd/%s\\0" % me.encode()
    tx = int(ask(START, 0, b"\\0")[1][:-1])
    value = int(ask(READ, tx, node)[1])
    ask(WRITE, tx, node + b"%d" % (value + 1))
    reply, text = ask(END, tx, b"T\\0")
    if reply == ERROR:
        assert text == b"EAGAIN\\0", text
        conflicts += 1
    else:
        done += 1
print(conflicts)
"""


def crowd(server: SocketServer, rounds: int) -> int:
    """Run the clients side by side; how many conflicts they met in all."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _CLIENT, str(server.path), str(me), str(rounds), str(SHARED)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for me in range(CLIENTS)
    ]
    conflicts = 0
    for process in running:
        output, _ = process.communicate(timeout=250)
        assert process.returncode == 0
        conflicts += int(output)
    return conflicts


def blocks() -> int:
    """How many blocks of memory Python has handed out."""
    gc.collect()
    return sys.getallocatedblocks()


def test_nothing_is_lost_in_a_crowd(tmp_path: Path) -> None:
    store = Xenstore()
    dom0 = StoreClient(store)
    for name in ("all", *map(str, range(CLIENTS))):
        dom0.write(f"/crowd/{name}", 0)
    heard: list[str] = []
    guests = []
    for domid in range(1, GUESTS + 1):
        home = f"/local/domain/{domid}"
        dom0.write(home, "")
        dom0.set_perms(home, [f"n{domid}"])
        guest = StoreClient(store, domid)
        guests.append(guest)
        for index in range(WATCHES - 1):
            guest.watch(f"device/{index}", lambda path, _token: heard.append(path))
    dom0.watch("/crowd/all", lambda path, _token: heard.append(path))
    heard.clear()
    with SocketServer(store, tmp_path / "socket") as server:
        server.start()
        crowd(server, WARM_UP)
        before = blocks()
        conflicts = crowd(server, ROUNDS)
        grown = blocks() - before
    each = WARM_UP + ROUNDS
    shared = CLIENTS * (-(-WARM_UP // SHARED) + -(-ROUNDS // SHARED))
    assert int(dom0.read("/crowd/all")) == shared
    total = sum(int(dom0.read(f"/crowd/{me}")) for me in range(CLIENTS))
    assert total + shared == CLIENTS * each
    # With so much going on at once, somebody must have got into somebody's way.
    assert conflicts > 0
    assert heard.count("/crowd/all") == shared
    # A leak of one object in ten transactions would show.
    assert grown < 10_000, f"{grown} blocks of memory more than before"
    assert len(store.history) == 0
    # The guests are still there to be woken, each by its own.
    heard.clear()
    for domid in range(1, GUESTS + 1):
        dom0.write(f"/local/domain/{domid}/device/3", "x")
    assert len(heard) == GUESTS
