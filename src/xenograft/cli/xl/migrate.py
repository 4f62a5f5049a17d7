# SPDX-License-Identifier: GPL-2.0-or-later
"""`migrate` and `migrate-receive`: the command carries the bytes, the services do the rest."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xenograft.cli.xl.base import DAEMON, complain, complete_domain, service
from xenograft.cli.xl.state import load_optional, mode_of, tell
from xenograft.toolstack.errors import Failure, UserError

if TYPE_CHECKING:
    from xenograft.toolstack.service.client import Client
    from xenograft.toolstack.service.messages import Migrated, Request

_CHUNK = 1 << 20


class _Asked(threading.Thread):
    """A request whose answer takes long, asked beside other things."""

    def __init__(self, client: Client, request: Request[Any]) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._request = request
        self.answer: Any = None
        self.failure: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.answer = self._client.call(self._request)
        except (Failure, UserError) as failure:
            self.failure = failure

    def get(self) -> Any:
        """The answer.  Raises what the request has raised."""
        self.join()
        if self.failure is not None:
            raise self.failure
        return self.answer


def _pump(
    read: Callable[[int], bytes],
    write: Callable[[bytes], object],
    end: Callable[[], object],
    broken: Callable[[], object],
) -> threading.Thread:
    """Carry bytes one way in a thread, until there are none; `broken`: they can't be written."""

    def work() -> None:
        data = b""
        try:
            while data := read(_CHUNK):
                write(data)
        except (OSError, ValueError):
            if data:
                with contextlib.suppress(OSError):
                    broken()
        with contextlib.suppress(OSError):
            end()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def _open_stream(client: Client) -> str:
    """Make a connection the stream of a guest; returns its name."""
    from xenograft.toolstack.service.messages import OpenStream

    name = secrets.token_hex(16)
    client.call(OpenStream(name))
    return name


def _write_all(handle: int) -> Callable[[bytes], object]:
    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]

    return write


def _half(sock: socket.socket) -> Callable[[], None]:
    return lambda: sock.shutdown(socket.SHUT_WR)


def _deaf(sock: socket.socket) -> Callable[[], None]:
    """Whoever writes to the other end is told that nobody reads any more."""
    return lambda: sock.shutdown(socket.SHUT_RD)


def _nothing() -> None:
    pass


# -- where it goes -------------------------------------------------------------------------------
class _Far:
    """The other end: how its bytes are read and written, and what it has to say at last."""

    def __init__(
        self,
        read: Callable[[int], bytes],
        write: Callable[[bytes], object],
        end: Callable[[], None],
        finish: Callable[[], None],
    ) -> None:
        self.read, self.write, self.end, self.finish = read, write, end, finish


@contextlib.contextmanager
def _service_at(folder: Path, paused: bool) -> Iterator[_Far]:
    """Another service on this machine, which is started if need be."""
    from xenograft.toolstack.service.client import connect
    from xenograft.toolstack.service.messages import ReceiveDomain
    from xenograft.toolstack.service.paths import paths_of

    paths = paths_of(folder)
    with connect(paths, program=DAEMON) as stream, connect(paths, program=DAEMON) as client:
        asked = _Asked(client, ReceiveDomain(_open_stream(stream), paused))
        sock = stream.sock
        yield _Far(sock.recv, sock.sendall, _half(sock), asked.join)


@contextlib.contextmanager
def _tcp(host: str, port: int) -> Iterator[_Far]:
    """An ``xg migrate-receive --listen`` elsewhere."""
    try:
        sock = socket.create_connection((host, port), 30)
    except OSError as error:
        raise Failure(f"{host}:{port}: {(error.strerror or str(error)).lower()}") from None
    with sock:
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield _Far(sock.recv, sock.sendall, _half(sock), _nothing)


@contextlib.contextmanager
def _command(words: str) -> Iterator[_Far]:
    """A command whose standard input and output lead to ``xg migrate-receive``."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert process.stdin is not None
    assert process.stdout is not None
    source, sink = process.stdout.fileno(), process.stdin
    try:
        yield _Far(
            lambda size: os.read(source, size),
            _write_all(sink.fileno()),
            sink.close,
            _nothing,
        )
    finally:
        with contextlib.suppress(OSError):
            sink.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _destination(
    host: str, ssh: str | None, folder: str | None, paused: bool
) -> contextlib.AbstractContextManager[_Far]:
    if folder is not None:
        return _service_at(Path(folder).absolute(), paused)
    if host.startswith("unix:"):
        path = Path(host.removeprefix("unix:")).absolute()
        return _service_at(path.parent if path.name == "socket" else path, paused)
    if host.startswith("tcp:"):
        name, _, port = host.removeprefix("tcp:").rpartition(":")
        if not name or not port.isdigit() or not 0 < int(port) < 1 << 16:
            raise Failure(f"{host[:80]!r}: write tcp:HOST:PORT")
        return _tcp(name.strip("[]"), int(port))
    if ssh == "":
        return _command(host)
    flags = " -p" if paused else ""
    return _command(f"exec {ssh or 'ssh'} {shlex.quote(host)} xg migrate-receive{flags}")


@click.command()
@click.option("-C", "config", metavar="FILE", help="Send this configuration instead of its own.")
@click.option("-s", "ssh", metavar="SSHCOMMAND", help="Instead of ssh; empty: run HOST itself.")
@click.option("-e", "detached", is_flag=True, help="(The service waits for the end, always.)")
@click.option("-p", "paused", is_flag=True, help="Leave the domain paused afterwards.")
@click.option("-D", "domid", is_flag=True, help="(The destination gives it a number of its own.)")
@click.option("--debug", is_flag=True, help="Say more.")
@click.option("--to-service", metavar="DIR", help="To the service of this folder, here.")
@click.option("--suspend", is_flag=True, help="The guest must suspend itself.")
@click.option("--snapshot", is_flag=True, help="Don't ask the guest; it notices nothing.")
@click.argument("domain", shell_complete=complete_domain)
@click.argument("host", required=False)
def migrate(
    domain: str,
    host: str | None,
    config: str | None,
    ssh: str | None,
    detached: bool,
    paused: bool,
    domid: bool,
    debug: bool,
    to_service: str | None,
    suspend: bool,
    snapshot: bool,
) -> None:
    """Migrate a running domain to another host service.

    HOST is a machine that ssh reaches and that has xg; or unix:DIR, the folder of another
    service here; or tcp:HOST:PORT, where xg migrate-receive --listen waits.  The guest's disks
    have to be the same files there.
    """
    from xenograft.toolstack.service.messages import SendDomain

    if (host is None) == (to_service is None):
        raise click.UsageError("name a HOST, or a service with --to-service")
    mode, given = mode_of(suspend, snapshot), load_optional(config)
    with (
        _destination(host or "", ssh, to_service, paused) as far,
        service() as stream,
        service() as client,
    ):
        name = _open_stream(stream)
        asked = _Asked(client, SendDomain(domain, name, mode, given))  # type: ignore[arg-type]
        sock = stream.sock
        back = _pump(far.read, sock.sendall, _half(sock), _nothing)

        def broken() -> None:
            # The other end may have said why: that comes first.
            back.join(2)
            _deaf(sock)()

        out = _pump(sock.recv, far.write, far.end, broken)
        sent: Migrated = asked.get()
        out.join(5)
        far.finish()
        back.join(5)
    complain("migration sender: Target reports successful startup.")
    if debug:
        complain(
            f"xg: info: {sent.rounds} rounds, {sent.pages} pages, {sent.sent} bytes in"
            f" {sent.total_ns / 1e9:.2f} s"
        )
    complain(f"xg: info: domain {sent.domid} ({sent.name}) was down for {sent.down_ns // 10**6} ms")
    complain("Migration successful.")


# -- the other end -------------------------------------------------------------------------------
@click.command()
@click.option("-p", "paused", is_flag=True, help="Leave the domain paused.")
@click.option("-e", "detached", is_flag=True, help="(The service waits for the end, always.)")
@click.option("-d", "debug", is_flag=True, help="(Nothing more is said.)")
@click.option("--listen", metavar="[HOST:]PORT", help="Wait for one guest to come by TCP.")
def migrate_receive(paused: bool, detached: bool, debug: bool, listen: str | None) -> None:
    """Take in a domain that comes by standard input; for xg migrate.

    What comes by TCP comes unchecked and readable: --listen is for networks that you trust.
    """
    from xenograft.toolstack.service.messages import ReceiveDomain, Restored

    with contextlib.ExitStack() as stack:
        read: Callable[[int], bytes]
        end: Callable[[], None]
        if listen is None:
            read, write, end = _read_input, _write_all(1), _close_output
            complain("migration target: Ready to receive domain.")
        else:
            sock = stack.enter_context(_accept(listen))
            read, write, end = sock.recv, sock.sendall, _half(sock)
        stream, client = stack.enter_context(service()), stack.enter_context(service())
        asked = _Asked(client, ReceiveDomain(_open_stream(stream), paused))
        _pump(read, stream.sock.sendall, _half(stream.sock), _nothing)
        back = _pump(stream.sock.recv, write, _nothing, _deaf(stream.sock))
        try:
            restored: Restored = asked.get()
        finally:
            stream.sock.shutdown(socket.SHUT_RD)
            back.join(5)
            with contextlib.suppress(OSError):
                end()
        tell(restored, True)
        complain("migration target: Domain started successsfully.")
    sys.stderr.flush()


def _read_input(size: int) -> bytes:
    return os.read(0, size)


def _close_output() -> None:
    os.close(1)


def _accept(where: str) -> socket.socket:
    """The first connection to ``[HOST:]PORT``; this machine alone unless a host is named."""
    host, _, port = where.rpartition(":")
    if not port.isdigit() or not int(port) < 1 << 16:
        raise Failure(f"{where[:80]!r}: write PORT, or HOST:PORT")
    host = host.strip("[]") or "127.0.0.1"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, int(port)), family=family, backlog=1) as server:
            address = server.getsockname()
            complain(f"migration target: Ready to receive domain at tcp:{address[0]}:{address[1]}")
            sock = server.accept()[0]
    except OSError as error:
        raise Failure(f"{where}: {(error.strerror or str(error)).lower()}") from None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
