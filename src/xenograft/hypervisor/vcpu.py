# SPDX-License-Identifier: GPL-2.0-or-later
"""A virtual CPU as the hypervisor sees it: its states, its timers, its shared structures.

Facts: public/vcpu.h, public/xen.h; Xen's struct vcpu, vcpu_block(), vcpu_unblock(),
vcpu_mark_events_pending() and vcpu_runstate_change().
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.vcpu import (
    RUNSTATE_blocked,
    RUNSTATE_offline,
    RUNSTATE_runnable,
    RUNSTATE_running,
)
from xenograft.abi.xen import VIRQ_TIMER, vcpu_info
from xenograft.arch.x86.pvclock import TscClock
from xenograft.arch.x86.registers import X86_EFLAGS_IF
from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE
from xenograft.hypervisor.sched.unit import SchedUnit

if TYPE_CHECKING:
    from xenograft.arch.x86.platform.lapic import LocalApic
    from xenograft.engine.protocol import Cpu
    from xenograft.hypervisor.call import Call
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.timers import Timer

# Offsets in struct vcpu_info, the same for 32 and 64-bit guests (public/xen.h).
UPCALL_PENDING = 0
UPCALL_MASK = 1


class Vcpu:
    """One vCPU of a domain.

    A vCPU runs when it is up (`down` is false), not `blocked`, and nothing pauses it or its
    domain.  `cpu` is the engine's CPU, made when the vCPU is first brought up.
    """

    __slots__ = (
        "blocked",
        "call",
        "cpu",
        "domain",
        "down",
        "exit_gap",
        "initialised",
        "irq_dirty",
        "lapic",
        "pause_count",
        "period_ns",
        "periodic_timer",
        "poll_ports",
        "poll_timer",
        "ran_ns",
        "requested",
        "runstate",
        "runstate_area",
        "runstate_since",
        "runstate_times",
        "singleshot_timer",
        "time_area",
        "time_stamped",
        "tsc",
        "unended",
        "unit",
        "upcall_vector",
        "vcpu_id",
        "vcpu_info_maddr",
        "vcpu_info_mfn",
    )

    def __init__(self, domain: Domain, vcpu_id: int) -> None:
        self.domain = domain
        self.vcpu_id = vcpu_id
        self.cpu: Cpu | None = None
        self.call: Call | None = None
        """The record that its hypercalls use; made with `cpu`."""
        self.initialised = False
        """Whether its registers are set: by the builder, VCPUOP_initialise or a start-up IPI."""
        self.down = True
        """VPF_down: never brought up, or taken down."""
        self.blocked = False
        """VPF_blocked: waits for an event (HLT, SCHEDOP_block, SCHEDOP_poll)."""
        self.exit_gap = 0
        """How long it usually runs between two exits that stop others, in ns; kept where CPUs can
        run at once."""
        self.ran_ns = 0
        """How long it has run since its last exit, in ns; likewise."""
        self.pause_count = 0
        self.unit = SchedUnit(domain.sched, vcpu_id, self)
        """What the scheduler knows it by."""
        self.unit.online = False
        self.poll_ports: tuple[int, ...] | None = None
        """The ports that SCHEDOP_poll waits for; None when it doesn't poll."""
        self.poll_timer: Timer | None = None
        self.periodic_timer: Timer | None = None
        self.period_ns = 0
        self.singleshot_timer: Timer | None = None
        self.lapic: LocalApic | None = None
        """The local APIC of an HVM-type guest's vCPU."""
        self.irq_dirty = False
        """Whether the local APIC has to be asked again which vector is next."""
        self.requested = -1
        """The vector that was requested of the engine, or -1."""
        self.unended = False
        """The guest may end the last vector that was requested without an exit."""
        self.upcall_vector = 0
        """HVMOP_set_evtchn_upcall_vector's vector; 0: the domain's callback is used."""
        self.vcpu_info_maddr: int | None = None
        """Machine address of its vcpu_info: in shared_info, or where the guest registered it."""
        self.vcpu_info_mfn: int | None = None
        """The frame that VCPUOP_register_vcpu_info named (with a reference), or None."""
        self.runstate_area = 0
        """Guest address of the registered vcpu_runstate_info, or 0."""
        self.time_area = 0
        """Guest address of the registered vcpu_time_info, or 0."""
        self.tsc = TscClock(domain.hypervisor.tsc_khz)
        self.time_stamped = 0
        """When its time record was last renewed (ns)."""
        self.runstate: int = RUNSTATE_offline
        self.runstate_since = domain.hypervisor.clock.now()
        self.runstate_times = [0, 0, 0, 0]

    def __repr__(self) -> str:
        return f"<Vcpu d{self.domain.domid}v{self.vcpu_id}>"

    # -- may it run? -------------------------------------------------------------------------
    @property
    def online(self) -> bool:
        """Whether it is up (VCPUOP_is_up)."""
        return not self.down

    @property
    def paused(self) -> bool:
        return self.pause_count > 0 or self.domain.pause_count > 0

    @property
    def runnable(self) -> bool:
        return not (self.down or self.blocked or self.pause_count or self.domain.pause_count)

    def wake(self) -> None:
        """Let the scheduler consider it, if it may run (Xen's vcpu_wake)."""
        if self.runnable:
            if self.runstate >= RUNSTATE_blocked:
                self.set_runstate(RUNSTATE_runnable)
            if not self.unit.runnable:
                hypervisor = self.domain.hypervisor
                hypervisor.sched.wake(self.unit, hypervisor.clock.now())
        elif self.runstate == RUNSTATE_blocked and not self.blocked:
            self.set_runstate(RUNSTATE_offline)

    def sleep(self) -> None:
        """Note that it may no longer run (Xen's vcpu_sleep_nosync)."""
        if self.runnable:
            return
        if self.unit.wanted:
            hypervisor = self.domain.hypervisor
            hypervisor.sched.sleep(self.unit, hypervisor.clock.now())
        if self.runstate != RUNSTATE_running:
            self.set_runstate(RUNSTATE_blocked if self.blocked else RUNSTATE_offline)

    def pause(self) -> None:
        self.pause_count += 1
        self.sleep()

    def unpause(self) -> None:
        self.pause_count -= 1
        self.wake()

    def block(self, timeout_ns: int = 0) -> None:
        """Wait for an event; if it polls, until system time `timeout_ns` at most (0: for ever).

        Xen's vcpu_block(), and the end of do_poll().
        """
        self.blocked = True
        if timeout_ns and self.poll_ports is not None:
            deadline = self.domain.machine_time(timeout_ns)
            self.poll_timer = self.domain.hypervisor.timers.add(deadline, self._poll_timed_out)
        self.sleep()

    def unblock(self) -> None:
        """End HLT, SCHEDOP_block or SCHEDOP_poll (Xen's vcpu_unblock)."""
        if self.blocked:
            self.blocked = False
            self._end_poll()
            self.wake()

    def _end_poll(self) -> None:
        self.poll_ports = None
        self.domain.hypervisor.timers.cancel(self.poll_timer)
        self.poll_timer = None

    def _poll_timed_out(self) -> None:
        self.poll_timer = None
        if self.poll_ports is not None:
            self.unblock()

    def bring_up(self) -> None:
        """Let an initialised vCPU run (VCPUOP_up)."""
        if self.down:
            self.down = False
            self.unit.online = True
            self.wake()

    def take_down(self) -> None:
        """Stop it until it is brought up again."""
        if not self.down:
            self.down = True
            self.unit.online = False
            self.sleep()

    # -- events ------------------------------------------------------------------------------
    def mark_events_pending(self) -> None:
        """Set evtchn_upcall_pending and, if it was clear, raise the upcall.

        Xen's vcpu_mark_events_pending().
        """
        maddr = self.vcpu_info_maddr
        if maddr is None:
            return
        if not self.domain.memory.test_and_set_bit(maddr, UPCALL_PENDING):
            self.domain.assert_upcall(self)

    @property
    def upcall_pending(self) -> bool:
        """evtchn_upcall_pending, as the guest and we both see it."""
        maddr = self.vcpu_info_maddr
        return maddr is not None and self.domain.memory.read(maddr, 1) != b"\0"

    def interrupt_pending(self) -> bool:
        """Whether anything waits for the vCPU to take it (Xen's hvm_event_pending)."""
        if self.domain.callback_vector >= 0 and self.upcall_pending:
            return True
        return self.lapic is not None and self.lapic.next_vector() >= 0

    def events_need_delivery(self) -> bool:
        """Whether an event waits that the vCPU would take now (local_events_need_delivery)."""
        if self.domain.kind.is_hvm_type:
            enabled = self.cpu is not None and bool(self.cpu.get("rflags") & X86_EFLAGS_IF)
            return enabled and self.interrupt_pending()
        maddr = self.vcpu_info_maddr
        if maddr is None:
            return False
        pending, mask = self.domain.memory.read(maddr, 2)
        return pending != 0 and mask == 0

    def send_nmi(self) -> None:
        """Make an NMI pending (once), and wake the vCPU."""
        if self.cpu is not None:
            self.cpu.set_nmi()
            self.unblock()

    # -- timers ------------------------------------------------------------------------------
    def send_timer_event(self) -> None:
        """Raise VIRQ_TIMER."""
        self.domain.events.raise_virq(self, VIRQ_TIMER)

    def set_singleshot_timer(self, deadline_ns: int) -> None:
        """One VIRQ_TIMER at a time of the machine's clock, in place of the one set before."""
        timers = self.domain.hypervisor.timers
        timers.cancel(self.singleshot_timer)
        self.singleshot_timer = timers.add(deadline_ns, self.send_timer_event)

    def stop_singleshot_timer(self) -> None:
        self.domain.hypervisor.timers.cancel(self.singleshot_timer)
        self.singleshot_timer = None

    def set_periodic_timer(self, period_ns: int) -> None:
        """VIRQ_TIMER every `period_ns` from now on; 0 stops."""
        hypervisor = self.domain.hypervisor
        hypervisor.timers.cancel(self.periodic_timer)
        self.periodic_timer = None
        self.period_ns = period_ns
        if period_ns:
            deadline = hypervisor.clock.now() + period_ns
            self.periodic_timer = hypervisor.timers.add(deadline, self._periodic)

    def _periodic(self) -> None:
        """A period is over. Those missed meanwhile give one event together."""
        hypervisor = self.domain.hypervisor
        now = hypervisor.clock.now()
        due = self.periodic_timer.deadline if self.periodic_timer is not None else now
        deadline = due + ((now - due) // self.period_ns + 1) * self.period_ns
        self.periodic_timer = hypervisor.timers.add(deadline, self._periodic)
        self.send_timer_event()

    def go_on_periodically(self, period_ns: int, deadline_ns: int) -> None:
        """The periodic timer of a vCPU that was saved, next at a time of the machine's clock."""
        self.set_periodic_timer(0)
        self.period_ns = period_ns
        self.periodic_timer = self.domain.hypervisor.timers.add(deadline_ns, self._periodic)

    def go_on_polling(self, ports: tuple[int, ...], until: int | None) -> None:
        """SCHEDOP_poll of a vCPU that was saved, until a system time at most."""
        self.poll_ports = ports
        if until is not None:
            deadline = self.domain.machine_time(until)
            self.poll_timer = self.domain.hypervisor.timers.add(deadline, self._poll_timed_out)

    def stop_timers(self) -> None:
        """Stop all of them (the domain is being destroyed, or the vCPU is reset)."""
        self.stop_singleshot_timer()
        self.set_periodic_timer(0)
        self._end_poll()

    # -- vcpu_info ---------------------------------------------------------------------------
    def map_vcpu_info(self, gfn: int, offset: int, current: Vcpu | None) -> None:
        """Move vcpu_info to `offset` of the guest's frame `gfn` (Xen's map_vcpu_info).

        Raises XenError: ENXIO for a bad offset, EINVAL if it was moved before, for another vCPU
        that is up, and for a frame that isn't the guest's own writable memory.
        """
        domain, memory = self.domain, self.domain.memory
        size = vcpu_info.sizeof(64)
        if offset > PAGE_SIZE - size or offset & (domain.bits // 8 - 1):
            raise XenError(Errno.ENXIO)
        if self.vcpu_info_mfn is not None or (self is not current and self.online):
            raise XenError(Errno.EINVAL)
        mfn = domain.get_writable_frame(gfn)
        maddr = mfn << PAGE_SHIFT | offset
        if self.vcpu_info_maddr is None:
            memory.write(maddr, bytes([0, 1]) + bytes(size - 2))  # upcalls masked
        else:
            memory.write(maddr, memory.read(self.vcpu_info_maddr, size))
        self.vcpu_info_mfn, self.vcpu_info_maddr = mfn, maddr
        domain.arch.vcpu_info_moved(self)
        # Everything is marked pending, so that nothing that came meanwhile is lost.
        word = domain.bits // 8
        memory.write(maddr + word, b"\xff" * word)
        self.mark_events_pending()

    def unmap_vcpu_info(self) -> None:
        """Give back the frame that the guest registered; vcpu_info is gone then."""
        if self.vcpu_info_mfn is not None:
            self.domain.put_frame(self.vcpu_info_mfn)
            self.vcpu_info_mfn = self.vcpu_info_maddr = None
            self.domain.arch.vcpu_info_moved(self)

    # -- accounting --------------------------------------------------------------------------
    def note_run(self, length_ns: int, exited: bool) -> None:
        """It has run for so long, up to an exit that stops others or until it was stopped."""
        ran = self.ran_ns + length_ns
        if exited:
            self.exit_gap += (ran - self.exit_gap) >> 3
            ran = 0
        elif ran > self.exit_gap:
            self.exit_gap = ran
        self.ran_ns = ran

    def set_runstate(self, state: int) -> None:
        """Enter a RUNSTATE_* and account the time in the one before."""
        if state == self.runstate:
            return
        hypervisor = self.domain.hypervisor
        # A physical CPU that changes it may be behind the one where it last ran.
        now = max(hypervisor.clock.now(), self.runstate_since)
        self.runstate_times[self.runstate] += now - self.runstate_since
        self.runstate, self.runstate_since = state, now
        if (hook := hypervisor.instruments.vcpu_state) is not None:
            hook(now, self.domain.domid, self.vcpu_id, state)

    def runstate_now(self) -> tuple[int, int, list[int]]:
        """(state, time of entry, times in each state until now), in ns."""
        now = max(self.domain.hypervisor.clock.now(), self.runstate_since)
        times = list(self.runstate_times)
        times[self.runstate] += now - self.runstate_since
        return self.runstate, self.runstate_since, times
