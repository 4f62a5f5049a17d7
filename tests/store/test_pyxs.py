# SPDX-License-Identifier: GPL-2.0-or-later
"""The Python client pyxs against our socket."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from xenograft.store.client import StoreClient
from xenograft.store.server import SocketServer
from xenograft.store.service import Xenstore

with warnings.catch_warnings():
    # What it does on import is its own affair.
    warnings.simplefilter("ignore")
    pyxs = pytest.importorskip("pyxs", reason="pyxs is not installed")


@pytest.fixture
def store() -> Xenstore:
    return Xenstore()


@pytest.fixture
def client(store: Xenstore, tmp_path: Path) -> Iterator[Any]:
    with SocketServer(store, tmp_path / "socket") as server:
        server.start()
        with pyxs.Client(unix_socket_path=str(server.path)) as client:
            yield client


def test_nodes(client: Any, store: Xenstore) -> None:
    client.write(b"/foo/bar", b"baz")
    assert client.read(b"/foo/bar") == b"baz"
    assert client.list(b"/foo") == [b"bar"]
    assert client.exists(b"/nope") is False
    client.mkdir(b"/d")
    client.set_perms(b"/d", [b"b0", b"r5"])
    assert client.get_perms(b"/d") == [b"b0", b"r5"]
    client.delete(b"/foo")
    assert not StoreClient(store).exists("/foo")


def test_errors(client: Any) -> None:
    with pytest.raises(pyxs.PyXSError, match="No such file"):
        client.read(b"/missing")


def test_domains(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # It asks for these only in a real control domain.
    monkeypatch.setattr(type(client), "SU", True)
    assert client.get_domain_path(7) == b"/local/domain/7"
    assert client.is_domain_introduced(0) is True
    assert client.is_domain_introduced(7) is False
    client.introduce_domain(7, 1, 1)
    assert client.is_domain_introduced(7) is True
    client.release_domain(7)


def test_watches(client: Any) -> None:
    monitor = client.monitor()
    monitor.watch(b"/foo", b"tok")
    events = monitor.wait()
    assert tuple(next(events)) == (b"/foo", b"tok")
    client.write(b"/foo/x", b"1")
    assert tuple(next(events)) == (b"/foo/x", b"tok")
    monitor.unwatch(b"/foo", b"tok")


def test_transactions(client: Any, store: Xenstore) -> None:
    other = StoreClient(store)
    client.transaction()
    client.write(b"/t", b"1")
    assert not other.exists("/t")
    assert client.commit() is True
    assert other.read("/t") == "1"
