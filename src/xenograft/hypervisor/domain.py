# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain: its memory, vCPUs, event channels, grants and parameters.

Facts: Xen's struct domain (xen/include/xen/sched.h), domain_shutdown(), domain_resume(),
domain_kill().
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.sched import SHUTDOWN_NAMES
from xenograft.abi.xen import VIRQ_DOM_EXC
from xenograft.hypervisor.kinds import Dying, GuestKind
from xenograft.hypervisor.log import GuestLog
from xenograft.hypervisor.sched.unit import SchedDomain
from xenograft.hypervisor.vcpu import Vcpu
from xenograft.hypervisor.watchdog import Watchdogs

if TYPE_CHECKING:
    from xenograft.engine.protocol import AddressSpace, MachineMemory
    from xenograft.hypervisor.events.channels import EventChannels
    from xenograft.hypervisor.grants.table import GrantTable
    from xenograft.hypervisor.hvm.platform import HvmPlatform
    from xenograft.hypervisor.hypervisor import Hypervisor
    from xenograft.hypervisor.memory.frames import PagePool
    from xenograft.hypervisor.memory.p2m import P2m
    from xenograft.hypervisor.pv.platform import PvPlatform

__all__ = ["Domain", "Dying", "GuestKind"]


class Domain:
    """One domain. Made by `Hypervisor.create_domain`, which fills in the parts.

    `bits` is the layout of its shared structures (64, or 32 once a 32-bit guest has shown
    itself: Xen's has_32bit_shinfo).
    """

    space: AddressSpace
    events: EventChannels
    grants: GrantTable
    p2m: P2m
    pool: PagePool
    arch: HvmPlatform | PvPlatform
    shared_info_maddr: int

    def __init__(
        self,
        hypervisor: Hypervisor,
        domid: int,
        kind: GuestKind,
        *,
        name: str = "",
        is_privileged: bool = False,
        uuid: bytes = bytes(16),
        max_pages: int = 0,
        max_vcpus: int = 1,
    ) -> None:
        self.hypervisor = hypervisor
        self.domid = domid
        self.kind = kind
        self.name = name or f"Domain-{domid}"
        self.is_privileged = is_privileged
        """A control domain (Xen's is_control_domain)."""
        self.is_hardware = is_privileged and domid == 0
        """The hardware domain."""
        self.is_console = self.is_hardware
        self.is_xenstore = False
        self.is_hidden = False
        """It's kept for what was in it, and never runs: lists of domains leave it out."""
        self.is_host = False
        """Its services run in this process: events call Python functions."""
        self.target: Domain | None = None
        """The domain that this one is the device model of."""
        self.uuid = uuid
        self.max_pages = max_pages
        self.bits = 64
        self.has_pirq = kind is GuestKind.HVM
        self.hvm_params: dict[int, int] = {}
        self.callback_vector = -1
        """The vector of event upcalls (HVM_PARAM_CALLBACK_IRQ), or -1."""
        self.vm_assist = 0
        self.time_offset_seconds = 0
        self.time_shift = 0
        """Its system time less the machine's, in ns: one that was saved goes on from its own."""
        self.dying_state = Dying.ALIVE
        self.is_shutting_down = False
        self.shutdown_code: int | None = None
        """SHUTDOWN_* that the domain has asked for, also beforehand (SCHEDOP_shutdown_code)."""
        self.pause_count = 1
        """A new domain is paused once, until its builder unpauses it."""
        self.crash_report: str | None = None
        """What is known about how it crashed."""
        self.on_shutdown: list[Callable[[Domain], None]] = []
        """Called when the domain has shut down."""
        self.log = GuestLog(hypervisor.log, domid)
        self.watchdogs = Watchdogs(self)
        self.console_listeners: list[Callable[[bytes], None]] = []
        """Called with what the guest writes by console_io or the debug port."""
        self.sched = SchedDomain(domid, name=self.name, uuid=uuid)
        """What the schedulers know it by."""
        self.busy_until = 0
        """Until when one of its vCPUs has run, on a machine with several physical CPUs."""
        self.vcpus: list[Vcpu] = [Vcpu(self, index) for index in range(max_vcpus)]

    def __repr__(self) -> str:
        return f"<Domain {self.domid} {self.kind.value}>"

    @property
    def dying(self) -> bool:
        """Whether its destruction has begun."""
        return self.dying_state is not Dying.ALIVE

    @property
    def memory(self) -> MachineMemory:
        """The machine's memory."""
        return self.hypervisor.memory

    @property
    def shutdown_reason(self) -> int | None:
        """SHUTDOWN_* once the domain has shut down, else None."""
        return self.shutdown_code if self.is_shutting_down else None

    # -- time --------------------------------------------------------------------------------
    @property
    def system_time(self) -> int:
        """Its system time in ns: the machine's, or what it has gone on from since it was saved."""
        return self.hypervisor.clock.now() + self.time_shift

    def machine_time(self, system_time: int) -> int:
        """When on the machine's clock the domain's system time will be that."""
        return system_time - self.time_shift

    # -- running -----------------------------------------------------------------------------
    def pause(self) -> None:
        """Stop all vCPUs; `unpause` as often to let them run again."""
        self.pause_count += 1
        for vcpu in self.vcpus:
            vcpu.sleep()
        if self.pause_count == 1:
            self.report("paused")

    def unpause(self) -> None:
        """Undo one `pause`. Raises XenError(EINVAL) if it isn't paused."""
        if self.pause_count == 0:
            raise XenError(Errno.EINVAL)
        self.pause_count -= 1
        if self.pause_count == 0:
            self.report("unpaused")
            for vcpu in self.vcpus:
                vcpu.wake()

    def shutdown(self, reason: int) -> None:
        """The domain shuts down: its vCPUs stop, and the control domain is told.

        `reason` is a SHUTDOWN_*, unless SCHEDOP_shutdown_code has given another before. A domain
        that is shutting down stays as it is.
        """
        if self.shutdown_code is None:
            self.shutdown_code = reason
        if self.is_shutting_down:
            return
        self.is_shutting_down = True
        for vcpu in self.vcpus:
            vcpu.pause()
        name = SHUTDOWN_NAMES.get(self.shutdown_code, str(self.shutdown_code))
        self.report(f"shutdown {name.removeprefix('SHUTDOWN_')}")
        self.hypervisor.virqs.send(VIRQ_DOM_EXC)
        self.hypervisor.attention = True
        for listener in list(self.on_shutdown):
            listener(self)

    def resume(self) -> None:
        """Let a domain that has shut down (suspended) go on (XEN_DOMCTL_resumedomain)."""
        if not self.is_shutting_down:
            return
        self.is_shutting_down = False
        self.shutdown_code = None
        self.report("resumed")
        for vcpu in self.vcpus:
            vcpu.unpause()

    def crash(self, reason: str, report: str | None = None) -> None:
        """The hypervisor gives up on the guest (Xen's domain_crash)."""
        from xenograft.abi.sched import SHUTDOWN_crash

        self.log.message(f"domain_crash: {reason}")
        if self.crash_report is None:
            self.crash_report = report or reason
        self.shutdown_code = SHUTDOWN_crash
        self.shutdown(SHUTDOWN_crash)

    def report(self, state: str) -> None:
        if (hook := self.hypervisor.instruments.domain_state) is not None:
            hook(self.hypervisor.clock.now(), self.domid, state)

    # -- events ------------------------------------------------------------------------------
    def assert_upcall(self, vcpu: Vcpu) -> None:
        """Tell the vCPU that evtchn_upcall_pending is set (Xen's hvm_assert_evtchn_irq)."""
        if vcpu.upcall_vector:
            if vcpu.lapic is not None and vcpu.lapic.enabled:
                vcpu.lapic.set_irq(vcpu.upcall_vector)
        else:
            if vcpu.cpu is not None:
                vcpu.cpu.poke_line()
            vcpu.unblock()

    # -- frames that shared structures live in -----------------------------------------------
    def get_writable_frame(self, gfn: int) -> int:
        """The mfn behind `gfn`, which must be the domain's writable RAM, with a reference taken.

        Raises XenError(EINVAL) for anything else.
        """
        page = self.p2m.get_page(gfn)
        if page is None:
            raise XenError(Errno.EINVAL)
        mfn = page[0]
        frames = self.hypervisor.frames
        if not frames.get_writable(mfn):
            frames.put_page(mfn)
            raise XenError(Errno.EINVAL)
        return mfn

    def put_frame(self, mfn: int) -> None:
        """Drop what `get_writable_frame` took."""
        frames = self.hypervisor.frames
        frames.put_writable(mfn)
        frames.put_page(mfn)

    # -- output ------------------------------------------------------------------------------
    def console_write(self, data: bytes) -> None:
        """The guest prints to the hypervisor's console."""
        if (hook := self.hypervisor.instruments.console) is not None:
            hook(self.hypervisor.clock.now(), self.domid, data)
        self.log.put(data)
        for listener in self.console_listeners:
            listener(data)
