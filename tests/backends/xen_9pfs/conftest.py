# SPDX-License-Identifier: GPL-2.0-or-later
"""A folder in a place with things beside it that nobody may reach, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.xen_9pfs.client import Client
from xenograft.backends.xen_9pfs.beneath import Folder
from xenograft.backends.xen_9pfs.server import Server

SECRET = b"the host's own"


@pytest.fixture
def share(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_bytes(SECRET)
    folder = tmp_path / "share"
    folder.mkdir()
    return folder


@pytest.fixture(params=["openat2", "names"])
def folder(share: Path, request: pytest.FixtureRequest) -> Iterator[Folder]:
    one = Folder(str(share), use_openat2=request.param == "openat2")
    yield one
    one.close()


@pytest.fixture
def server(folder: Folder) -> Iterator[Server]:
    one = Server(folder, 1 << 17)
    yield one
    one.close()


def ask(server: Server, message: bytes) -> bytes:
    """As the device does it: at once if that's possible, else on a thread."""
    answer = server.handle_now(message)
    return server.handle(message) if answer is None else answer


@pytest.fixture
def client(server: Server) -> Client:
    return Client(lambda message: ask(server, message))


@pytest.fixture
def root(client: Client) -> int:
    return client.start()
