# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP between two guests, and between a guest and the host, against QEMU's TCG with virtio-net.

QEMU's guests use its user networking: two of them are two processes, where one reaches the other
through a port that is forwarded.  In both machines one guest serves a file with busybox's httpd,
the other fetches with its wget; the host serves and fetches too.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from bench.harness import OURS, QEMU, Result, alternate, peers
from xenograft.toolstack.images.cache import ImageCache

_SIZE = 64 << 20
_RUNS = 3
_ROUNDS = 4
"""Times that a file is fetched one after the other; the first one's code is new to the engine."""
_PATIENCE = 120

# A server of its own, so that it takes no time from the machine.
_SERVER = f"""
import socket, threading
data = bytes(1 << 20)
def serve(connection):
    connection.recv(4096)
    connection.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Length: {_SIZE}\\r\\n\\r\\n")
    for _ in range({_SIZE >> 20}):
        connection.sendall(data)
    connection.close()
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""

# Two guests on one bridge and one user network; their consoles are the program's output.  The
# second one comes when there's a line of input.
_OURS = """
import sys, threading
from xenograft import Machine
from xenograft.toolstack.config.options import from_options
kernel, ramdisk, port, server, client = sys.argv[1:]
go = []
def wait():
    sys.stdin.readline()
    machine.post(lambda: go.append(True))
def create(name, address, program, user):
    domain = machine.create(from_options(
        None, name=name, kernel=kernel, ramdisk=ramdisk, memory="256M", vif=["bridge=lan", user],
        cmdline=f'console=hvc0 quiet xg.net=10.9.0.{address}/24 xg.run="{program}"',
    ))
    domain.console.on_output(lambda data: (sys.stdout.buffer.write(data), sys.stdout.flush()))
    return domain
with Machine(bridges=["lan"]) as machine:
    create("b", 2, server, f"bridge=user,forward=tcp:{port}:80")
    threading.Thread(target=wait, daemon=True).start()
    machine.run(until=lambda: go)
    create("a", 1, client, "bridge=user").wait()
"""

FIGURES = {
    "down": "TCP from host to guest",
    "up": "TCP from guest to host",
    "pair": "TCP between two guests",
}


def program(script: str) -> str:
    """A script as a parameter of the kernel's command line, which holds no quotes."""
    return f"echo {script.encode().hex()} | xxd -r -p > /tmp/script; sh /tmp/script"


def serve(interface: str = "") -> str:
    """The script of the guest that serves."""
    dhcp = f"udhcpc -q -n -i {interface}; " if interface else ""
    data = f"mkdir /www; dd if=/dev/zero of=/www/data bs=64k count={_SIZE >> 16} 2> /dev/null"
    return f"{dhcp}{data}; httpd -h /www; echo =ready=; sleep 1000"


def fetch(host: str, guest: str, interface: str = "") -> str:
    """The script of the guest that fetches, from the host and from the other guest."""
    dhcp = f"udhcpc -q -n -i {interface}; " if interface else ""
    steps = [
        f"echo =begin-{name}{turn}=; wget -q -O /dev/null http://{address}/data;"
        f" echo =end-{name}{turn}="
        for name, address in (("down", host), ("pair", guest))
        for turn in range(_ROUNDS)
    ]
    return dhcp + "; ".join(steps) + "; sleep 1000"


class Console:
    """A process whose output is read line by line, each with its time."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._lines: list[str] = []

    def wait_for(self, mark: str) -> float:
        """The time when a line `=mark=` came.  Raises RuntimeError if none comes."""
        assert self._process.stdout is not None
        end = time.monotonic() + _PATIENCE
        for line in self._process.stdout:
            self._lines.append(line.decode(errors="replace").rstrip())
            if re.search(rf"={mark}=", self._lines[-1]):
                return time.monotonic()
            if time.monotonic() > end:
                break
        raise RuntimeError(f"no line {mark}; the output ends: {self._lines[-8:]}")

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


@contextlib.contextmanager
def console(command: list[str]) -> Iterator[Console]:
    one = Console(command)
    try:
        yield one
    finally:
        one.close()


@contextlib.contextmanager
def host_server() -> Iterator[int]:
    """A port of the host that serves the file."""
    process = subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def fetch_from(port: int) -> float:
    """Seconds that the host needs to fetch the file from a guest: the least but the first."""
    taken = []
    for _ in range(_ROUNDS):
        begin, got = time.monotonic(), 0
        with socket.create_connection(("127.0.0.1", port), _PATIENCE) as connection:
            connection.sendall(b"GET /data HTTP/1.0\r\n\r\n")
            while data := connection.recv(1 << 20):
                got += len(data)
        if got < _SIZE:
            raise RuntimeError(f"the guest served {got} bytes only")
        taken.append(time.monotonic() - begin)
    return min(taken[1:])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _read(client: Console, taken: dict[str, float]) -> dict[str, float]:
    for name in ("down", "pair"):
        seconds = []
        for turn in range(_ROUNDS):
            begin = client.wait_for(f"begin-{name}{turn}")
            seconds.append(client.wait_for(f"end-{name}{turn}") - begin)
        taken[name] = min(seconds[1:])
    return taken


def measure_ours(kernel: Path, ramdisk: Path) -> dict[str, float]:
    """Seconds of each transfer."""
    port = _free_port()
    with host_server() as host:
        server = program(serve("eth1"))
        client = program(fetch(f"10.0.2.2:{host}", "10.9.0.2", "eth1"))
        files = [str(kernel), str(ramdisk)]
        with console([sys.executable, "-c", _OURS, *files, str(port), server, client]) as machine:
            machine.wait_for("ready")
            taken = {"up": fetch_from(port)}
            machine.go_on()
            return _read(machine, taken)


def _qemu(script: str, net: str, kernel: Path, ramdisk: Path) -> list[str]:
    return [
        *(QEMU, "-accel", "tcg", "-M", "pc", "-m", "256", "-nodefaults", "-no-reboot"),
        *("-kernel", str(kernel), "-initrd", str(ramdisk), "-display", "none"),
        *("-append", f'console=ttyS0 quiet xg.net=dhcp xg.run="{program(script)}"'),
        *("-serial", "stdio", "-netdev", f"user,id=n{net}", "-device", "virtio-net-pci,netdev=n"),
    ]


def measure_qemu(kernel: Path, ramdisk: Path) -> dict[str, float]:
    """The same of QEMU's."""
    port = _free_port()
    forward = f",hostfwd=tcp:127.0.0.1:{port}-:80"
    with host_server() as host, console(_qemu(serve(), forward, kernel, ramdisk)) as server:
        server.wait_for("ready")
        taken = {"up": fetch_from(port)}
        script = fetch(f"10.0.2.2:{host}", f"10.0.2.2:{port}")
        with console(_qemu(script, "", kernel, ramdisk)) as client:
            return _read(client, taken)


def run(runs: int) -> list[Result]:
    """Times; the bounds are ratios of speeds to QEMU's, where more is better."""
    cache = ImageCache()
    kernel = cache.get("debian-cloud").path
    peer = peers()[0]
    measures = {OURS.name: partial(measure_ours, kernel, cache.get("driver-initrd").path)}
    if not peer.missing:
        measures[peer.name] = partial(measure_qemu, kernel, cache.get("virtio-initrd").path)

    def show(taken: Mapping[str, float]) -> str:
        speeds = (f"{name} {_SIZE / 1e6 / seconds:.0f}" for name, seconds in taken.items())
        return ", ".join(speeds) + " MB/s"

    taken = alternate(min(runs, _RUNS), measures, show)

    def best(machine: str, figure: str) -> float | None:
        return min((found[figure] for found in taken.get(machine, ())), default=None)

    return [
        Result(
            f"{what}, 64 MiB",
            best(OURS.name, figure),
            "s",
            0.8,
            best(peer.name, figure),
            peer.name,
            higher=True,
            note=peer.missing,
        )
        for figure, what in FIGURES.items()
    ]
