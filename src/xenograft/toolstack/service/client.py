# SPDX-License-Identifier: GPL-2.0-or-later
"""A command's way to the service: find it, start it if need be, ask it.

A command that finds nobody takes the lock `starting`, looks again, and starts the service, which
says through a pipe when it's ready, or why it isn't.  Locks are flock's: they end with those who
hold them, however these end.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, cast

import msgspec

from xenograft.toolstack.errors import UserError
from xenograft.toolstack.service.messages import Failure, MachineOptions, Request, StopService
from xenograft.toolstack.service.paths import ServicePaths, service_paths
from xenograft.toolstack.service.wire import WireError, pack, receive_reply

T = TypeVar("T")
READY = "ready"
PROGRAM = "xenograft.toolstack.service.daemon"
"""The service without any views of its machine."""

_START_SECONDS = 60.0


class ServiceGone(Failure):
    """The service ended while it was asked."""


class Client:
    """A connection to a service; a context manager."""

    def __init__(self, sock: socket.socket, paths: ServicePaths) -> None:
        self.sock = sock
        self.paths = paths

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def call(self, request: Request[T]) -> T:
        """Ask, and wait for the answer.  Raises Failure."""
        try:
            self.sock.sendall(pack(request))
            reply = receive_reply(self.sock)
        except (WireError, OSError) as error:
            raise ServiceGone(
                f"the service ended while it was asked ({error}); its log is {self.paths.log}"
            ) from None
        if reply.error is not None:
            raise Failure(reply.error, reply.status)
        return cast(T, msgspec.msgpack.decode(reply.value, type=request.result))

    def close(self) -> None:
        self.sock.close()


def find(paths: ServicePaths) -> Client | None:
    """Connect to the service that runs, if one does.  Raises UserError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(str(paths.socket))
    except OSError as error:
        sock.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            return None
        raise UserError(f"{paths.socket}: {(error.strerror or str(error)).lower()}") from None
    return Client(sock, paths)


def connect(
    paths: ServicePaths | None = None,
    options: MachineOptions | None = None,
    program: str = PROGRAM,
) -> Client:
    """Connect to the service, which is started if none runs (with these `options`).

    `program` is the module that the service's process runs.  Raises UserError.
    """
    paths = service_paths() if paths is None else paths
    client = find(paths)
    if client is not None:
        return client
    with _locked(paths.starting):
        # Somebody else may have started it meanwhile.
        client = find(paths)
        if client is None:
            _start(paths, options or MachineOptions(), program)
            client = find(paths)
    if client is None:
        raise UserError(f"the service ended as soon as it had started; its log is {paths.log}")
    return client


def stop(paths: ServicePaths) -> list[str] | None:
    """Tell the service to end; `await_end` waits for it.

    Returns the names of the guests that end with it, or None if there is no service (one that ends
    by itself at this moment has none to name).  Raises Failure and UserError.
    """
    client = find(paths)
    if client is None:
        return None
    with client:
        try:
            return client.call(StopService())
        except ServiceGone:
            return []


def await_end(paths: ServicePaths, seconds: float = 30.0) -> bool:
    """Wait until no service holds its lock any more; False if that takes too long."""
    end = time.monotonic() + seconds
    try:
        handle = os.open(paths.lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    return False
                time.sleep(0.01)
            else:
                return True
    finally:
        os.close(handle)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _start(paths: ServicePaths, options: MachineOptions, program: str) -> None:
    """Start the service and wait until it listens.  Raises UserError."""
    read, write = os.pipe()
    environment = dict(os.environ, XG_SERVICE_DIR=str(paths.folder))
    # It stands in no folder of ours, and imports nothing from where it stands.
    if places := environment.get("PYTHONPATH"):
        environment["PYTHONPATH"] = os.pathsep.join(
            str(Path(place).absolute()) for place in places.split(os.pathsep) if place
        )
    try:
        process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", program, str(write)),
                msgspec.json.encode(options).decode(),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            pass_fds=(write,),
            start_new_session=True,
            cwd="/",
        )
    finally:
        os.close(write)
    try:
        said = _read_all(read, _START_SECONDS)
    except UserError:
        process.kill()
        process.wait()
        raise
    finally:
        os.close(read)
    first, _, rest = said.partition("\n")
    for line in rest.splitlines():
        print(f"xg: {line}", file=sys.stderr, flush=True)
    if first == READY:
        # It lives on without us: nobody is to wait for it.
        process.returncode = 0
        return
    process.wait()
    if first:
        raise UserError(first)
    raise UserError(f"the service ended before it was ready; its log is {paths.log}")


def _read_all(handle: int, seconds: float) -> str:
    data = b""
    while select.select([handle], [], [], seconds)[0]:
        piece = os.read(handle, 4096)
        if not piece:
            return data.decode(errors="replace")
        data += piece
    raise UserError(f"the service hasn't become ready in {seconds:.0f} s; try again")
