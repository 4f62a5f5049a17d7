# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian guests with busybox on networks, and servers on the host's loopback."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.machine import Domain, Machine

PROMPT = "guest:~# "
QUIET = "console=hvc0 quiet loglevel=1"


class Shell:
    """A guest's shell."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.console = domain.console
        self.console.expect(PROMPT, timeout=120)
        self.run("stty -echo")

    def run(self, command: str, timeout: float = 60) -> str:
        """What a command prints; fails if it fails."""
        status, output = self.try_(command, timeout)
        assert status == 0, f"{command}: status {status}\n{output}"
        return output

    def try_(self, command: str, timeout: float = 60) -> tuple[int, str]:
        start = self.console.backend.end
        self.console.send(f"{command}; echo =$?=\n")
        match = self.console.expect(r"=(\d+)=\r", timeout=timeout)
        text = self.console.backend.since(start).decode("utf-8", "replace")
        text = text[: text.rindex(f"={match[1]}=")].replace("\r", "")
        return int(match[1]), text.removeprefix(PROMPT)


class Lab:
    """A machine for guests on networks."""

    def __init__(self, image: Callable[[str], Path], **machine: object) -> None:
        self.kernel, self.ramdisk = image("debian-cloud"), image("driver-initrd")
        self.machine = Machine(**machine)  # type: ignore[arg-type]

    def create(self, name: str, *vif: str, net: str = "", vcpus: int = 1) -> Domain:
        """A guest that isn't at its prompt yet."""
        config = from_options(
            None,
            name=name,
            kernel=str(self.kernel),
            ramdisk=str(self.ramdisk),
            cmdline=f"{QUIET} xg.net={net}" if net else QUIET,
            memory="192M",
            vcpus=vcpus,
            vif=vif,
        )
        return self.machine.create(config)

    def guest(self, name: str, *vif: str, net: str = "", vcpus: int = 1) -> Shell:
        return Shell(self.create(name, *vif, net=net, vcpus=vcpus))

    def until(self, done: Callable[[], bool], timeout: float = 60) -> None:
        """Let the machine run until something of the host's has happened."""
        for _ in range(int(timeout * 20)):
            if done():
                return
            self.machine.run(timeout=0.05, until=lambda: False)
        raise AssertionError("it hasn't happened")


@pytest.fixture
def lab(image: Callable[[str], Path]) -> Iterator[Callable[..., Lab]]:
    """`lab(bridges=…)`: a machine, closed when the test is done."""
    labs: list[Lab] = []

    def make(**machine: object) -> Lab:
        labs.append(Lab(image, **machine))
        return labs[-1]

    yield make
    for one in labs:
        one.machine.close()


class WebServer:
    """An HTTP server on the host's loopback: `files` by path; what's posted is in `posted`."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.posted: list[bytes] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = owner.files.get(self.path)
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def do_POST(self) -> None:
                owner.posted.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer()
    yield server
    server.close()


def numbers(pattern: str, text: str) -> tuple[int, ...]:
    match = re.search(pattern, text)
    assert match is not None, text
    return tuple(int(group) for group in match.groups())
