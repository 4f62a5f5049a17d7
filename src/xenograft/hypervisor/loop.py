# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine loop: one thread runs all vCPUs in turn, timers, and what the host wants.

**One time line.**  The machine has one physical CPU.  vCPUs that may run wait in the order in
which they became ready; the one in front is switched in, and out again when it blocks, yields
(PAUSE, SCHEDOP_yield) or has used its *quantum* while others wait.  On the virtual clock an
engine CPU that is switched in first skips to the machine's time, then counts on from there: all
vCPUs see one monotonic time, and RDTSC agrees between them.

**Slices are the host's affair.**  `Cpu.run` is given a budget that ends at the next timer, at the
end of the quantum, or where the host wants to look up (`host_slice`), whichever comes first.
Coming back for the host alone changes nothing, so that a run on the virtual clock is the same
for any length of slices.  Everything that does change something happens at an exit that the
guest makes, or at the first block border at which a timer or the quantum is due.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from types import FrameType
from typing import TYPE_CHECKING

from xenograft.abi.vcpu import (
    RUNSTATE_blocked,
    RUNSTATE_offline,
    RUNSTATE_runnable,
    RUNSTATE_running,
)
from xenograft.engine.protocol import ExitReason
from xenograft.hypervisor.actions import handle
from xenograft.hypervisor.guest_time import update_runstate_area, update_vcpu_time
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.rest import Rest

if TYPE_CHECKING:
    from xenograft.engine.protocol import Cpu
    from xenograft.hypervisor.hypervisor import Hypervisor
    from xenograft.hypervisor.vcpu import Vcpu

QUANTUM_NS = 1_000_000
"""How long a vCPU may run while others wait."""

HOST_SLICE = 8_000_000
"""Instructions after which a virtual machine looks after the host: some milliseconds."""

HOST_SLICE_NS = 10_000_000
"""The same for a machine on the real clock, in ns."""

FOREVER = 1 << 62

# As plain integers: looking a member up in its class takes longer than comparing it.
_KICK = int(ExitReason.KICK)
_HOST = (int(ExitReason.BUDGET), _KICK)


class Stop(Enum):
    """Why `Loop.run` came back."""

    DONE = auto()
    """What was waited for has happened."""
    TIMEOUT = auto()
    """The machine's time has reached the deadline."""
    IDLE = auto()
    """No vCPU will ever run again by itself, and no input can come."""
    INTERRUPTED = auto()
    """`Loop.stop` was called (Ctrl-C, SIGTERM)."""


class Loop:
    """Runs a machine. `quantum_ns` is a property of the machine, the slices of the host."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        *,
        quantum_ns: int = QUANTUM_NS,
        host_slice: int = HOST_SLICE,
        host_slice_ns: int = HOST_SLICE_NS,
    ) -> None:
        self.hypervisor = hypervisor
        self.quantum_ns = quantum_ns
        self.host_slice = host_slice
        self.host_slice_ns = host_slice_ns
        self._quantum_end = 0
        self._stop = False
        self._cpu: Cpu | None = None
        self._rest = Rest(hypervisor.clock.now())
        hypervisor.door.kick = self._kick_cpu

    def _kick_cpu(self) -> None:
        cpu = self._cpu
        if cpu is not None:
            cpu.kick()

    def stop(self) -> None:
        """Make `run` return soon. May be called from any thread and from signal handlers."""
        self._stop = True
        self.hypervisor.door.wake()

    # -- the loop ----------------------------------------------------------------------------
    def run(self, done: Callable[[], bool] | None = None, deadline: int | None = None) -> Stop:
        """Run until `done()`, the machine's time `deadline`, or nothing is left to do.

        `done` is asked whenever somebody may have seen what he waits for
        (`Hypervisor.attention`), and at the start.
        """
        hypervisor = self.hypervisor
        hypervisor.attention = True
        while True:
            if hypervisor.attention:
                hypervisor.attention = False
                if done is not None and done():
                    return Stop.DONE
            if self._stop:
                self._stop = False
                return Stop.INTERRUPTED
            now = hypervisor.clock.now()
            if deadline is not None and now >= deadline:
                return Stop.TIMEOUT
            due = hypervisor.timers.next_deadline()
            if due is not None and due <= now:
                hypervisor.timers.run_due(now)
                hypervisor.run_host_events()
                continue
            vcpu = hypervisor.running
            if vcpu is not None and not vcpu.runnable:
                self._switch_out(vcpu)  # paused from outside while it was switched in
                vcpu = None
            if vcpu is None:
                vcpu = self._switch_in()
            if vcpu is not None:
                self._run(vcpu, deadline)
                hypervisor.door.serve(0.0)
            elif not self._idle(deadline):
                return Stop.IDLE

    def _idle(self, deadline: int | None) -> bool:
        """No vCPU may run: wait for the next timer, the deadline, or the host. False: in vain."""
        hypervisor = self.hypervisor
        if hypervisor.door.serve(0.0):
            return True
        due = hypervisor.timers.next_deadline()
        if deadline is not None and (due is None or deadline < due):
            due = deadline
        clock = hypervisor.clock
        if due is None and not hypervisor.door.may_open:
            return False
        if not clock.virtual:
            self._wait(due)
        elif due is None:
            hypervisor.door.serve(None)
        else:
            clock.advance_to(due)
        return True

    def _wait(self, due: int | None) -> None:
        """Wait for the host or the machine's time `due`; come back early when it may be at rest."""
        hypervisor, clock, rest = self.hypervisor, self.hypervisor.clock, self._rest
        now = clock.now()
        if rest.begins(now):
            for domain in hypervisor.domains.values():
                domain.space.trim()
        waits = [] if due is None else [due - now]
        if (longest := rest.longest(now)) is not None:
            waits.append(longest)
        hypervisor.door.serve(max(min(waits), 0) / 1e9 if waits else None)
        rest.idle(now, clock.now())

    # -- switching ---------------------------------------------------------------------------
    def _switch_in(self) -> Vcpu | None:
        """Take the first vCPU that is ready, if any."""
        hypervisor = self.hypervisor
        while hypervisor.ready:
            vcpu = hypervisor.ready.popleft()
            vcpu.queued = False
            if not vcpu.runnable or vcpu.cpu is None:
                continue
            now = hypervisor.clock.now()
            hypervisor.running = vcpu
            hypervisor.yielding = False
            self._quantum_end = now + self.quantum_ns
            if hypervisor.clock.virtual:
                vcpu.cpu.skip(now - vcpu.cpu.instructions())
            vcpu.set_runstate(RUNSTATE_running)
            update_runstate_area(vcpu)
            update_vcpu_time(vcpu)
            if (hook := hypervisor.instruments.run_enter) is not None:
                hook(now, vcpu.domain.domid, vcpu.vcpu_id)
            return vcpu
        return None

    def _switch_out(self, vcpu: Vcpu) -> None:
        hypervisor = self.hypervisor
        hypervisor.running = None
        if vcpu.runnable:
            vcpu.set_runstate(RUNSTATE_runnable)
            hypervisor.make_ready(vcpu)
        elif vcpu.blocked and not vcpu.down and not vcpu.paused:
            vcpu.set_runstate(RUNSTATE_blocked)
        else:
            vcpu.set_runstate(RUNSTATE_offline)
        update_runstate_area(vcpu)

    # -- running -----------------------------------------------------------------------------
    def _run(self, vcpu: Vcpu, deadline: int | None) -> None:
        """Run the vCPU that is switched in: until it is switched out, or the loop must look up."""
        hypervisor = self.hypervisor
        clock, timers, ready = hypervisor.clock, hypervisor.timers, hypervisor.ready
        virtual = clock.virtual
        cpu = self._cpu = vcpu.cpu
        assert cpu is not None
        instruments = hypervisor.instruments
        slice_left = self.host_slice
        now = clock.now()
        host_end = now + self.host_slice_ns
        until = host_deadline = -1
        spinning_yields = False
        is_pv = vcpu.domain.kind is GuestKind.PV
        cpu.pause_exits(0)
        while True:
            limit = timers.due
            if deadline is not None and deadline < limit:
                limit = deadline
            if ready and self._quantum_end < limit:
                limit = self._quantum_end
            if now >= limit:
                break
            if bool(ready) is not spinning_yields:
                # A vCPU that spins waits for another: let that one run.
                spinning_yields = bool(ready)
                cpu.pause_exits(1 if spinning_yields else 0)
            if vcpu.irq_dirty:
                self._request_interrupt(vcpu, cpu)
            if virtual:
                exit_ = cpu.run(min(limit - now, slice_left))
                before, now = now, cpu.instructions()
                slice_left -= now - before
                clock.advance_to(now)
                host_over = slice_left <= 0
            else:
                end = limit if limit < host_end else host_end
                if end != until:
                    until = end
                    host_deadline = clock.host_deadline(end)
                exit_ = cpu.run(FOREVER, host_deadline)
                now = clock.now()
                host_over = now >= host_end
            if is_pv:
                hypervisor.frames.settle()
            if vcpu.requested >= 0:
                self._acknowledge(vcpu, cpu)
            if instruments.injection is not None:
                self._report_injections(vcpu, cpu)
            reason = exit_[0]
            if reason in _HOST:
                if host_over or reason == _KICK:
                    break
                continue
            handle(hypervisor, vcpu, cpu, exit_)
            if hypervisor.host_events:
                hypervisor.run_host_events()
            if hypervisor.running is not vcpu:
                break
            if not vcpu.runnable:
                self._switch_out(vcpu)
                break
            if hypervisor.yielding:
                hypervisor.yielding = False
                if ready:
                    self._switch_out(vcpu)
                    break
            if hypervisor.attention or host_over:
                break
        self._cpu = None
        used_up = bool(ready) and now >= self._quantum_end
        if hypervisor.running is vcpu and (used_up or not vcpu.runnable):
            self._switch_out(vcpu)

    def _request_interrupt(self, vcpu: Vcpu, cpu: Cpu) -> None:
        """Ask the engine for the vector that the local APIC has for it, if any."""
        vcpu.irq_dirty = False
        if vcpu.lapic is not None:
            vector = vcpu.lapic.next_vector()
            if vector != vcpu.requested:
                cpu.set_interrupt(vector)
                vcpu.requested = vector

    def _acknowledge(self, vcpu: Vcpu, cpu: Cpu) -> None:
        """Tell the local APIC if the requested vector was taken."""
        if cpu.taken_interrupt() != vcpu.requested or vcpu.lapic is None:
            return
        vector, vcpu.requested = vcpu.requested, -1
        vcpu.lapic.acknowledge(vector)
        vcpu.irq_dirty = True

    def _report_injections(self, vcpu: Vcpu, cpu: Cpu) -> None:
        hook = self.hypervisor.instruments.injection
        if hook is not None:
            for time, vector, kind in cpu.injections():
                if not self.hypervisor.clock.virtual:
                    time = self.hypervisor.clock.now()
                hook(time, vcpu.domain.domid, vcpu.vcpu_id, vector, _KINDS[kind])


_KINDS = ("lapic", "upcall", "nmi")
"""What the engine's kinds of injection are to us: requested, from the line, NMI."""


@contextmanager
def signals_stop(loop: Loop) -> Iterator[list[int]]:
    """SIGINT and SIGTERM stop `loop` inside; yields a list that gets the signals that came.

    In a thread other than the main one nothing is changed: signals never arrive there.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def handler(number: int, _frame: FrameType | None) -> None:
        caught.append(number)
        loop.stop()

    old = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)
