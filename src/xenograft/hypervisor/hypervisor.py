# SPDX-License-Identifier: GPL-2.0-or-later
"""The hypervisor: the machine's memory, clock, timers and domains, and who may touch whom."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from xenograft.abi.arch_x86.xen import XEN_LEGACY_MAX_VCPUS
from xenograft.abi.domctl import XEN_SCHEDULER_CREDIT2
from xenograft.abi.errno import Errno, XenError
from xenograft.abi.xen import DOMID_FIRST_RESERVED, DOMID_SELF, vcpu_info
from xenograft.engine.protocol import PAGE_SHIFT
from xenograft.hypervisor.call import Call, HostAccess
from xenograft.hypervisor.cpupool import CpuPools
from xenograft.hypervisor.domain import Domain
from xenograft.hypervisor.door import Door
from xenograft.hypervisor.events.channels import EventChannels
from xenograft.hypervisor.events.virq import GlobalVirqHandlers
from xenograft.hypervisor.faults import FaultPoints
from xenograft.hypervisor.grants.table import GrantTable
from xenograft.hypervisor.guest_time import update_vcpu_time, update_wallclock
from xenograft.hypervisor.hvm.platform import HvmPlatform
from xenograft.hypervisor.hypercalls.dispatch import dispatch
from xenograft.hypervisor.instruments import Instruments
from xenograft.hypervisor.kinds import Dying, GuestKind
from xenograft.hypervisor.log import Log
from xenograft.hypervisor.memory.frames import FrameTable
from xenograft.hypervisor.memory.p2m import P2m
from xenograft.hypervisor.metering import Meter
from xenograft.hypervisor.sched.core import SchedCore
from xenograft.hypervisor.sched.topology import Topology
from xenograft.hypervisor.time import Clock, RealClock
from xenograft.hypervisor.timers import TimerQueue
from xenograft.hypervisor.version import XenVersion

if TYPE_CHECKING:
    from xenograft.engine.protocol import Engine, MachineMemory
    from xenograft.hypervisor.pv.mappings import XenMappings
    from xenograft.hypervisor.pv.platform import PvPlatform
    from xenograft.hypervisor.vcpu import Vcpu

HVM_MAX_VCPUS = 128
"""The most vCPUs that an HVM-type domain may have (public/hvm/hvm_info_table.h)."""

DESTROY_BATCH = 4096
"""Frames that `destroy_domain` frees in one step."""


class Hypervisor:
    """One machine with its domains."""

    engine: Engine
    memory: MachineMemory

    def __init__(
        self,
        engine: Engine,
        *,
        frames: int = 1 << 18,
        clock: Clock | None = None,
        tsc_khz: int = 1_000_000,
        xen_version: XenVersion | None = None,
        verbose_debug: bool = True,
        seed: bytes | None = None,
        topology: Topology | None = None,
        sched_id: int = XEN_SCHEDULER_CREDIT2,
        credit2_runqueue: str = "socket",
    ) -> None:
        """`frames`: machine memory in 4 KiB frames; `tsc_khz`: the guests' TSC frequency.

        `seed`: of the guests' RDRAND (default: the host's entropy, or none on a virtual clock).
        `topology`: the physical CPUs (default: one); `sched_id`: XEN_SCHEDULER_* of Pool-0;
        `credit2_runqueue`: which CPUs share one of its run queues (sched.constants).
        `verbose_debug`: any guest may print by console_io, as in a debug build of Xen.
        """
        self.engine = engine
        self.memory = engine.memory(frames)
        self.clock: Clock = RealClock() if clock is None else clock
        self.frames = FrameTable(self.memory, self.clock.now)
        self.timers = TimerQueue()
        self.sched = SchedCore(
            topology or Topology.of(), self.timers, self.clock.now, credit2_runqueue
        )
        self.pools = CpuPools(self.sched, sched_id)
        self.meter = Meter(self)
        """What each domain has used."""
        self.instruments = Instruments()
        self.faults = FaultPoints()
        """Where tests make things go wrong."""
        self.log = Log(self.clock.now)
        self.log.listeners.append(self._log_line)
        self.door = Door()
        self.tsc_khz = tsc_khz
        if seed is None:
            seed = b"" if self.clock.virtual else os.urandom(16)
        self.seed = seed
        self.xen_version = XenVersion() if xen_version is None else xen_version
        self.verbose_debug = verbose_debug
        self.console_input = bytearray()
        """Characters typed at the hypervisor's console, for CONSOLEIO_read."""
        self.dispatch = dispatch
        self.domains: dict[int, Domain] = {}
        self._hosts: tuple[Domain, ...] = ()
        """Those whose services run in this process, by domid."""
        """Domains by number, those that are dying included."""
        self.virqs = GlobalVirqHandlers(self.domains)
        self._next_domid = 1
        self.pv_mappings: XenMappings | None = None
        """What all PV domains see of Xen; made for the first of them."""
        # -- what the machine loop and those who wake vCPUs share
        self.running: Vcpu | None = None
        """The vCPU whose code the machine loop runs at this moment."""
        self.host_events = False
        """An event is pending for a service of the embedded control domain."""
        self.when_idle: dict[Callable[[], None], None] = {}
        """What services have put off until no vCPU can run (see `BackendHost.soon`)."""
        self.idling = False
        """Just that is being done: the last vCPU that ran is about to halt, or has."""
        self.attention = False
        """Somebody outside waits for what has just happened: the loop is to look up."""

    def _log_line(self, time: int, domid: int, line: str) -> None:
        if (hook := self.instruments.log) is not None:
            hook(time, domid, line)

    def entropy_for(self, domid: int, vcpu_id: int) -> int:
        """The seed of a vCPU's random numbers (64 bits)."""
        data = self.seed + domid.to_bytes(2, "little") + vcpu_id.to_bytes(2, "little")
        return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")

    # -- scheduling, as far as those who wake vCPUs see it -----------------------------------
    def yield_vcpu(self, vcpu: Vcpu) -> None:
        """The vCPU has nothing to do before others have run (Xen's vcpu_yield)."""
        unit = vcpu.unit
        if unit.running and unit.domain.scheduler.waits(unit.cpu):
            self.sched.yield_(unit, self.clock.now())

    # -- events of domains whose services run in this process --------------------------------
    def _host_event(self) -> None:
        self.host_events = True

    def run_host_events(self) -> None:
        """Let the services of embedded domains see their events, in the order of domids."""
        while self.host_events:
            self.host_events = False
            for domain in self._hosts:
                if self.domains.get(domain.domid) is domain:
                    domain.events.run_callbacks()

    # -- domains -----------------------------------------------------------------------------
    def create_domain(
        self,
        kind: GuestKind,
        *,
        domid: int | None = None,
        name: str = "",
        max_vcpus: int = 1,
        max_pages: int = 0,
        is_privileged: bool = False,
        uuid: bytes = bytes(16),
        max_event_channels: int = 1023,
        host: bool = False,
        pool: int = 0,
    ) -> Domain:
        """A new domain, paused, without memory of its own yet (XEN_DOMCTL_createdomain).

        `max_pages` limits its memory; `host` makes the embedded control domain, whose events
        call Python functions; `pool` is its CPU pool.  Raises XenError: EINVAL for a bad number
        of vCPUs or domid, EEXIST for a domid in use, ENOMEM, ESRCH or ENODEV for the pool.
        """
        least = 0 if host else 1
        if not least <= max_vcpus <= HVM_MAX_VCPUS:
            raise XenError(Errno.EINVAL)
        if domid is None:
            domid = self._free_domid()
        elif not 0 <= domid < DOMID_FIRST_RESERVED:
            raise XenError(Errno.EINVAL)
        if domid in self.domains:
            raise XenError(Errno.EEXIST)
        domain = Domain(
            self,
            domid,
            kind,
            name=name,
            is_privileged=is_privileged,
            uuid=uuid,
            max_pages=max_pages,
            max_vcpus=max_vcpus,
        )
        domain.is_host = host
        self.pools.add_domain(domain.sched, pool)
        try:
            self._furnish(domain, max_event_channels, host)
        except XenError:
            self.pools.remove_domain(domain.sched)
            raise
        for vcpu in domain.vcpus:
            self.sched.add_unit(vcpu.unit, self.clock.now())
        self.domains[domid] = domain
        if host:
            self._hosts = tuple(sorted((*self._hosts, domain), key=lambda one: one.domid))
        self.meter.begin(domain)
        domain.report("created")
        return domain

    def _furnish(self, domain: Domain, max_event_channels: int, host: bool) -> None:
        domain.space = self.engine.space(self.memory)
        domain.pool = self.frames.add_pool(domain.domid, domain.max_pages)
        self.memory.set_external(domain.domid, domain.kind.is_hvm_type)
        if domain.kind is GuestKind.PV:
            domain.pool.view = domain.space
        domain.pool.on_empty = lambda: self._finish_destroy(domain)
        try:
            shared_info_mfn = self.frames.alloc_special(domain.pool)
        except XenError:
            self.frames.drop_pool(domain.pool)
            domain.space.close()
            raise
        domain.shared_info_maddr = shared_info_mfn << PAGE_SHIFT
        domain.p2m = P2m(
            self.frames,
            domain.pool,
            domain.space,
            translated=domain.kind.is_hvm_type,
            crash=domain.crash,
        )
        domain.events = EventChannels(
            domain,
            max_port=max_event_channels,
            host=host,
            schedule=self._host_event if host else None,
        )
        domain.grants = GrantTable(domain)
        domain.arch = self._platform(domain)
        size = vcpu_info.sizeof(64)
        for vcpu in domain.vcpus[:XEN_LEGACY_MAX_VCPUS]:
            vcpu.vcpu_info_maddr = domain.shared_info_maddr + vcpu.vcpu_id * size
        update_wallclock(domain)
        for vcpu in domain.vcpus:
            update_vcpu_time(vcpu, force=True)

    @staticmethod
    def _platform(domain: Domain) -> HvmPlatform | PvPlatform:
        if domain.kind is not GuestKind.PV:
            return HvmPlatform(domain)
        from xenograft.hypervisor.pv.platform import PvPlatform

        return PvPlatform(domain)

    def _free_domid(self) -> int:
        """Domids go up and come round, so that a number isn't used again at once."""
        for _ in range(DOMID_FIRST_RESERVED):
            domid = self._next_domid
            self._next_domid = domid + 1 if domid + 1 < DOMID_FIRST_RESERVED else 1
            if domid not in self.domains:
                return domid
        raise XenError(Errno.ENOMEM)

    def destroy_domain(self, domain: Domain) -> None:
        """End a domain: its CPUs, events, grants and memory go (XEN_DOMCTL_destroydomain).

        It stays in `domains`, dying, until other domains have let go of all its frames.
        """
        if domain.dying:
            return
        domain.dying_state = Dying.DYING
        domain.report("dying")
        domain.pause_count += 1
        for vcpu in domain.vcpus:
            vcpu.stop_timers()
            vcpu.sleep()
        self.pools.remove_domain(domain.sched)
        self.meter.retire(domain)
        domain.watchdogs.stop()
        domain.arch.close()
        while not domain.events.destroy():
            continue
        domain.grants.destroy()
        self.virqs.forget(domain.domid)
        for vcpu in domain.vcpus:
            vcpu.unmap_vcpu_info()
            if vcpu is self.running:
                self.running = None
            if vcpu.cpu is not None:
                vcpu.cpu.close()
                vcpu.cpu = None
        while not domain.p2m.relinquish(DESTROY_BATCH):
            continue
        self.frames.free_special(domain.shared_info_maddr >> PAGE_SHIFT)

    def _finish_destroy(self, domain: Domain) -> None:
        """The last frame of a dying domain has gone: now its number is free."""
        if domain.dying_state is Dying.DEAD:
            return
        domain.dying_state = Dying.DEAD
        self.frames.drop_pool(domain.pool)
        domain.space.close()
        del self.domains[domain.domid]
        self._hosts = tuple(one for one in self._hosts if one is not domain)
        domain.report("destroyed")
        self.attention = True

    def close(self) -> None:
        """Destroy all domains and give the machine's resources back."""
        for domain in list(self.domains.values()):
            self.destroy_domain(domain)
        self.door.close()
        self.memory.close()

    # -- whom a hypercall means --------------------------------------------------------------
    def resolve_domid(self, call: Call, domid: int) -> Domain:
        """The domain that a call names, the caller's own included.

        DOMID_SELF and the caller's own number are the caller. Raises XenError(ESRCH) if there's
        none (Xen's rcu_lock_domain_by_any_id).
        """
        if domid == DOMID_SELF or domid == call.domain.domid:
            return call.domain
        domain = self.domains.get(domid)
        if domain is None:
            raise XenError(Errno.ESRCH)
        return domain

    def resolve_remote_domid(self, call: Call, domid: int) -> Domain:
        """Another domain than the caller's.

        Raises XenError: ESRCH if there's none, EPERM if it is the caller's, EINVAL if it is
        dying (Xen's rcu_lock_live_remote_domain_by_id).
        """
        domain = self.domains.get(domid)
        if domain is None:
            raise XenError(Errno.ESRCH)
        if domain is call.domain:
            raise XenError(Errno.EPERM)
        if domain.dying:
            raise XenError(Errno.EINVAL)
        return domain

    def host_call(self, domain: Domain, number: int, *args: int, memory: HostAccess) -> int:
        """A hypercall of a domain whose services run in this process (the embedded toolstack).

        The same table, checks and instruments as for a guest. Raises Continuation as handlers do.
        """
        call = Call(self, domain, None, memory)
        return self.dispatch(call, number, (*args, 0, 0, 0, 0, 0)[:6])
