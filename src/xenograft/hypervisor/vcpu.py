# SPDX-License-Identifier: GPL-2.0-or-later
"""A virtual CPU as the hypervisor sees it: its states, its timers, its shared structures.

Facts: public/vcpu.h, public/xen.h; Xen's struct vcpu, vcpu_block(), vcpu_unblock(),
vcpu_mark_events_pending() and vcpu_runstate_change().
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenograft.abi.vcpu import (
    RUNSTATE_blocked,
    RUNSTATE_offline,
    RUNSTATE_runnable,
    RUNSTATE_running,
)

if TYPE_CHECKING:
    from xenograft.engine.protocol import Cpu
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
        "cpu",
        "domain",
        "down",
        "initialised",
        "lapic",
        "nmi_pending",
        "pause_count",
        "period_ns",
        "periodic_timer",
        "poll_ports",
        "poll_timer",
        "queued",
        "runstate",
        "runstate_area",
        "runstate_since",
        "runstate_times",
        "singleshot_timer",
        "time_area",
        "upcall_vector",
        "vcpu_id",
        "vcpu_info_maddr",
        "vcpu_info_mfn",
    )

    def __init__(self, domain: Domain, vcpu_id: int) -> None:
        self.domain = domain
        self.vcpu_id = vcpu_id
        self.cpu: Cpu | None = None
        self.initialised = False
        self.down = True
        """VPF_down: never brought up, or taken down."""
        self.blocked = False
        """VPF_blocked: waits for an event (HLT, SCHEDOP_block, SCHEDOP_poll)."""
        self.pause_count = 0
        self.queued = False
        """Whether the scheduler has it among those that are ready."""
        self.poll_ports: tuple[int, ...] | None = None
        """The ports that SCHEDOP_poll waits for; None when it doesn't poll."""
        self.poll_timer: Timer | None = None
        self.periodic_timer: Timer | None = None
        self.period_ns = 0
        self.singleshot_timer: Timer | None = None
        self.lapic: Any = None
        self.nmi_pending = False
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
        self.runstate = RUNSTATE_offline
        self.runstate_since = domain.hypervisor.clock.now()
        self.runstate_times = [0, 0, 0, 0]

    def __repr__(self) -> str:
        return f"<Vcpu d{self.domain.domid}v{self.vcpu_id}>"

    # -- may it run? -----------------------------------------------------------------------
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
            if not self.queued:
                self.domain.hypervisor.make_ready(self)
        elif self.runstate == RUNSTATE_blocked and not self.blocked:
            self.set_runstate(RUNSTATE_offline)

    def sleep(self) -> None:
        """Note that it may no longer run (Xen's vcpu_sleep_nosync)."""
        if not self.runnable and self.runstate != RUNSTATE_running:
            self.set_runstate(RUNSTATE_blocked if self.blocked else RUNSTATE_offline)

    def pause(self) -> None:
        self.pause_count += 1
        self.sleep()

    def unpause(self) -> None:
        self.pause_count -= 1
        self.wake()

    def unblock(self) -> None:
        """End HLT, SCHEDOP_block or SCHEDOP_poll (Xen's vcpu_unblock)."""
        if self.blocked:
            self.blocked = False
            self.end_poll()
            self.wake()

    def end_poll(self) -> None:
        self.poll_ports = None
        if self.poll_timer is not None:
            self.domain.hypervisor.timers.cancel(self.poll_timer)
            self.poll_timer = None

    # -- events ----------------------------------------------------------------------------
    def mark_events_pending(self) -> None:
        """Set evtchn_upcall_pending and, if it was clear, raise the upcall.

        Xen's vcpu_mark_events_pending().
        """
        maddr = self.vcpu_info_maddr
        if maddr is None:
            return
        if not self.domain.memory.test_and_set_bit(maddr, UPCALL_PENDING):
            self.domain.assert_upcall(self)

    def events_need_delivery(self) -> bool:
        """Whether an upcall is pending that the guest has not masked."""
        maddr = self.vcpu_info_maddr
        if maddr is None:
            return False
        pending, mask = self.domain.memory.read(maddr, 2)
        return pending != 0 and (mask == 0 or self.domain.kind.is_hvm_type)

    # -- accounting ------------------------------------------------------------------------
    def set_runstate(self, state: int) -> None:
        """Enter a RUNSTATE_* and account the time in the one before."""
        if state == self.runstate:
            return
        hypervisor = self.domain.hypervisor
        now = hypervisor.clock.now()
        self.runstate_times[self.runstate] += now - self.runstate_since
        self.runstate, self.runstate_since = state, now
        if (hook := hypervisor.instruments.vcpu_state) is not None:
            hook(now, self.domain.domid, self.vcpu_id, state)

    def runstate_now(self) -> tuple[int, int, list[int]]:
        """(state, time of entry, times in each state until now), in ns."""
        now = self.domain.hypervisor.clock.now()
        times = list(self.runstate_times)
        times[self.runstate] += now - self.runstate_since
        return self.runstate, self.runstate_since, times
