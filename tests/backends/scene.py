# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine with the services of domain 0, and guests whose front ends are played by tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xenograft.backends.xenbus.device import XenbusDevice
from xenograft.engine.fake import FakeEngine
from xenograft.engine.protocol import Engine
from xenograft.engine.unicorn import UnicornEngine
from xenograft.hypervisor.domain import Domain
from xenograft.hypervisor.hypervisor import Hypervisor
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.time import RealClock, VirtualClock
from xenograft.store.client import StoreClient
from xenograft.toolstack.create import create_control_domain
from xenograft.toolstack.devices.manager import Devices
from xenograft.toolstack.devices.record import DeviceRecord
from xenograft.toolstack.layout import write_nodes
from xenograft.toolstack.services import Services

PAGES = 600


class Scene:
    """The machine; it runs no vCPU, and its time goes on with `run`."""

    def __init__(self, virtual: bool = True, *, native: bool = False) -> None:
        """`native`: its memory is the native core's."""
        clock = VirtualClock() if virtual else RealClock()
        engine: Engine = UnicornEngine() if native else FakeEngine()
        self.xen = Hypervisor(engine, frames=1 << 14, clock=clock)
        self.control = create_control_domain(self.xen)
        self.services = Services(self.xen, self.control)
        self.client = self.services.client
        self.store = self.services.store
        self.work = self.services.work
        self.host = self.services.host
        self.networks = self.services.networks

    def close(self) -> None:
        self.services.close()
        self.xen.close()

    def run(self, ns: int = 50_000_000) -> None:
        """Let what is due within a time happen, and what the host is busy with."""
        xen, end = self.xen, self.xen.clock.now() + ns
        for _ in range(100_000):
            xen.run_host_events()
            xen.door.serve(0.0)
            due = xen.timers.next_deadline()
            if due is not None and due <= (end if xen.clock.virtual else xen.clock.now()):
                xen.clock.advance_to(due)
                xen.timers.run_due(xen.clock.now())
            elif xen.host_events:
                continue
            elif xen.clock.virtual or not self.busy:
                return
            else:
                xen.door.serve(1.0)
        raise AssertionError("the machine doesn't come to rest")

    @property
    def log(self) -> str:
        return self.xen.log.text()

    def domain(self, pages: int = PAGES) -> Domain:
        """A domain with memory and a home in the store."""
        domain = self.xen.create_domain(GuestKind.PVH, max_pages=2 * pages)
        domain.p2m.populate(0, pages)
        home = f"/local/domain/{domain.domid}"
        self.client.write(home, "")
        self.client.set_perms(home, [f"n{domain.domid}"])
        return domain

    def settle(self) -> None:
        """Let all that is due by now happen: a virtual clock stands still."""
        xen = self.xen
        for _ in range(10_000):
            xen.run_host_events()
            xen.door.serve(0.0)
            due = xen.timers.next_deadline()
            if due is not None and due <= xen.clock.now():
                xen.timers.run_due(xen.clock.now())
                continue
            for function in list(xen.when_idle):
                function()
            due = xen.timers.next_deadline()
            waits = due is not None and due <= xen.clock.now()
            if not (waits or xen.host_events or xen.when_idle or xen.door._posted):
                return
        raise AssertionError("the machine doesn't come to rest")

    def pass_time(self, ns: int) -> None:
        """Let a time go by on the virtual clock, timer after timer."""
        clock, end = self.xen.clock, self.xen.clock.now() + ns
        self.settle()
        while (due := self.xen.timers.next_deadline()) is not None and due <= end:
            clock.advance_to(due)
            self.settle()
        clock.advance_to(end)
        self.settle()

    @property
    def busy(self) -> bool:
        """Whether jobs of the host are under way."""
        host = self.services.host
        return bool(self.services.work.outstanding) or any(pool.outstanding for pool in host.pools)

    def guest(self) -> Guest:
        return Guest(self)


class Guest:
    """A domain whose kernel is the test."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.xen: Domain = scene.domain()
        self.domid = self.xen.domid
        self.store = StoreClient(scene.services.store, self.domid)
        self.devices = Devices(scene.services, self.xen)
        self._next_ref = 8
        self._next_gfn = 1

    def page(self) -> int:
        """The number of a page that nobody uses yet."""
        self._next_gfn += 1
        return self._next_gfn - 1

    def grant(self, gfn: int) -> int:
        """A reference by which domain 0 may use a page."""
        ref = self._next_ref
        self._next_ref += 1
        self.xen.grants.seed(ref, 0, gfn)
        return ref

    def port(self) -> int:
        """A port that waits for domain 0."""
        return self.xen.events.alloc_unbound(0)

    def notify(self, port: int) -> None:
        self.xen.events.send(port)
        self.scene.xen.run_host_events()

    def attach(self, record: DeviceRecord) -> XenbusDevice:
        """Add a device; returns the back end's."""
        self.scene.client.transact(lambda view: write_nodes(view, record.nodes()))
        found = self.scene.services.devices(self.domid)
        return next(one for one in found if (one.kind, one.devid) == (record.kind, record.devid))

    def write(self, path: str, **nodes: object) -> None:
        """Nodes of a front end; dashes are underscores here."""
        for name, value in nodes.items():
            self.store.write(f"{path}/{name.replace('_', '-')}", str(value))

    def read_u32(self, gfn: int, offset: int) -> int:
        return int.from_bytes(self.xen.space.read(gfn << 12 | offset, 4), "little")

    def write_u32(self, gfn: int, offset: int, value: int) -> None:
        self.xen.space.write(gfn << 12 | offset, (value & 0xFFFFFFFF).to_bytes(4, "little"))


@contextmanager
def scene(virtual: bool = True) -> Iterator[Scene]:
    """A machine for one test."""
    one = Scene(virtual)
    try:
        yield one
    finally:
        one.close()


def open_descriptors() -> int:
    """How many files this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
