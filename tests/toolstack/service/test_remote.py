# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks on servers: one that doesn't answer holds up who asked for it, and nobody else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.block.images.nbd_server import NbdServer
from tests.toolstack.service.support import Running, config, read_until, until
from xenograft.toolstack.config.disk import Disk
from xenograft.toolstack.errors import Failure
from xenograft.toolstack.service import messages
from xenograft.toolstack.service.messages import AttachDisk, CreateDomain, ListDomains


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[socket.socket]:
    """A server that lets clients come, and says nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "silent"))
        listener.listen()
        yield listener


def disk(path: Path, vdev: str = "xvda") -> Disk:
    return Disk(target=f"nbd+unix:///?socket={path}", vdev=vdev)


@pytest.mark.parametrize("how", ["attached", "created"])
def test_others_go_on_meanwhile(
    service: Running, kernel: Path, silent: socket.socket, tmp_path: Path, how: str
) -> None:
    service.ask(CreateDomain(config(kernel)))
    away = disk(tmp_path / "silent")
    request = (
        AttachDisk("guest", away)
        if how == "attached"
        else CreateDomain(config(kernel, "other", disk=(away,)))
    )
    failures: list[str] = []

    def ask() -> None:
        with pytest.raises(Failure) as caught:
            service.ask(request)
        failures.append(str(caught.value))

    thread = threading.Thread(target=ask)
    thread.start()
    connection, _ = silent.accept()
    # It waits for the greeting now; the guest hears what is typed, and commands are answered.
    with service.connect() as client:
        client.call(messages.AttachConsole("guest"))
        client.sock.sendall(b"hello there\n")
        read_until(client.sock, b"<hello there>")
    assert [info.name for info in service.ask(ListDomains())] == ["Domain-0", "guest"]
    assert not failures
    connection.close()
    thread.join(20)
    assert len(failures) == 1
    assert "disk xvda: " in failures[0]
    assert "\n" not in failures[0]
    assert service.machine is not None
    assert service.machine.services.opened == {}
    assert [info.name for info in service.ask(ListDomains())] == ["Domain-0", "guest"]


def test_one_that_answers(service: Running, kernel: Path, tmp_path: Path) -> None:
    server = NbdServer(tmp_path / "server", 1 << 20).start()
    try:
        service.ask(CreateDomain(config(kernel, disk=(disk(server.path),))))
        service.ask(AttachDisk("guest", disk(server.path, "xvdb")))
        assert service.machine is not None
        services = service.machine.services
        assert services.opened == {}
        until(lambda: len(services.buses["vbd"].of_domain(1)) == 2)
        # What nobody takes is let go.
        with pytest.raises(Failure, match="xvdb"):
            service.ask(AttachDisk("guest", disk(server.path, "xvdb")))
        assert services.opened == {}
        with pytest.raises(Failure, match="invalid domain"):
            service.ask(AttachDisk("nobody", disk(server.path, "xvdc")))
        assert services.opened == {}
    finally:
        server.die()
