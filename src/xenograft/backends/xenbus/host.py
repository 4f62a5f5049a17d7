# SPDX-License-Identifier: GPL-2.0-or-later
"""The domain that back ends live in, as they see it: store, grants, events, host I/O.

Everything goes through the same checks as a guest's calls would: a back end of the embedded
domain 0 maps the pages that it was granted, and binds the ports that were left for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.backends.ring import SharedPages
from xenograft.backends.xenbus.work import WorkPool
from xenograft.engine.protocol import PAGE_SHIFT
from xenograft.hypervisor.grants.host import GrantMapping, map_grant
from xenograft.hypervisor.grants.status import GrantError
from xenograft.hypervisor.memory.p2m_types import P2mType
from xenograft.hypervisor.privilege import Xsm, check

if TYPE_CHECKING:
    from xenograft.engine.protocol import MachineMemory
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.hypervisor import Hypervisor
    from xenograft.hypervisor.memory.frames import FrameTable
    from xenograft.store.client import StoreClient


class EventChannel:
    """An event channel to another domain; `callback` is called when that one has sent."""

    __slots__ = ("_host", "_open", "domid", "port", "remote_port")

    def __init__(
        self, host: BackendHost, domid: int, remote_port: int, callback: Callable[[], None]
    ) -> None:
        """Raises XenError if `remote_port` wasn't left unbound for us."""
        self._host = host
        self.domid = domid
        self.remote_port = remote_port
        events = host.domain.events
        self.port = events.bind_interdomain(domid, remote_port)
        self._open = True
        events.attach(self.port, lambda _port: callback())

    def notify(self) -> None:
        """Send an event to the other end."""
        if self._open:
            self._host.domain.events.send(self.port)

    def close(self) -> None:
        """Let go of the channel; a second time does nothing."""
        if self._open:
            self._open = False
            self._host.domain.events.close(self.port)


class MappedPages(SharedPages):
    """Granted pages, mapped until `unmap`."""

    __slots__ = ("mappings",)

    def __init__(self, memory: MachineMemory, mappings: Sequence[GrantMapping]) -> None:
        super().__init__(memory, [mapping.maddr for mapping in mappings])
        self.mappings = tuple(mappings)

    def unmap(self) -> None:
        """Let go of the pages; a second time does nothing."""
        for mapping in self.mappings:
            mapping.unmap()


class ForeignPage(SharedPages):
    """A page of another domain's that was named by its gfn, held until `unmap`."""

    __slots__ = ("_frames", "mfn")

    def __init__(self, host: BackendHost, domid: int, gfn: int) -> None:
        """Raises XenError if we may not, or there's no memory of the domain's own."""
        target = host.hypervisor.domains.get(domid)
        if target is None:
            raise XenError(Errno.ESRCH)
        check(Xsm.TARGET, host.domain, target)
        held = target.p2m.get_page(gfn)
        if held is None:
            raise XenError(Errno.EINVAL)
        self._frames: FrameTable | None = host.hypervisor.frames
        self.mfn, kind = held
        if kind is not P2mType.ram_rw:
            self.unmap()
            raise XenError(Errno.EINVAL)
        super().__init__(host.memory, [self.mfn << PAGE_SHIFT])

    def unmap(self) -> None:
        """Let go of the page; a second time does nothing."""
        frames, self._frames = self._frames, None
        if frames is not None:
            frames.put_page(self.mfn)


class BackendHost:
    """The resources that the back ends of one domain share."""

    def __init__(
        self, hypervisor: Hypervisor, domain: Domain, store: StoreClient, work: WorkPool
    ) -> None:
        """`domain` is the embedded one whose services run in this process."""
        self.hypervisor = hypervisor
        self.domain = domain
        self.store = store
        self.work = work
        self.pools: list[WorkPool] = []
        """Devices' own."""

    def own_pool(self, threads: int) -> WorkPool:
        """Threads for one device, that may wait for long without holding up others.

        On the virtual clock jobs have one order: there the common pool is meant.
        """
        if self.hypervisor.clock.virtual:
            return self.work
        pool = WorkPool(self.hypervisor, threads)
        self.pools.append(pool)
        return pool

    def drain(self) -> None:
        """Wait until no host I/O is under way, in any pool."""
        for pool in (self.work, *self.pools):
            pool.drain()

    def drop_pool(self, pool: WorkPool) -> None:
        """A device needs its own threads no more."""
        if pool in self.pools:
            self.pools.remove(pool)
            pool.close()

    def close(self) -> None:
        """Finish what is under way in devices' own pools, and end their threads."""
        while self.pools:
            pool = self.pools[-1]
            pool.drain()
            self.drop_pool(pool)

    @property
    def domid(self) -> int:
        return self.domain.domid

    @property
    def memory(self) -> MachineMemory:
        return self.hypervisor.memory

    def now(self) -> int:
        """The machine's time, in ns."""
        return self.hypervisor.clock.now()

    @property
    def busy(self) -> bool:
        """Whether a physical CPU runs a vCPU that has more to do."""
        return bool(self.hypervisor.sched.busy) and not self.hypervisor.idling

    def soon(self, function: Callable[[], None], within_ns: int) -> None:
        """Call `function` once no vCPU can run, or in `within_ns` if they are that busy.

        So a guest that has more to say says it first, and is answered all at once.
        """
        hypervisor = self.hypervisor

        def call() -> None:
            del hypervisor.when_idle[call]
            hypervisor.timers.cancel(timer)
            function()

        timer = hypervisor.timers.add(hypervisor.clock.now() + within_ns, call)
        hypervisor.when_idle[call] = None

    def log(self, line: str) -> None:
        """A line for the machine's log, and for whoever runs the machine."""
        self.hypervisor.log.notice(line)

    def map(self, domid: int, ref: int, readonly: bool = False) -> GrantMapping:
        """Map a granted page.  Raises GrantError."""
        return map_grant(self.domain.grants, domid, ref, readonly)

    def map_pages(self, domid: int, refs: Sequence[int]) -> MappedPages:
        """Map granted pages as one area.  Raises GrantError; then none is mapped."""
        mappings: list[GrantMapping] = []
        try:
            for ref in refs:
                mappings.append(self.map(domid, ref))
        except GrantError:
            for mapping in mappings:
                mapping.unmap()
            raise
        return MappedPages(self.memory, mappings)

    def map_foreign(self, domid: int, gfn: int) -> ForeignPage:
        """Hold a page by its gfn, as old protocols have it.  Raises XenError."""
        return ForeignPage(self, domid, gfn)

    def bind(self, domid: int, port: int, callback: Callable[[], None]) -> EventChannel:
        """Connect to a port that a domain left for us.  Raises XenError."""
        return EventChannel(self, domid, port, callback)
