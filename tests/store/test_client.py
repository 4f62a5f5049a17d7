# SPDX-License-Identifier: GPL-2.0-or-later
"""The client of this process."""

from __future__ import annotations

import doctest

import pytest

from tests.store.support import introduced
from xenograft.abi.errno import Errno, XenError
from xenograft.store import client as client_module
from xenograft.store import wire
from xenograft.store.client import StoreClient, StoreView
from xenograft.store.service import Xenstore


@pytest.fixture
def store() -> Xenstore:
    return Xenstore()


@pytest.fixture
def client(store: Xenstore) -> StoreClient:
    return StoreClient(store)


def errno_of(call: object, *args: object) -> Errno | None:
    try:
        call(*args)  # type: ignore[operator]
    except XenError as error:
        return error.errno
    return None


@pytest.mark.parametrize("module", [client_module, wire])
def test_examples(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


def test_values(client: StoreClient) -> None:
    client.write("/a/text", "grüße")
    client.write("/a/bytes", b"\0\xff")
    client.write("/a/number", 42)
    client.mkdir("/a/empty")
    assert client.read("/a/text") == "grüße"
    assert client.read_bytes("/a/bytes") == b"\0\xff"
    assert client.read("/a/number") == "42"
    assert client.get("/a/empty") == ""
    assert client.get("/a/nothing") is None
    assert client.get("/a/nothing", "else") == "else"
    assert (client.exists("/a/empty"), client.exists("/b")) == (True, False)
    assert client.ls("/a") == ["bytes", "empty", "number", "text"]
    client.rm("/a/text")
    assert not client.exists("/a/text")


def test_errors(client: StoreClient) -> None:
    assert errno_of(client.read, "/no") is Errno.ENOENT
    assert errno_of(client.read, "bad path") is Errno.EINVAL
    assert errno_of(client.read, "/a\0b") is Errno.EINVAL
    assert errno_of(client.write, "/a", "v" * 5000) is Errno.E2BIG
    assert errno_of(client.get, "//") is Errno.EINVAL


def test_permissions(client: StoreClient) -> None:
    client.mkdir("/a")
    client.set_perms("/a", ["n0", "r5"])
    assert client.get_perms("/a") == ["n0", "r5"]


def test_large_directories(client: StoreClient) -> None:
    names = sorted(f"name-{i}" for i in range(3000))
    for name in names:
        client.mkdir(f"/d/{name}")
    assert client.ls("/d") == names


def test_tree(client: StoreClient) -> None:
    client.write("/a/b/c", "1")
    client.write("/a/d", "2")
    expected = [("/a", ""), ("/a/b", ""), ("/a/b/c", "1"), ("/a/d", "2")]
    assert list(client.tree("/a")) == expected
    assert [path for path, _ in client.tree("/")][:3] == [
        "/",
        "/@introduceDomain",
        "/@releaseDomain",
    ]


def test_a_guests_client_has_a_guests_rights(store: Xenstore) -> None:
    introduced(store, 3)
    guest = StoreClient(store, 3)
    guest.write("x", "1")
    assert StoreClient(store).read("/local/domain/3/x") == "1"
    assert errno_of(guest.write, "/x", "") is Errno.EACCES


# -- transactions ---------------------------------------------------------------------------
def test_a_transaction_takes_effect_as_a_whole(store: Xenstore, client: StoreClient) -> None:
    with client.transaction() as tx:
        tx.write("/x", "1")
        assert tx.read("/x") == "1"
        assert not client.exists("/x")
    assert client.read("/x") == "1"


def test_an_error_inside_undoes_it(client: StoreClient) -> None:
    def fail() -> None:
        with client.transaction() as tx:
            tx.write("/x", "1")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not client.exists("/x")
    assert not client.connection.transactions


def test_conflicts_show_at_the_end(store: Xenstore, client: StoreClient) -> None:
    other = StoreClient(store)
    other.write("/x", "0")

    def provoke() -> None:
        with client.transaction() as tx:
            tx.write("/y", tx.read("/x"))
            other.write("/x", "1")

    assert errno_of(provoke) is Errno.EAGAIN
    assert not client.exists("/y")


def test_transact_does_it_again(store: Xenstore, client: StoreClient) -> None:
    other = StoreClient(store)
    other.write("/x", "0")
    rounds = []

    def work(tx: StoreView) -> int:
        rounds.append(tx.read("/x"))
        tx.write("/y", rounds[-1])
        if len(rounds) < 3:
            other.write("/x", str(len(rounds)))
        return len(rounds)

    assert client.transact(work) == 3
    assert client.read("/y") == "2"


def test_transact_gives_up(store: Xenstore, client: StoreClient) -> None:
    other = StoreClient(store)

    def work(tx: StoreView) -> None:
        count = int(tx.get("/x", "0") or 0)
        tx.write("/y", "")
        other.write("/x", str(count + 1))

    assert errno_of(client.transact, work) is Errno.EAGAIN
    assert other.read("/x") == "100"


# -- watches ----------------------------------------------------------------------------------
def test_watches_call_back(store: Xenstore, client: StoreClient) -> None:
    seen: list[tuple[str, str]] = []
    token = client.watch("/x", lambda path, token: seen.append((path, token)))
    StoreClient(store).write("/x/y", "1")
    assert seen == [("/x", token), ("/x/y", token)]
    client.unwatch("/x", token)
    client.write("/x", "2")
    assert len(seen) == 2
    assert errno_of(client.unwatch, "/x", token) is Errno.ENOENT
    assert errno_of(client.watch, "//", print) is Errno.EINVAL


def test_callbacks_may_use_the_store(client: StoreClient) -> None:
    """Each runs when the one before it has finished, and finds the store at rest."""
    log: list[str] = []
    running = False

    def count_down(path: str, token: str) -> None:
        nonlocal running
        assert not running
        running = True
        value = int(client.get("/n") or 0)
        log.append(f"begin {value}")
        if value:
            client.write("/n", value - 1)
        log.append("end")
        running = False

    client.watch("/n", count_down)
    client.write("/n", 2)
    assert log == ["begin 0", "end", "begin 2", "end", "begin 1", "end", "begin 0", "end"]


def test_scheduled_callbacks_wait_to_be_run(store: Xenstore) -> None:
    calls: list[int] = []
    seen: list[str] = []
    client = StoreClient(store, schedule=lambda: calls.append(1))
    client.watch("/x", lambda path, token: seen.append(path))
    client.write("/x", "1")
    assert (bool(calls), seen) == (True, [])
    client.run_callbacks()
    assert seen == ["/x"]  # the first event and the write's are the same


def test_closing_takes_watches_along(store: Xenstore) -> None:
    seen: list[str] = []
    with StoreClient(store) as client:
        client.watch("/x", lambda path, token: seen.append(path))
    StoreClient(store).write("/x", "")
    assert seen == ["/x"]
    assert len(store.watches) == 0


# -- domains ----------------------------------------------------------------------------------
def test_domains(store: Xenstore, client: StoreClient) -> None:
    client.introduce(3, 0x1000, 2)
    client.introduce(4, 0x1000, 2)
    assert (client.is_introduced(3), client.is_introduced(5)) == (True, False)
    client.set_target(4, 3)
    client.resume(3)
    assert client.domain_path(3) == "/local/domain/3"
    client.release(3)
    assert not client.is_introduced(3)
    assert errno_of(client.release, 3) is Errno.ENOENT
