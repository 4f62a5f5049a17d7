# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest is told when the driver domain that served its disk has died.

Linux's blkfront waits for the answers to its requests for ever, even while the device is being
removed, so somebody has to give them.  Only the back end knows which requests it had taken, and
it is gone; so the toolstack keeps a *ledger* of each such ring: it looks at the ring whenever
another vCPU is switched in, and misses nothing, since between two switches only one of the two
ends has run.  After the back end's death a domain without vCPUs *stands in* for it, with its
number, its grants and its ports: it answers all that is outstanding, and all that still comes,
with an I/O error, until the device is gone.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from xenograft.abi.errno import XenError
from xenograft.abi.io.ring import SRING_HEADER_SIZE, ring_size, sring
from xenograft.abi.io.xenbus import XenbusState
from xenograft.backends.block.protocol import Layout, failure, layout_of
from xenograft.backends.ring import BackRing, RingError, SharedPages
from xenograft.backends.xenbus.host import BackendHost
from xenograft.backends.xenbus.state import parse_state
from xenograft.engine.protocol import PAGE_SHIFT
from xenograft.hypervisor.grants.copying import Acquired, acquire_grant, release_grant
from xenograft.hypervisor.grants.status import GrantError
from xenograft.hypervisor.kinds import GuestKind
from xenograft.store.client import StoreClient

if TYPE_CHECKING:
    from xenograft.backends.xenbus.host import EventChannel, MappedPages
    from xenograft.hypervisor.domain import Domain
    from xenograft.toolstack.services import Services

MAX_QUEUES = 64
MAX_RING_PAGE_ORDER = 4

_REQ_PROD = sring.offsetof("req_prod")
_RSP_PROD = sring.offsetof("rsp_prod")
_MASK = 0xFFFFFFFF


class RingLedger:
    """The requests of one ring that have had no answer: id -> operation.

    `look` has to be called between any two turns of the ring's ends.  A front end that breaks
    the ring loses its ledger (`broken`).
    """

    def __init__(self, pages: SharedPages, layout: Layout) -> None:
        self._pages = pages
        self._layout = layout
        self._slots = ring_size(pages.size, layout.slot_size)
        self._requests = self._responses = pages.read_u32(_RSP_PROD)
        self.outstanding: dict[int, int] = {}
        self.broken = False

    def _slot(self, index: int, size: int) -> bytes:
        at = SRING_HEADER_SIZE + (index & self._slots - 1) * self._layout.slot_size
        return self._pages.read(at, size)

    def look(self) -> None:
        """Note what has come and gone since the last time."""
        if self.broken:
            return
        requests, responses = (self._pages.read_u32(at) for at in (_REQ_PROD, _RSP_PROD))
        new_responses = responses - self._responses & _MASK
        new_requests = requests - self._requests & _MASK
        if new_responses > self._slots or new_requests > self._slots:
            self.broken = True
            self.outstanding.clear()
            return
        for index in range(new_responses):
            (ident,) = struct.unpack("<Q", self._slot(self._responses + index, 8))
            self.outstanding.pop(ident, None)
        for index in range(new_requests):
            data = self._slot(self._requests + index, self._layout.request_size)
            ident, operation = self._layout.identify(data)
            self.outstanding[ident] = operation
        self._requests, self._responses = requests, responses


class _Queue:
    """One ring of the watched device: where it is, and its ledger."""

    def __init__(
        self, refs: list[int], port: int, held: list[Acquired], ledger: RingLedger
    ) -> None:
        self.refs = refs
        self.port = port
        self.held = held
        self.ledger = ledger


class VbdWatch:
    """Keeps the ledgers of a disk that a driver domain serves (an instrument)."""

    def __init__(self, services: Services, guest: Domain, server: int, frontend: str) -> None:
        self._services = services
        self._guest = guest
        self._server = server
        self._frontend = frontend
        self._layout: Layout | None = None
        self._queues: list[_Queue] = []
        services.hypervisor.instruments.add(self)
        path = f"{frontend}/state"
        self._token: tuple[str, str] | None = None
        self._token = path, services.client.watch(path, lambda _path, _token: self._follow())

    def run_enter(self, _time: int, _domid: int, _vcpu: int) -> None:
        """A vCPU is about to run: an end of the ring may have had its turn before."""
        for queue in self._queues:
            queue.ledger.look()

    def _follow(self) -> None:
        state = parse_state(self._services.client.get(f"{self._frontend}/state"))
        if state in (XenbusState.Initialised, XenbusState.Connected):
            if not self._queues:
                self._begin()
        elif state is not XenbusState.Closing:
            self._end()

    def _number(self, name: str, default: int | None = None) -> int:
        """A node of the front end's; raises ValueError for what is no sensible number."""
        text = self._services.client.get(f"{self._frontend}/{name}")
        if text is None:
            if default is None:
                raise ValueError(name)
            return default
        if not text.isdigit() or len(text) > 10:
            raise ValueError(name)
        return int(text)

    def _begin(self) -> None:
        """The front end has set up its rings.  One that did it wrong isn't watched."""
        self._layout = layout_of(self._services.client.get(f"{self._frontend}/protocol"))
        try:
            count = self._number("multi-queue-num-queues", 1)
            order = self._number("ring-page-order", 0)
            if self._layout is None or count > MAX_QUEUES or order > MAX_RING_PAGE_ORDER:
                return
            for index in range(count):
                self._watch(f"queue-{index}/" if count > 1 else "", order)
        except (ValueError, GrantError):
            self._end()

    def _watch(self, base: str, order: int) -> None:
        assert self._layout is not None  # _begin has looked
        single = (
            order == 0 and self._services.client.get(f"{self._frontend}/{base}ring-ref0") is None
        )
        names = ["ring-ref"] if single else [f"ring-ref{i}" for i in range(1 << order)]
        refs = [self._number(base + name) for name in names]
        port = self._number(f"{base}event-channel")
        held: list[Acquired] = []
        try:
            for ref in refs:
                held.append(acquire_grant(self._guest.grants, ref, self._server, True))
        except GrantError:
            self._let_go(refs, held)
            raise
        maddrs = [page.mfn << PAGE_SHIFT for page in held]
        ledger = RingLedger(SharedPages(self._services.host.memory, maddrs), self._layout)
        self._queues.append(_Queue(refs, port, held, ledger))

    def _let_go(self, refs: list[int], held: list[Acquired]) -> None:
        """Give back the pages of a ring, of whose grants the first ones are held."""
        for ref, page in zip(refs, held, strict=False):
            release_grant(self._guest.grants, ref, True)
            self._services.hypervisor.frames.put_page(page.mfn)

    def _end(self) -> None:
        """Let go of the rings."""
        queues, self._queues = self._queues, []
        for queue in queues:
            self._let_go(queue.refs, queue.held)

    def close(self) -> None:
        """Stop watching; a second time does nothing."""
        if self._token is not None:
            self._services.client.unwatch(*self._token)
            self._token = None
            self._services.hypervisor.instruments.remove(self)
        self._end()

    def bury(self) -> StandIn | None:
        """The back end's domain is destroyed: have its place taken, and stop watching.

        None if there's nothing to answer, or its number isn't free yet.
        """
        self.run_enter(0, 0, 0)
        queues = [queue for queue in self._queues if not queue.ledger.broken]
        stand_in = None
        if queues and self._layout is not None:
            # The dead domain may have served other disks and guests, too: they share a stand-in.
            stand_in = self._services.stand_ins.get(self._server)
            if stand_in is None and self._server not in self._services.hypervisor.domains:
                stand_in = StandIn(self._services, self._server)
        if stand_in is not None and self._layout is not None:
            for queue in queues:
                outstanding = queue.ledger.outstanding
                stand_in.take_over(self._guest, queue.refs, queue.port, self._layout, outstanding)
        self.close()
        return stand_in


class _DeadRing:
    """A ring on which everything is answered with an error."""

    def __init__(
        self, host: BackendHost, guest: int, refs: list[int], port: int, layout: Layout
    ) -> None:
        """Raises GrantError, XenError, RingError."""
        self._layout = layout
        self.pages: MappedPages = host.map_pages(guest, refs)
        try:
            self.ring = BackRing(self.pages, layout.slot_size)
            self.channel: EventChannel = host.bind(guest, port, self.serve)
        except BaseException:
            self.pages.unmap()
            raise

    def answer(self, outstanding: dict[int, int]) -> None:
        """Answer what the dead back end had taken, and what has come since."""
        ring = self.ring
        try:
            ring.take(ring.slots, 1)
            for ident, operation in outstanding.items():
                if ring.outstanding:
                    ring.respond(self._layout.response(ident, operation, failure(operation)))
        except RingError:
            return
        self._push()

    def serve(self) -> None:
        try:
            more = True
            while more:
                for data in self.ring.take(8, self._layout.request_size):
                    ident, operation = self._layout.identify(data)
                    response = self._layout.response(ident, operation, failure(operation))
                    self.ring.respond(response)
                self._push()
                more = self.ring.final_check()
        except RingError:
            # The front end has broken its ring: nobody can answer it any more.
            self.channel.close()

    def _push(self) -> None:
        if self.ring.push():
            self.channel.notify()

    def close(self) -> None:
        self.channel.close()
        self.pages.unmap()


class StandIn:
    """A domain without vCPUs in the place of a dead one, for all rings that it served."""

    def __init__(self, services: Services, domid: int) -> None:
        hypervisor = services.hypervisor
        self._services = services
        self._domid = domid
        self.domain = hypervisor.create_domain(
            GuestKind.PVH, domid=domid, name=f"standin-{domid}", max_vcpus=0, host=True
        )
        self.domain.is_hidden = True
        self._host = BackendHost(
            hypervisor, self.domain, StoreClient(services.store, domid), services.work
        )
        self._rings: list[_DeadRing] = []
        services.stand_ins[domid] = self

    def take_over(
        self,
        guest: Domain,
        refs: list[int],
        port: int,
        layout: Layout,
        outstanding: dict[int, int],
    ) -> None:
        """Answer a ring from now on; one that can't be had stays without answers."""
        try:
            ring = _DeadRing(self._host, guest.domid, refs, port, layout)
        except (GrantError, XenError, RingError) as error:
            self._host.log(f"{guest.name}: no answers on the ring of port {port}: {error}")
            return
        self._rings.append(ring)
        ring.answer(outstanding)
        ring.serve()

    def close(self) -> None:
        """Leave the place; a second time does nothing."""
        if self._services.stand_ins.pop(self._domid, None) is None:
            return
        for ring in self._rings:
            ring.close()
        self._rings.clear()
        self._host.store.close()
        self._services.hypervisor.destroy_domain(self.domain)
