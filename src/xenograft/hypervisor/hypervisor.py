# SPDX-License-Identifier: GPL-2.0-or-later
"""The hypervisor: the machine's memory, clock, timers and domains, and who may touch whom."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.xen import DOMID_SELF
from xenograft.hypervisor.domain import Domain
from xenograft.hypervisor.instruments import Instruments
from xenograft.hypervisor.kinds import Dying
from xenograft.hypervisor.memory.frames import FrameTable
from xenograft.hypervisor.time import Clock, RealClock
from xenograft.hypervisor.timers import TimerQueue

if TYPE_CHECKING:
    from xenograft.engine.protocol import Engine, MachineMemory
    from xenograft.hypervisor.call import Call
    from xenograft.hypervisor.vcpu import Vcpu


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
    ) -> None:
        """`frames`: machine memory in 4 KiB frames; `tsc_khz`: the guests' TSC frequency."""
        self.engine = engine
        self.memory = engine.memory(frames)
        self.frames = FrameTable(self.memory)
        self.clock: Clock = RealClock() if clock is None else clock
        self.timers = TimerQueue()
        self.instruments = Instruments()
        self.tsc_khz = tsc_khz
        self.domains: dict[int, Domain] = {}
        self.ready: deque[Vcpu] = deque()
        """vCPUs that may run, in the order in which they became ready."""

    def make_ready(self, vcpu: Vcpu) -> None:
        """Queue a runnable vCPU behind those that are ready already."""
        if not vcpu.queued:
            vcpu.queued = True
            self.ready.append(vcpu)

    # -- whom a hypercall means -------------------------------------------------------------
    def resolve_domid(self, call: Call, domid: int) -> Domain:
        """The domain that a call names, the caller's own included.

        DOMID_SELF and the caller's own number are the caller. Raises XenError(ESRCH) if there's
        none (Xen's rcu_lock_domain_by_any_id).
        """
        if domid == DOMID_SELF or domid == call.domain.domid:
            return call.domain
        domain = self.domains.get(domid)
        if domain is None or domain.dying_state is Dying.DEAD:
            raise XenError(Errno.ESRCH)
        return domain

    def resolve_remote_domid(self, call: Call, domid: int) -> Domain:
        """Another domain than the caller's.

        Raises XenError: ESRCH if there's none, EPERM if it is the caller's, EINVAL if it is
        dying (Xen's rcu_lock_live_remote_domain_by_id).
        """
        domain = self.domains.get(domid)
        if domain is None or domain.dying_state is Dying.DEAD:
            raise XenError(Errno.ESRCH)
        if domain is call.domain:
            raise XenError(Errno.EPERM)
        if domain.dying:
            raise XenError(Errno.EINVAL)
        return domain
