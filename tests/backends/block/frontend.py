# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine with domain 0's block back end, and guests whose front ends are played here.

The front end writes rings, grants and store nodes with plain struct formats, and shares nothing
with the code that it tests.
"""

from __future__ import annotations

import itertools
import struct
import time
from collections.abc import Sequence
from typing import NamedTuple

from tests.backends.scene import Scene as BaseScene
from xenograft.backends.block.device import BlockDevice
from xenograft.backends.block.images.image import Buffer, Fill, Image
from xenograft.backends.xenbus.bus import XenbusBackend
from xenograft.hypervisor.domain import Domain
from xenograft.store.client import StoreClient

PAGE = 4096
SECTOR = 512
GTF_PERMIT, GTF_READONLY = 1, 4
READ, WRITE, BARRIER, FLUSH, DISCARD, INDIRECT = 0, 1, 2, 3, 5, 6
OKAY, ERROR, EOPNOTSUPP = 0, -1, -2

Segment = tuple[int, int, int]


class MemoryImage:
    """An image in memory that keeps what was asked of it, and fails when told to."""

    def __init__(self, sectors: int = 2048, *, readonly: bool = False, now: bool = False) -> None:
        self.path = "memory"
        self.data = bytearray(sectors * SECTOR)
        self.readonly = readonly
        self.discard_granularity = 0 if readonly else 4096
        self.now = now
        """Whether reads need no waiting."""
        self.log: list[tuple[str, int, int]] = []
        self.errors: dict[str, OSError] = {}
        self.closed = False

    @property
    def size(self) -> int:
        return len(self.data)

    def _note(self, name: str, offset: int = 0, size: int = 0) -> None:
        assert not self.closed
        assert 0 <= offset <= offset + size <= len(self.data)
        self.log.append((name, offset, size))
        if name in self.errors:
            raise self.errors[name]

    def read(self, offset: int, size: int) -> bytes:
        self._note("read", offset, size)
        return bytes(self.data[offset : offset + size])

    def read_now(self, offset: int, size: int) -> bytes | None:
        return self.read(offset, size) if self.now else None

    def fill_now(self, offset: int, size: int, fill: Fill) -> int:
        return 0

    def write(self, offset: int, data: Buffer) -> None:
        self._note("write", offset, len(data))
        assert not self.readonly
        self.data[offset : offset + len(data)] = data

    def flush(self) -> None:
        self._note("flush")

    def discard(self, offset: int, size: int) -> None:
        self._note("discard", offset, size)
        self.data[offset : offset + size] = bytes(size)

    def refresh(self) -> int:
        return self.size

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class Scene(BaseScene):
    """A machine whose guests have block devices; its clock stands still but in `finish`."""

    def close(self) -> None:
        super().close()
        assert not self.control.grants.maptrack, "grants are still mapped"

    @property
    def bus(self) -> XenbusBackend:
        return self.services.buses["vbd"]

    def run(self, ns: int = 0) -> None:
        self.pass_time(ns) if ns else self.settle()

    def finish(self) -> None:
        """Let everything happen that is under way."""
        self.run()
        end = time.monotonic() + 60
        while self.work.outstanding:
            assert time.monotonic() < end, "a job never ends"
            if self.xen.clock.virtual:
                due = self.xen.timers.next_deadline()
                assert due is not None
                self.xen.clock.advance_to(due)
            else:
                self.xen.door.serve(0.1)
            self.run()


class Answer(NamedTuple):
    """A response."""

    id: int
    operation: int
    status: int


class Ring:
    """The front end's side of a ring of `1 << order` pages."""

    def __init__(self, front: FrontEnd, order: int) -> None:
        self.front = front
        self.space = front.domain.space
        self.pages = [front.page() for _ in range(1 << order)]
        self.bits = front.bits
        entry = 112 if self.bits == 64 else 108
        room = (PAGE << order) - 64
        self.entry = entry
        self.slots = 1 << (room // entry).bit_length() - 1
        self.port = front.domain.events.alloc_unbound(0)
        self.req_prod = self.rsp_cons = 0
        for gfn, _ in self.pages:
            self.space.write(gfn * PAGE, bytes(PAGE))
        self.word(4, 1)
        self.word(12, 1)

    def _at(self, offset: int) -> int:
        return self.pages[offset // PAGE][0] * PAGE + offset % PAGE

    def word(self, offset: int, value: int | None = None) -> int:
        if value is not None:
            self.space.write(self._at(offset), struct.pack("<I", value & 0xFFFFFFFF))
        return int.from_bytes(self.space.read(self._at(offset), 4), "little")

    def put(self, slot: bytes) -> None:
        at = 64 + self.req_prod % self.slots * self.entry
        for index, byte in enumerate(slot.ljust(self.entry, b"\0")):
            self.space.write(self._at(at + index), bytes([byte]))
        self.req_prod = self.req_prod + 1 & 0xFFFFFFFF

    def show(self, value: int | None = None) -> None:
        self.word(0, self.req_prod if value is None else value)

    def take(self) -> list[Answer]:
        """New responses; asks for an event for the next one."""
        answers = []
        while self.rsp_cons != self.word(8):
            at = 64 + self.rsp_cons % self.slots * self.entry
            data = b"".join(self.space.read(self._at(at + i), 1) for i in range(12))
            answers.append(Answer(*struct.unpack("<QBxh", data)))
            self.rsp_cons = self.rsp_cons + 1 & 0xFFFFFFFF
        self.word(12, self.rsp_cons + 1)
        return answers


class FrontEnd:
    """A block front end of a device made for it; `connect` connects them.

    `image` is handed to the back end; without one it opens what `backend`'s nodes name.
    """

    def __init__(
        self,
        scene: Scene,
        image: Image | None = None,
        domain: Domain | None = None,
        devid: int = 51712,
        *,
        queues: int = 1,
        order: int = 0,
        bits: int = 64,
        persistent: bool = False,
        nodes: dict[str, str] | None = None,
        **backend: str,
    ) -> None:
        self.scene = scene
        self.domain = scene.domain(1400) if domain is None else domain
        self.devid = devid
        self.bits = bits
        self.order = order
        self.store = StoreClient(scene.store, self.domain.domid)
        self.path = f"/local/domain/{self.domain.domid}/device/vbd/{devid}"
        self.back = f"/local/domain/0/backend/vbd/{self.domain.domid}/{devid}"
        self.nodes = {
            "protocol": "x86_64-abi" if bits == 64 else "x86_32-abi",
            "feature-persistent": "1" if persistent else "0",
            **(nodes or {}),
        }
        self._next = itertools.count(1)
        self._refs = itertools.count(8)
        self._ids = itertools.count(1 << 40)
        if image is not None:
            scene.services.images[self.domain.domid, devid] = image
        self._attach({"mode": "w", "device-type": "disk", "online": "1", **backend})
        self.rings = [Ring(self, order) for _ in range(queues)]
        self.pages = [self.page() for _ in range(12)]

    def _attach(self, backend: dict[str, str]) -> None:
        """What the toolstack writes."""
        domid = self.domain.domid
        with self.scene.client.transaction() as tx:
            for name, value in {"backend": self.back, "backend-id": "0", "state": "1"}.items():
                tx.write(f"{self.path}/{name}", value)
                tx.set_perms(f"{self.path}/{name}", [f"n{domid}", "r0"])
            tx.set_perms(self.path, [f"n{domid}", "r0"])
            front = {"frontend": self.path, "frontend-id": str(domid)}
            for name, value in {**front, **backend, "state": "1"}.items():
                tx.write(f"{self.back}/{name}", value)
            tx.set_perms(self.back, ["n0", f"r{domid}"])
        self.scene.run()

    # -- pages ---------------------------------------------------------------------------------
    def page(self, flags: int = GTF_PERMIT) -> tuple[int, int]:
        """A page of the guest's, and a grant of it: (gfn, ref)."""
        gfn = next(self._next)
        return gfn, self.grant(gfn, flags)

    def grant(self, gfn: int, flags: int = GTF_PERMIT, domid: int = 0) -> int:
        ref = next(self._refs)
        table = self.domain.grants
        if ref >= len(table.shared):
            table.grow(ref // 512 + 1)
        table.shared.write_v1(ref, flags, domid, gfn)
        return ref

    def in_use(self, ref: int) -> bool:
        """Whether the back end has a grant mapped (GTF_reading, GTF_writing)."""
        return bool(self.domain.grants.shared.flags(ref) & 0x18)

    # -- the store -----------------------------------------------------------------------------
    @property
    def device(self) -> BlockDevice:
        device = self.scene.bus.find(self.domain.domid, self.devid)
        assert isinstance(device, BlockDevice)
        return device

    def offered(self, name: str) -> str | None:
        """A node of the back end's."""
        return self.scene.client.get(f"{self.back}/{name}")

    @property
    def backend_state(self) -> int:
        return int(self.offered("state") or 0)

    @property
    def error(self) -> str | None:
        return self.scene.client.get(
            f"/local/domain/0/error/backend/vbd/{self.domain.domid}/{self.devid}/error"
        )

    def switch(self, state: int) -> None:
        self.store.write(f"{self.path}/state", state)
        self.scene.run()

    def describe(self) -> dict[str, str]:
        """What the back end has to know."""
        nodes = dict(self.nodes)
        if len(self.rings) > 1:
            nodes["multi-queue-num-queues"] = str(len(self.rings))
        if self.order:
            nodes["ring-page-order"] = str(self.order)
        for index, ring in enumerate(self.rings):
            prefix = f"queue-{index}/" if len(self.rings) > 1 else ""
            nodes[f"{prefix}event-channel"] = str(ring.port)
            for number, (_, ref) in enumerate(ring.pages):
                name = f"ring-ref{number}" if self.order else "ring-ref"
                nodes[f"{prefix}{name}"] = str(ref)
        return nodes

    def connect(self, **changes: str | None) -> FrontEnd:
        """Connect; `changes` are nodes written otherwise, or not at all (by `a_b`: ``a-b``)."""
        assert self.backend_state == 2, self.error
        nodes: dict[str, str | None] = {**self.describe()}
        nodes |= {name.replace("_", "-"): value for name, value in changes.items()}
        with self.store.transaction() as tx:
            for name, text in nodes.items():
                if text is not None:
                    tx.write(f"{self.path}/{name}", text)
        self.switch(3)
        return self

    # -- requests ------------------------------------------------------------------------------
    def request(
        self, operation: int, sector: int, segments: Sequence[Segment] = (), ident: int = 0
    ) -> bytes:
        """A slot with segments of its own."""
        pad = "4x" if self.bits == 64 else ""
        ident = ident or next(self._ids)
        head = struct.pack(f"<BBH{pad}QQ", operation, len(segments), 0, ident, sector)
        return head + b"".join(struct.pack("<IBBxx", *segment) for segment in segments)

    def indirect(
        self, operation: int, sector: int, segments: Sequence[Segment], ident: int = 0
    ) -> bytes:
        """A slot whose segments are in pages of their own."""
        refs = []
        for at in range(0, len(segments), 512):
            gfn, ref = self.page()
            packed = b"".join(struct.pack("<IBBxx", *one) for one in segments[at : at + 512])
            self.domain.space.write(gfn * PAGE, packed)
            refs.append(ref)
        return self.raw_indirect(operation, sector, len(segments), refs, ident)

    def raw_indirect(
        self, operation: int, sector: int, count: int, refs: Sequence[int], ident: int = 0
    ) -> bytes:
        pad = "4x" if self.bits == 64 else ""
        ident = ident or next(self._ids)
        head = struct.pack(f"<BBH{pad}QQHxx", INDIRECT, operation, count, ident, sector, 0)
        return head + struct.pack(f"<{len(refs)}I", *refs)

    def discard_request(self, sector: int, count: int, flag: int = 0) -> bytes:
        pad = "4x" if self.bits == 64 else ""
        return struct.pack(f"<BBH{pad}QQQ", DISCARD, flag, 0, next(self._ids), sector, count)

    def kick(self, queue: int = 0) -> None:
        self.domain.events.send(self.rings[queue].port)
        self.scene.run()

    def submit(self, *slots: bytes, queue: int = 0) -> None:
        """Put requests into a ring, and tell the back end; what needs time is then under way."""
        ring = self.rings[queue]
        for slot in slots:
            ring.put(slot)
        ring.show()
        self.kick(queue)

    def ask(self, *slots: bytes, queue: int = 0) -> list[Answer]:
        """Have requests done; returns the answers in the order in which they came."""
        self.submit(*slots, queue=queue)
        self.scene.finish()
        return self.rings[queue].take()

    def statuses(self, *slots: bytes, queue: int = 0) -> list[int]:
        return [answer.status for answer in self.ask(*slots, queue=queue)]

    def notified(self, queue: int = 0) -> bool:
        """Whether an event is pending (taken away by asking)."""
        at = self.domain.shared_info_maddr + 0x800
        return self.scene.xen.memory.test_and_clear_bit(at, self.rings[queue].port)

    # -- whole transfers -----------------------------------------------------------------------
    def put(self, data: bytes, first: int = 0) -> list[Segment]:
        """Data in pages of the front end's, from sector `first` of the first page on."""
        segments = []
        for gfn, ref in self.pages:
            room = (8 - first) * SECTOR
            part, data = data[:room], data[room:]
            self.domain.space.write(gfn * PAGE + first * SECTOR, part)
            segments.append((ref, first, first + len(part) // SECTOR - 1))
            first = 0
            if not data:
                return segments
        raise AssertionError("too much for the front end's pages")

    def got(self, segments: Sequence[Segment]) -> bytes:
        """What is in the pages of segments."""
        gfns = {ref: gfn for gfn, ref in self.pages}
        return b"".join(
            self.domain.space.read(gfns[ref] * PAGE + first * SECTOR, (last - first + 1) * SECTOR)
            for ref, first, last in segments
        )

    def write(self, sector: int, data: bytes, queue: int = 0) -> int:
        """Write some sectors; returns the status."""
        slot = self.request(WRITE, sector, self.put(data))
        return self.statuses(slot, queue=queue)[0]

    def read(self, sector: int, count: int, queue: int = 0) -> bytes | int:
        """Read some sectors; a status if that fails."""
        segments = self.put(b"\xee" * (count * SECTOR))
        (status,) = self.statuses(self.request(READ, sector, segments), queue=queue)
        return self.got(segments) if status == OKAY else status
