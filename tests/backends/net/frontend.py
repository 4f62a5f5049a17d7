# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine with domain 0's network services, and guests whose front ends are played here.

The front end writes rings, grants and store nodes with plain struct formats, and shares nothing
with the code that it tests.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.backends.scene import Scene as BaseScene
from xenograft.backends.net.vif import VifDevice
from xenograft.backends.xenbus.bus import XenbusBackend
from xenograft.hypervisor.domain import Domain
from xenograft.store.client import StoreClient

PAGE = 4096
SLOTS = 256
GTF_PERMIT, GTF_READONLY = 1, 4

TX_BLANK, TX_VALIDATED, TX_MORE, TX_EXTRA = 1, 2, 4, 8
RX_VALIDATED, RX_BLANK, RX_MORE, RX_EXTRA, RX_PREFIX = 1, 2, 4, 8, 16
OKAY, ERROR, NULL = 0, -1, 1

GSO, MCAST_ADD, MCAST_DEL, HASH = 1, 2, 3, 4


def gso(size: int, kind: int = 1, more: bool = False) -> bytes:
    return struct.pack("<BBHBBH", GSO, int(more), size, kind, 0, 0)


def mcast(address: bytes, add: bool = True, more: bool = False) -> bytes:
    return struct.pack("<BB6s", MCAST_ADD if add else MCAST_DEL, int(more), address)


class Scene(BaseScene):
    """A machine whose guests have network devices; its clock goes on by `pass_time` alone."""

    @property
    def bus(self) -> XenbusBackend:
        return self.services.buses["vif"]

    def run(self, ns: int = 0) -> None:
        self.pass_time(ns) if ns else self.settle()

    def attach(self, domain: Domain, devid: int = 0, **nodes: str) -> None:
        """What the toolstack writes for an interface."""
        domid = domain.domid
        front = f"/local/domain/{domid}/device/vif/{devid}"
        back = f"/local/domain/0/backend/vif/{domid}/{devid}"
        with self.client.transaction() as tx:
            for name, value in {"backend": back, "backend-id": "0", "state": "1"}.items():
                tx.write(f"{front}/{name}", value)
            tx.set_perms(front, [f"n{domid}", "r0"])
            tx.set_perms(f"{front}/state", [f"n{domid}", "r0"])
            for name, value in {
                "frontend": front,
                "frontend-id": str(domid),
                "online": "1",
                "bridge": "xenbr0",
                **nodes,
                "state": "1",
            }.items():
                tx.write(f"{back}/{name}", value)
            tx.set_perms(back, ["n0", f"r{domid}"])
        self.run()

    def device(self, domain: Domain, devid: int = 0) -> VifDevice:
        device = self.bus.find(domain.domid, devid)
        assert isinstance(device, VifDevice)
        return device


class Received(NamedTuple):
    """A packet that the front end got."""

    data: bytes
    flags: int
    extras: list[bytes]
    offset: int = 0


@dataclass
class Ring:
    """The front end's side of a shared ring."""

    domain: Domain
    gfn: int
    ref: int
    entry: int
    req_prod: int = 0
    rsp_cons: int = 0

    def __post_init__(self) -> None:
        # SHARED_RING_INIT
        self.domain.space.write(self.gfn * PAGE, bytes(PAGE))
        self._word(4, 1)
        self._word(12, 1)

    def _word(self, offset: int, value: int) -> None:
        at = self.gfn * PAGE + offset
        self.domain.space.write(at, struct.pack("<I", value & 0xFFFFFFFF))

    def word(self, offset: int) -> int:
        data = self.domain.space.read(self.gfn * PAGE + offset, 4)
        return int.from_bytes(data, "little")

    def put(self, slot: bytes) -> None:
        at = self.gfn * PAGE + 64 + self.req_prod % SLOTS * self.entry
        self.domain.space.write(at, slot.ljust(self.entry, b"\0"))
        self.req_prod += 1

    def show(self, value: int | None = None) -> None:
        self._word(0, self.req_prod if value is None else value)

    def take(self) -> list[bytes]:
        """New responses; asks for an event for the next one."""
        slots = []
        while self.rsp_cons != self.word(8):
            at = self.gfn * PAGE + 64 + self.rsp_cons % SLOTS * self.entry
            slots.append(self.domain.space.read(at, self.entry))
            self.rsp_cons += 1
        self._word(12, self.rsp_cons + 1)
        return slots


@dataclass
class Queue:
    tx: Ring
    rx: Ring
    tx_port: int
    rx_port: int
    prefix: str
    rx_refs: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By request id: (ref, gfn) of the buffers that the back end has."""
    rx_next: int = 0


class FrontEnd:
    """A network front end.  `nodes` are written to its directory beside what it needs."""

    def __init__(
        self,
        scene: Scene,
        domain: Domain | None = None,
        devid: int = 0,
        *,
        queues: int = 1,
        split: bool = True,
        control: bool = False,
        buffers: int = 64,
        nodes: dict[str, str] | None = None,
        **backend: str,
    ) -> None:
        self.scene = scene
        self.domain = scene.domain(700) if domain is None else domain
        self.devid = devid
        self.split = split
        self.store = StoreClient(scene.store, self.domain.domid)
        self.path = f"/local/domain/{self.domain.domid}/device/vif/{devid}"
        self.nodes = {
            "request-rx-copy": "1",
            "feature-rx-notify": "1",
            "feature-sg": "1",
            "feature-gso-tcpv4": "1",
            "feature-gso-tcpv6": "1",
            "feature-ipv6-csum-offload": "1",
            **(nodes or {}),
        }
        self.buffers = buffers
        self._ref = 8 + devid * 3000
        self._gfn = 1 + devid * 340
        scene.attach(self.domain, devid, **backend)
        self.queues = [self._make_queue(i, queues) for i in range(queues)]
        self.control: Ring | None = None
        self.control_port = 0
        if control:
            gfn, ref = self.page()
            self.control = Ring(self.domain, gfn, ref, 16)
            self.control_port = self.domain.events.alloc_unbound(0)
        self.tx_pages = [self.page(GTF_PERMIT | GTF_READONLY) for _ in range(24)]
        self._id = 0

    # -- pages ---------------------------------------------------------------------------------
    def page(self, flags: int = GTF_PERMIT) -> tuple[int, int]:
        """A page of the guest's, and a grant of it: (gfn, ref)."""
        gfn, self._gfn = self._gfn, self._gfn + 1
        return gfn, self.grant(gfn, flags)

    def grant(self, gfn: int, flags: int = GTF_PERMIT, domid: int = 0) -> int:
        ref, self._ref = self._ref, self._ref + 1
        table = self.domain.grants
        if ref >= len(table.shared):
            table.grow(ref // 512 + 1)
        table.shared.write_v1(ref, flags, domid, gfn)
        return ref

    def revoke(self, ref: int) -> None:
        self.domain.grants.shared.write_v1(ref, 0, 0, 0)

    def _make_queue(self, index: int, count: int) -> Queue:
        alloc = self.domain.events.alloc_unbound
        tx_gfn, tx_ref = self.page()
        rx_gfn, rx_ref = self.page()
        tx_port = alloc(0)
        rx_port = alloc(0) if self.split else tx_port
        return Queue(
            Ring(self.domain, tx_gfn, tx_ref, 12),
            Ring(self.domain, rx_gfn, rx_ref, 8),
            tx_port,
            rx_port,
            "" if count == 1 else f"queue-{index}/",
        )

    # -- the store -----------------------------------------------------------------------------
    @property
    def device(self) -> VifDevice:
        return self.scene.device(self.domain, self.devid)

    @property
    def backend_state(self) -> int:
        path = f"/local/domain/0/backend/vif/{self.domain.domid}/{self.devid}/state"
        return int(self.scene.client.read(path))

    def switch(self, state: int) -> None:
        self.store.write(f"{self.path}/state", state)
        self.scene.run()

    def describe(self) -> None:
        """Write what the back end has to know."""
        nodes = dict(self.nodes)
        if len(self.queues) > 1:
            nodes["multi-queue-num-queues"] = str(len(self.queues))
        for queue in self.queues:
            nodes[f"{queue.prefix}tx-ring-ref"] = str(queue.tx.ref)
            nodes[f"{queue.prefix}rx-ring-ref"] = str(queue.rx.ref)
            if self.split:
                nodes[f"{queue.prefix}event-channel-tx"] = str(queue.tx_port)
                nodes[f"{queue.prefix}event-channel-rx"] = str(queue.rx_port)
            else:
                nodes[f"{queue.prefix}event-channel"] = str(queue.tx_port)
        if self.control is not None:
            nodes["ctrl-ring-ref"] = str(self.control.ref)
            nodes["event-channel-ctrl"] = str(self.control_port)
        with self.store.transaction() as tx:
            for name, value in nodes.items():
                tx.write(f"{self.path}/{name}", value)

    def connect(self) -> FrontEnd:
        """Connect, with receive buffers posted; returns itself."""
        assert self.backend_state == 2
        self.describe()
        for queue in self.queues:
            self.post(self.buffers, queue)
        self.switch(4)
        return self

    # -- packets -------------------------------------------------------------------------------
    def notified(self, port: int) -> bool:
        """Whether an event is pending (taken away by asking)."""
        at = self.domain.shared_info_maddr + 0x800
        return self.scene.xen.memory.test_and_clear_bit(at, port)

    def kick(self, port: int) -> None:
        self.domain.events.send(port)
        self.scene.run()

    def post(self, count: int, queue: Queue | None = None) -> None:
        """Give the back end receive buffers."""
        queue = queue or self.queues[0]
        for _ in range(count):
            ident = queue.rx_next % SLOTS
            if ident not in queue.rx_refs:
                gfn, ref = self.page()
                queue.rx_refs[ident] = ref, gfn
            queue.rx.put(struct.pack("<HHI", ident, 0, queue.rx_refs[ident][0]))
            queue.rx_next += 1
        queue.rx.show()

    def put(
        self,
        data: bytes,
        flags: int = 0,
        extras: Sequence[bytes] = (),
        queue: Queue | None = None,
        sizes: Iterable[int] = (),
    ) -> list[int]:
        """Put a packet into the transmit ring, in parts of `sizes` (then of a page each)."""
        queue = queue or self.queues[0]
        parts, at, wanted = [], 0, iter(sizes)
        while at < len(data) or not parts:
            size = next(wanted, PAGE)
            parts.append(data[at : at + size])
            at += size
        ids = []
        for index, part in enumerate(parts):
            gfn, ref = self.tx_pages[self._id % len(self.tx_pages)]
            offset = min(7 * index, PAGE - len(part))
            self.domain.space.write(gfn * PAGE + offset, part)
            now = flags | (TX_EXTRA if extras else 0) if not index else 0
            now |= TX_MORE if index < len(parts) - 1 else 0
            size = len(part) if index else len(data)
            queue.tx.put(struct.pack("<IHHHH", ref, offset, now, self._id, size))
            ids.append(self._id)
            self._id = (self._id + 1) % 0x8000
            if not index:
                for extra in extras:
                    queue.tx.put(extra)
        queue.tx.show()
        return ids

    def send(
        self,
        data: bytes,
        flags: int = 0,
        extras: Sequence[bytes] = (),
        queue: Queue | None = None,
        sizes: Iterable[int] = (),
    ) -> list[int]:
        """Send a packet; returns the statuses of its slots, those of extras among them."""
        queue = queue or self.queues[0]
        self.put(data, flags, extras, queue, sizes)
        self.kick(queue.tx_port)
        return self.statuses(queue)

    def statuses(self, queue: Queue | None = None) -> list[int]:
        queue = queue or self.queues[0]
        return [struct.unpack_from("<Hh", slot)[1] for slot in queue.tx.take()]

    def receive(self, queue: Queue | None = None, repost: bool = True) -> list[Received]:
        """The packets that have come."""
        queue = queue or self.queues[0]
        packets: list[Received] = []
        slots, index = queue.rx.take(), 0
        used = 0
        while index < len(slots):
            data, flags, extras, first = b"", 0, [], 0
            more = True
            while more:
                ident, offset, part_flags, status = struct.unpack("<HHHh", slots[index])
                assert status >= 0, f"receive error {status}"
                _, gfn = queue.rx_refs[ident]
                if part_flags & RX_PREFIX:
                    extras.append(b"prefix" + struct.pack("<H", offset))
                    status = 0
                elif not data:
                    first, flags = offset, part_flags
                data += self.domain.space.read(gfn * PAGE + offset, status) if status else b""
                index += 1
                used += 1
                more = bool(part_flags & RX_MORE)
                if part_flags & RX_EXTRA:
                    following = True
                    while following:
                        extras.append(slots[index])
                        following = bool(slots[index][1] & 1)
                        index += 1
                        used += 1
            packets.append(Received(data, flags, extras, first))
        if repost and used:
            self.post(used, queue)
        return packets

    # -- the control ring ------------------------------------------------------------------------
    def ask(self, kind: int, *data: int) -> tuple[int, int]:
        """A control request: (status, data)."""
        assert self.control is not None
        self.control.put(struct.pack("<HHIII", 7, kind, *(*data, 0, 0, 0)[:3]))
        self.control.show()
        self.kick(self.control_port)
        (slot,) = self.control.take()
        ident, echoed, status, value = struct.unpack_from("<HHII", slot)
        assert (ident, echoed) == (7, kind)
        return status, value
