# SPDX-License-Identifier: GPL-2.0-or-later
"""A front end of 9pfs, played by the test: pages, indices and nodes written by hand."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.backends.scene import Guest
from xenograft.backends.xen_9pfs.device import P9Device
from xenograft.toolstack.config.p9 import P9
from xenograft.toolstack.devices.p9 import p9_record

IN_CONS, IN_PROD, OUT_CONS, OUT_PROD, ORDER, REFS = 0, 4, 64, 68, 128, 132


class FrontRing:
    """One ring of a front end."""

    def __init__(self, guest: Guest, order: int = 2) -> None:
        self.guest = guest
        self.size = 1 << order + 11
        self.interface = guest.page()
        self.pages = [guest.page() for _ in range(1 << order)]
        refs = [guest.grant(page) for page in self.pages]
        base = self.interface << 12
        guest.xen.space.write(base, bytes(4096))
        guest.xen.space.write(base + ORDER, struct.pack(f"<I{len(refs)}I", order, *refs))
        self.ref = guest.grant(self.interface)
        self.port = guest.port()
        self.consumed = 0
        self.produced = 0

    def _at(self, offset: int) -> int:
        return self.pages[offset >> 12] << 12 | offset & 0xFFF

    def put(self, data: bytes, notify: bool = True) -> None:
        for index, byte in enumerate(data):
            where = self._at(self.size + (self.produced + index) % self.size)
            self.guest.xen.space.write(where, bytes([byte]))
        self.produced = self.produced + len(data) & 0xFFFFFFFF
        self.guest.write_u32(self.interface, OUT_PROD, self.produced)
        if notify:
            self.guest.notify(self.port)

    def take(self) -> list[bytes]:
        """The answers that have come."""
        producer = self.guest.read_u32(self.interface, IN_PROD)
        data = bytearray()
        while self.consumed != producer:
            data += self.guest.xen.space.read(self._at(self.consumed % self.size), 1)
            self.consumed = self.consumed + 1 & 0xFFFFFFFF
        answers = []
        while data:
            size = int.from_bytes(data[:4], "little")
            answers.append(bytes(data[:size]))
            del data[:size]
        return answers

    def free(self) -> None:
        """Tell that the answers were read."""
        self.guest.write_u32(self.interface, IN_CONS, self.consumed)


class Front:
    """A device with its rings, connected."""

    def __init__(
        self, guest: Guest, folder: Path, rings: int = 1, order: int = 2, **nodes: object
    ) -> None:
        self.guest = guest
        record = p9_record(P9("share", str(folder)), 0, guest.domid)
        device = guest.attach(record)
        assert isinstance(device, P9Device)
        self.device = device
        self.path = record.frontend_path
        self.rings = [FrontRing(guest, order) for _ in range(rings)]
        guest.write(self.path, version=1, num_rings=rings)
        for index, ring in enumerate(self.rings):
            guest.store.write(f"{self.path}/ring-ref{index}", ring.ref)
            guest.store.write(f"{self.path}/event-channel-{index}", ring.port)
        guest.write(self.path, **nodes)
        guest.write(self.path, state=3)

    def ask(self, message: bytes) -> bytes:
        self.rings[0].put(message)
        self.guest.scene.run()
        (answer,) = self.rings[0].take()
        self.rings[0].free()
        return answer
