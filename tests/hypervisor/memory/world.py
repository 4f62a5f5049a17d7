# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine of memory alone: frames, domains with physical maps and grant tables, no CPUs."""

from __future__ import annotations

from typing import Any, cast

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.struct import Struct
from xenograft.abi.xen import DOMID_SELF
from xenograft.engine.fake import FakeEngine
from xenograft.engine.protocol import PAGE_SHIFT
from xenograft.hypervisor.call import Call, Continuation, HostAccess
from xenograft.hypervisor.faults import FaultPoints
from xenograft.hypervisor.grants.ops import grant_table_op
from xenograft.hypervisor.grants.table import GrantTable
from xenograft.hypervisor.instruments import Instruments
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.log import Log
from xenograft.hypervisor.memory.frames import FrameTable
from xenograft.hypervisor.memory.ops import memory_op
from xenograft.hypervisor.memory.p2m import P2m
from xenograft.hypervisor.time import VirtualClock


class Dom:
    """What memory and grants need to know of a domain."""

    def __init__(
        self, world: World, domid: int, kind: GuestKind, max_pages: int, privileged: bool
    ) -> None:
        self.hypervisor = world
        self.domid = domid
        self.kind = kind
        self.is_privileged = privileged
        self.is_hardware = domid == 0
        self.is_xenstore = False
        self.target: Dom | None = None
        self.dying = False
        self.bits = 64
        self.vcpus = [None]
        self.crashes: list[str] = []
        self.space = world.engine.space(world.memory)
        self.pool = world.frames.add_pool(domid, max_pages)
        self.shared_info_maddr = world.frames.alloc_special(self.pool) << PAGE_SHIFT
        self.p2m = P2m(
            world.frames,
            self.pool,
            self.space,
            translated=kind.is_hvm_type,
            crash=self.crash,
        )
        self.grants = GrantTable(cast(Any, self))

    def crash(self, reason: str) -> None:
        self.crashes.append(reason)

    def write(self, gfn: int, offset: int, data: bytes) -> None:
        self.space.write(gfn << PAGE_SHIFT | offset, data)

    def read(self, gfn: int, offset: int, size: int) -> bytes:
        return self.space.read(gfn << PAGE_SHIFT | offset, size)


class World:
    """The hypervisor, as far as memory goes."""

    def __init__(self, frames: int = 1024) -> None:
        self.engine = FakeEngine()
        self.memory = self.engine.memory(frames)
        self.frames = FrameTable(self.memory)
        self.running = None
        self.instruments = Instruments()
        self.faults = FaultPoints()
        self.clock = VirtualClock()
        self.log = Log(self.clock.now)
        self.domains: dict[int, Dom] = {}
        self.free_at_start = self.memory.free_frames()

    def domain(
        self,
        domid: int,
        kind: GuestKind = GuestKind.PVH,
        *,
        pages: int = 0,
        max_pages: int = 128,
        privileged: bool = False,
    ) -> Dom:
        """A new domain with `pages` of RAM from gfn 0 on (PV: wherever they are)."""
        dom = Dom(self, domid, kind, max_pages, privileged)
        self.domains[domid] = dom
        if pages:
            dom.p2m.populate(0, pages)
        return dom

    def destroy(self, dom: Dom) -> None:
        """End a domain, as the hypervisor does; it stays listed while it has frames."""
        dom.dying = True

        def gone() -> None:
            self.frames.drop_pool(dom.pool)
            del self.domains[dom.domid]

        dom.pool.on_empty = gone
        dom.grants.destroy()
        while not dom.p2m.relinquish(7):
            pass
        self.frames.free_special(dom.shared_info_maddr >> PAGE_SHIFT)

    # -- the part of Hypervisor that handlers use -------------------------------------------
    def resolve_domid(self, call: Call, domid: int) -> Any:
        if domid in (DOMID_SELF, call.domain.domid):
            return call.domain
        if domid not in self.domains:
            raise XenError(Errno.ESRCH)
        return self.domains[domid]

    def resolve_remote_domid(self, call: Call, domid: int) -> Any:
        domain = self.resolve_domid(call, domid)
        if domain is call.domain:
            raise XenError(Errno.EPERM)
        return domain

    # -- hypercalls ----------------------------------------------------------------------------
    def call(self, dom: Dom, bits: int = 64) -> tuple[Call, HostAccess]:
        memory = HostAccess()
        return Call(cast(Any, self), cast(Any, dom), None, memory, bits), memory


class Caller:
    """Makes hypercalls for a domain, following continuations; results are negative errnos."""

    def __init__(self, world: World, dom: Dom, bits: int = 64) -> None:
        self.world, self.dom, self.bits = world, dom, bits
        self.memory = HostAccess()
        self.continued = 0

    def put(self, value: Struct | bytes | list[int], size: int = 8) -> int:
        """A guest buffer with a structure, bytes, or integers of `size` bytes."""
        if isinstance(value, Struct):
            data = value.pack(self.bits)
        elif isinstance(value, bytes):
            data = value
        else:
            data = b"".join(one.to_bytes(size, "little") for one in value)
        return self.memory.put(data)

    def frames(self, gfns: list[int]) -> int:
        return self.put(gfns, self.bits // 8)

    def ints(self, addr: int, count: int, size: int = 8) -> list[int]:
        data = self.memory.read(addr, count * size)
        return [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)]

    def _run(self, handler: Any, args: tuple[int, ...]) -> int:
        while True:
            call = Call(cast(Any, self.world), cast(Any, self.dom), None, self.memory, self.bits)
            try:
                return int(handler(call, *args))
            except Continuation as more:
                self.continued += 1
                args = more.arguments
            except XenError as error:
                return -error.errno

    def memory_op_at(self, cmd: int, addr: int) -> int:
        return self._run(memory_op, (cmd, addr))

    def memory_op(self, cmd: int, argument: Struct) -> int:
        """The argument is updated with what was copied back."""
        addr = self.put(argument)
        result = self.memory_op_at(cmd, addr)
        self.update(argument, addr)
        return result

    def update(self, argument: Struct, addr: int) -> None:
        cls = type(argument)
        new = cls.unpack(self.memory.read(addr, cls.sizeof(self.bits)), self.bits)
        for name, _, value in new.items():
            setattr(argument, name, value)

    def grant_op_at(self, cmd: int, addr: int, count: int) -> int:
        return self._run(grant_table_op, (cmd, addr, count))

    def grant_op(self, cmd: int, *arguments: Struct) -> int:
        data = b"".join(argument.pack(self.bits) for argument in arguments)
        addr = self.memory.put(data)
        result = self.grant_op_at(cmd, addr, len(arguments))
        for i, argument in enumerate(arguments):
            self.update(argument, addr + i * type(argument).sizeof(self.bits))
        return result
