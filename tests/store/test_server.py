# SPDX-License-Identifier: GPL-2.0-or-later
"""The Unix socket: many clients, slow clients, clients that hang up or talk nonsense."""

from __future__ import annotations

import contextlib
import errno
import select
import selectors
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.store.support import OK, Peer
from xenograft.abi.io import xs_wire
from xenograft.store import wire
from xenograft.store.server import SocketServer
from xenograft.store.service import Xenstore


class Client:
    """A program's side; `pump` lets the server work in between (None: it has a thread)."""

    def __init__(self, server: SocketServer, threaded: bool = False) -> None:
        self.server = server
        self.threaded = threaded
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(server.path))
        self.sock.settimeout(30 if threaded else 0)
        self.reader = wire.MessageReader()

    def send(self, data: bytes) -> None:
        while data:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                self.server.poll()
        if not self.threaded:
            self.server.poll()

    def message(self) -> wire.Message | None:
        """The next message; None if the server has hung up."""
        while (message := self.reader.next()) is None:
            try:
                data = self.sock.recv(65536)
            except BlockingIOError:
                self.server.poll(1)
                continue
            except ConnectionResetError:
                return None
            if not data:
                return None
            self.reader.feed(data)
        return message

    def ask(self, operation: int, payload: bytes = b"\0", tx: int = 0) -> bytes:
        self.send(wire.pack(operation, 5, tx, payload))
        message = self.message()
        assert message is not None
        assert (message.req_id, message.tx_id) == (5, tx)
        return message.payload

    def close(self) -> None:
        self.sock.close()


@pytest.fixture
def store() -> Xenstore:
    return Xenstore()


@pytest.fixture
def server(store: Xenstore, tmp_path: Path) -> Iterator[SocketServer]:
    with SocketServer(store, tmp_path / "socket") as server:
        yield server


@pytest.fixture
def client(server: SocketServer) -> Iterator[Client]:
    with contextlib.closing(Client(server)) as client:
        yield client


def test_requests_are_answered(store: Xenstore, client: Client) -> None:
    assert client.ask(xs_wire.XS_WRITE, b"/a/b\0value") == OK
    assert client.ask(xs_wire.XS_READ, b"/a/b\0") == b"value"
    assert client.ask(xs_wire.XS_READ, b"/no\0") == b"ENOENT\0"
    assert Peer(store).read("/a/b") == b"value"


def test_clients_have_connections_of_their_own(server: SocketServer, client: Client) -> None:
    with contextlib.closing(Client(server)) as other:
        tx = client.ask(xs_wire.XS_TRANSACTION_START)
        assert client.ask(xs_wire.XS_WRITE, b"/x\x001", int(tx[:-1])) == OK
        assert other.ask(xs_wire.XS_READ, b"/x\0") == b"ENOENT\0"
        assert other.ask(xs_wire.XS_READ, b"/x\0", int(tx[:-1])) == b"ENOENT\0"
        client.ask(xs_wire.XS_TRANSACTION_END, b"T\0", int(tx[:-1]))
        assert other.ask(xs_wire.XS_READ, b"/x\0") == b"1"


def test_watch_events_go_to_idle_clients(store: Xenstore, client: Client) -> None:
    assert client.ask(xs_wire.XS_WATCH, b"/x\0tok\0") == OK
    first = client.message()
    assert first is not None
    assert first.payload == b"/x\0tok\0"
    Peer(store).write("/x/y", "1")
    event = client.message()
    assert event is not None
    assert (event.type, event.payload) == (xs_wire.XS_WATCH_EVENT, b"/x/y\0tok\0")


def test_the_descriptor_tells_of_work(store: Xenstore, server: SocketServer) -> None:
    """Another loop can wait for it: new clients, requests, and events made elsewhere."""

    def has_work() -> bool:
        return bool(select.select([server.fileno()], [], [], 0)[0])

    assert not has_work()
    with contextlib.closing(Client(server)) as client:
        assert has_work()
        server.poll()
        assert not has_work()
        client.sock.send(wire.pack(xs_wire.XS_WATCH, 1, 0, b"/x\0t\0"))
        assert has_work()
        server.poll()
        assert not has_work()
        Peer(store).write("/x", "made by another transport")
        assert has_work()
        server.poll()
        server.poll()
        assert not has_work()


def test_without_descriptors_nobody_is_let_in_until_one_leaves(
    server: SocketServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing spins meanwhile: the one who waits makes nothing readable."""
    client.ask(xs_wire.XS_WRITE, b"/x\x001")

    class Full:
        """A listener for which there are no descriptors."""

        def __init__(self, listener: socket.socket) -> None:
            self.listener = listener

        def accept(self) -> tuple[socket.socket, object]:
            raise OSError(errno.EMFILE, "Too many open files")

        def fileno(self) -> int:
            return self.listener.fileno()

    listener = server._listener
    server._selector.unregister(listener)
    full = Full(listener)
    monkeypatch.setattr(server, "_listener", full)
    server._selector.register(full, selectors.EVENT_READ, None)  # type: ignore[arg-type]
    with contextlib.closing(Client(server)) as late:
        server.poll()
        assert not select.select([server.fileno()], [], [], 0)[0]
        assert client.ask(xs_wire.XS_READ, b"/x\0") == b"1"
        monkeypatch.setattr(full, "accept", listener.accept)
        client.close()
        server.poll()
        assert late.ask(xs_wire.XS_READ, b"/x\0") == b"1"


def test_many_requests_at_once(client: Client) -> None:
    client.ask(xs_wire.XS_WRITE, b"/x\0value")
    count = 1000
    client.send(wire.pack(xs_wire.XS_READ, 1, 0, b"/x\0") * count)
    for _ in range(count):
        message = client.message()
        assert message is not None
        assert message.payload == b"value"


def test_a_busy_client_does_not_keep_others_waiting(server: SocketServer, client: Client) -> None:
    client.ask(xs_wire.XS_WRITE, b"/x\0value")
    with contextlib.closing(Client(server)) as other:
        server.poll()
        client.sock.send(wire.pack(xs_wire.XS_READ, 1, 0, b"/x\0") * 1000)
        server.poll()
        other.sock.send(wire.pack(xs_wire.XS_READ, 1, 0, b"/x\0"))
        server.poll()
        assert other.sock.recv(100).endswith(b"value")


def test_a_client_that_reads_nothing(store: Xenstore, server: SocketServer) -> None:
    """It's not read from either, and what waits for it has a bound."""
    Peer(store).write("/big", b"v" * 4000)
    with contextlib.closing(Client(server)) as client:
        request = wire.pack(xs_wire.XS_READ, 1, 0, b"/big\0")
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 200 << 20:
                sent += client.sock.send(request * 100)
                for _ in range(4):
                    server.poll()
        assert sent < 10 << 20
        [connection] = [c for c in store.connections.values() if c.notify is not None]
        assert connection.output_bytes < 8 << 20
        for _ in range(sent // len(request)):
            message = client.message()
            assert message is not None
            assert len(message.payload) == 4000


def test_a_client_that_never_reads_its_events_is_hung_up_on(
    store: Xenstore, server: SocketServer, client: Client
) -> None:
    token = b"t" * 3000
    client.ask(xs_wire.XS_WATCH, b"/x\0" + token + b"\0")
    peer = Peer(store)
    for i in range(7000):
        peer.write(f"/x/{i}", "")
    for _ in range(3):
        server.poll()
    assert len(store.connections) == 1
    assert len(store.watches) == 0


def test_hanging_up_ends_watches_and_transactions(store: Xenstore, server: SocketServer) -> None:
    client = Client(server)
    client.ask(xs_wire.XS_WATCH, b"/x\0t\0")
    assert client.message() is not None
    client.ask(xs_wire.XS_TRANSACTION_START)
    assert len(store.connections) == 1
    client.close()
    server.poll()
    server.poll()
    assert store.connections == {}
    assert len(store.watches) == 0


def test_a_client_may_close_its_sending_side_first(store: Xenstore, client: Client) -> None:
    requests = [wire.pack(xs_wire.XS_WRITE, i, 0, b"/x/%d\0" % i) for i in range(200)]
    client.sock.send(b"".join(requests))
    client.sock.shutdown(socket.SHUT_WR)
    replies = []
    while (message := client.message()) is not None:
        replies.append(message)
    assert [reply.req_id for reply in replies] == list(range(200))
    assert store.connections == {}


def test_nonsense_ends_the_connection(store: Xenstore, client: Client) -> None:
    client.send(wire.pack(xs_wire.XS_WRITE, 1, 0, b"/a\0") + b"\xff" * 100)
    while client.message() is not None:
        continue
    assert store.connections == {}


def test_a_thread_of_its_own(store: Xenstore, tmp_path: Path) -> None:
    lock = threading.RLock()
    with SocketServer(store, tmp_path / "socket", lock) as server:
        server.start()
        clients = [Client(server, threaded=True) for _ in range(4)]

        def work(number: int) -> None:
            for i in range(100):
                assert clients[number].ask(xs_wire.XS_WRITE, b"/c%d/%d\0" % (number, i)) == OK

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        clients[0].ask(xs_wire.XS_WATCH, b"/w\0t\0")
        assert clients[0].message() is not None
        with lock:
            peer = Peer(store)
            assert [len(peer.ls(f"/c{i}")) for i in range(4)] == [100] * 4
            peer.write("/w", "from this thread")
        event = clients[0].message()
        assert event is not None
        assert event.type == xs_wire.XS_WATCH_EVENT
        for client in clients:
            client.close()
    assert not (tmp_path / "socket").exists()


def test_only_the_owner_may_connect(server: SocketServer) -> None:
    assert server.path.stat().st_mode & 0o777 == 0o600


def test_a_socket_left_behind_is_replaced(store: Xenstore, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with SocketServer(store, path) as server:
        with contextlib.closing(Client(server)) as client:
            assert client.ask(xs_wire.XS_READ, b"/\0") == b""
        with pytest.raises(OSError, match="in use") as raised:
            SocketServer(Xenstore(), path)
        assert raised.value.errno == errno.EADDRINUSE
        assert path.exists()


def test_other_files_are_never_removed(store: Xenstore, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(OSError, match="in use"):
        SocketServer(store, path)
    assert path.read_text() == "data"


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(chunks=st.lists(st.binary(max_size=60), max_size=10))
def test_any_bytes(server: SocketServer, chunks: list[bytes]) -> None:
    client = Client(server)
    with contextlib.closing(client), contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for chunk in chunks:
            client.send(chunk)
    for _ in range(4):
        server.poll()
    with contextlib.closing(Client(server)) as client:
        assert client.ask(xs_wire.XS_GET_DOMAIN_PATH, b"3\0") == b"/local/domain/3\0"
    for _ in range(3):
        server.poll()
    assert server.store.connections == {}
