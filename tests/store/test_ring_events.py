# SPDX-License-Identifier: GPL-2.0-or-later
"""The ring on real event channels: how an embedded control domain serves its guests."""

from __future__ import annotations

import pytest

from tests.hypervisor.events.support import Domain, Machine
from tests.store.support import OK
from xenograft.abi.errno import Errno, XenError
from xenograft.abi.io import xs_wire
from xenograft.abi.io.xs_wire import xenstore_domain_interface as Page
from xenograft.engine.fake import FakeMemory
from xenograft.store import wire
from xenograft.store.client import StoreClient
from xenograft.store.connection import Connection
from xenograft.store.ring import RingTransport
from xenograft.store.service import Xenstore


class MachinePage:
    """A frame of the machine as a ring page."""

    def __init__(self, memory: FakeMemory, mfn: int) -> None:
        self.memory = memory
        self.base = mfn << 12

    def read(self, offset: int, size: int) -> bytes:
        return self.memory.read(self.base + offset, size)

    def write(self, offset: int, data: bytes) -> None:
        self.memory.write(self.base + offset, data)


class StoreDomain:
    """Domain 0 with a store in it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.domain = machine.domain(0, host=True)
        self.store = Xenstore(connector=self.connect)

    def connect(self, connection: Connection, gfn: int, port: int) -> RingTransport:
        events = self.domain.events
        guest = self.machine.domains[connection.domid]
        found = guest.p2m.get_page(gfn)
        if found is None:
            raise XenError(Errno.EINVAL)
        local = events.bind_interdomain(connection.domid, port)

        def closed() -> None:
            events.close(local)
            guest.p2m.frames.put_page(found[0])

        transport = RingTransport(
            self.store,
            connection,
            MachinePage(self.machine.memory, found[0]),
            notify=lambda: events.send(local),
            closed=closed,
        )
        events.attach(local, lambda _port: transport.handle())
        return transport


def make() -> tuple[StoreDomain, Domain, int, int]:
    machine = Machine()
    dom0 = StoreDomain(machine)
    guest = machine.domain(1)
    mfn = guest.new_page(0xFEFFC)
    port = guest.events.alloc_unbound(0)
    StoreClient(dom0.store).introduce(1, 0xFEFFC, port)
    return dom0, guest, mfn, port


def test_a_guest_asks_and_is_told_by_events() -> None:
    _, guest, mfn, port = make()
    page = MachinePage(guest.memory, mfn)
    request = wire.pack(xs_wire.XS_GET_DOMAIN_PATH, 3, 0, b"1\0")
    page.write(0, request)
    page.write(Page.offsetof("req_prod"), len(request).to_bytes(4, "little"))
    guest.events.send(port)
    assert guest.events.is_pending(port)
    size = int.from_bytes(page.read(Page.offsetof("rsp_prod"), 4), "little")
    reader = wire.MessageReader()
    reader.feed(page.read(1024, size))
    reply = reader.next()
    assert reply is not None
    assert (reply.req_id, reply.payload) == (3, b"/local/domain/1\0")


def test_release_lets_go_of_page_and_port() -> None:
    dom0, guest, mfn, _ = make()
    assert guest.memory.refs(mfn) == 2
    assert dom0.domain.events.active == 1
    StoreClient(dom0.store).release(1)
    assert guest.memory.refs(mfn) == 1
    assert dom0.domain.events.active == 0


def test_a_bad_page_or_port_leaves_nothing_behind() -> None:
    dom0, guest, _, port = make()
    client = StoreClient(dom0.store)
    machine = dom0.machine
    machine.domain(2)
    for gfn, bad_port in ((0x99, 1), (0x99, 77)):
        with pytest.raises(XenError) as raised:
            client.introduce(2, gfn, bad_port)
        assert raised.value.errno is Errno.EINVAL
    assert not client.is_introduced(2)
    assert client.is_introduced(1)
    assert dom0.domain.events.active == 1
    assert client.request(xs_wire.XS_MKDIR, b"/still/works\0") == OK
    assert guest.events.status(port).remote_domid == 0
