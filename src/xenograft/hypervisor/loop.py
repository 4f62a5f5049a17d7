# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine loop: runs all vCPUs, timers, and what the host wants.

**Whom and how long.**  `SchedCore` decides for each physical CPU, as in Xen: when a vCPU wakes,
blocks or yields (PAUSE, SCHEDOP_yield), and when a slice is over.

**One time line.**  On the virtual clock an engine CPU that is switched in first skips to the
machine's time, then counts on from there: all vCPUs see one monotonic time, and RDTSC agrees
between them.

**More than one physical CPU.**  Each has its own place on the time line, and the one that is
furthest behind goes on next, at most `window_ns` ahead of the others; no CPU passes the next
timer.  So CPUs run at the same (virtual) time, and what one does to another is seen there within
a window.  vCPUs of one domain never run at the same time, since the engine's atomic operations
aren't atomic between its CPUs: one that would waits for the other's window to end.  On the real
clock several run at once on threads of the host's (`team`), or take turns where they can't.

**Slices are the host's affair.**  `Cpu.run` is given a budget that ends at the next timer, at the
end of the slice, or where the host wants to look up (`host_slice`), whichever comes first.
Coming back for the host alone changes nothing, so that a run on the virtual clock is the same
for any length of slices.  Everything that does change something happens at an exit that the
guest makes, or at the first block border at which a timer or a decision is due.
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
from xenograft.hypervisor.exits import is_private
from xenograft.hypervisor.guest_time import update_runstate_area, update_vcpu_time
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.rest import Rest
from xenograft.hypervisor.sched.cpumask import cpus_in, first
from xenograft.hypervisor.team import Team, host_cpus

if TYPE_CHECKING:
    from xenograft.engine.protocol import Cpu, Exit
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.hypervisor import Hypervisor
    from xenograft.hypervisor.sched.unit import SchedUnit
    from xenograft.hypervisor.team import Aside
    from xenograft.hypervisor.timers import Timer
    from xenograft.hypervisor.vcpu import Vcpu

WINDOW_NS = 250_000
"""How far a physical CPU may run ahead of others."""

LONG_NS = 1_000_000
"""A vCPU that usually runs for so long between exits may run beside others."""

_MOMENT_NS = 200_000
"""How long an engine may take to notice that its time is over."""

DOMID_IDLE = 0x7FFF
"""The domain of the idle vCPUs (public/xen.h), for the instruments."""

HOST_SLICE = 8_000_000
"""Instructions after which a virtual machine looks after the host: some milliseconds."""

HOST_SLICE_NS = 10_000_000
"""The same for a machine on the real clock, in ns."""

LOOK_UP_NS = 1_000_000
"""After this time the next exit is an opportunity to look after the host."""

FOREVER = 1 << 62

# As plain integers: looking a member up in its class takes longer than comparing it.
_KICK = int(ExitReason.KICK)
_PAUSE = int(ExitReason.PAUSE)
_HALT = int(ExitReason.HALT)
_HOST = (int(ExitReason.BUDGET), _KICK)
_NOTHING = (_KICK, 0, 0, 0, 0, 0, 0, 0)
"""The exit of a run whose exit has been answered already."""


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
    """Runs a machine. `window_ns` is a property of the machine, the slices of the host."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        *,
        window_ns: int = WINDOW_NS,
        host_slice: int = HOST_SLICE,
        host_slice_ns: int = HOST_SLICE_NS,
    ) -> None:
        self.hypervisor = hypervisor
        self.window_ns = window_ns
        self.host_slice = host_slice
        self.host_slice_ns = host_slice_ns
        cpus = hypervisor.sched.topology.cpus
        self._times = [hypervisor.clock.now()] * cpus
        """Where each physical CPU is; with one, the clock alone counts."""
        self._single = cpus == 1
        self._turn = -1
        """The CPU whose window is under way, however often the host interrupts it; -1: none's."""
        self._turn_end = 0
        self._windows: dict[int, Timer] = {}
        self._stop = False
        self._cpus: tuple[Cpu, ...] = ()
        """The engine CPUs that run at this moment."""
        self._called = False
        """Somebody has knocked at the door since the run under way began."""
        parallel = 1 if hypervisor.clock.virtual else min(cpus, host_cpus())
        self._team = Team(parallel) if parallel > 1 else None
        self.rounds = 0
        """How often several CPUs have run at once."""
        self._rest = Rest(hypervisor.clock.now())
        hypervisor.door.kick = self._kick_cpu
        hypervisor.sched.switched = self._switched

    def _kick_cpu(self) -> None:
        self._called = True
        for cpu in self._cpus:
            cpu.kick()

    def close(self) -> None:
        """End the threads of the machine's CPUs."""
        if self._team is not None:
            self._team.close()

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
        core, clock = hypervisor.sched, hypervisor.clock
        hypervisor.attention = True
        while True:
            if hypervisor.attention:
                hypervisor.attention = False
                if done is not None and done():
                    return Stop.DONE
            if self._stop:
                self._stop = False
                return Stop.INTERRUPTED
            pcpu = self._next_cpu()
            now = clock.now() if pcpu < 0 or self._single else self._ready_time(pcpu)
            if deadline is not None and now >= deadline:
                clock.advance_to(deadline)
                return Stop.TIMEOUT
            due = hypervisor.timers.next_deadline()
            if due is not None and due <= now:
                if not self._single:
                    clock.set_local(now)
                hypervisor.timers.run_due(now)
                hypervisor.run_host_events()
                continue
            if core.resched or core.slice_end[pcpu] <= now:
                self._decide(pcpu, now)
            elif pcpu >= 0:
                unit = core.current[pcpu]
                assert unit is not None
                members = self._companions(pcpu)
                if len(members) > 1:
                    self._run_together(members, deadline)
                else:
                    self._run(pcpu, unit.owner, deadline)
                hypervisor.door.serve(0.0)
            elif not self._idle(deadline):
                return Stop.IDLE

    def _idle(self, deadline: int | None) -> bool:
        """No vCPU may run: wait for the next timer, the deadline, or the host. False: in vain."""
        hypervisor = self.hypervisor
        if hypervisor.when_idle:
            self._serve_idleness()
            return True
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

    def _serve_idleness(self) -> None:
        """Do what was put off until no vCPU can run."""
        hypervisor = self.hypervisor
        hypervisor.idling = True
        try:
            for function in list(hypervisor.when_idle):
                function()
        finally:
            hypervisor.idling = False
        hypervisor.run_host_events()

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

    # -- physical CPUs -----------------------------------------------------------------------
    def _next_cpu(self) -> int:
        """The physical CPU that goes on next: the one that is furthest behind; -1: all idle."""
        core = self.hypervisor.sched
        if self._single:
            return -1 if core.current[0] is None else 0
        if self._turn >= 0:
            if core.current[self._turn] is not None:
                return self._turn
            self._turn = -1
        busy = core.busy
        if not busy & (busy - 1):
            return busy.bit_length() - 1
        best, least = -1, (FOREVER, FOREVER)
        for pcpu in cpus_in(busy):
            # Of those that wait for each other, since a domain's vCPUs don't run at once, the
            # one that has waited for longest.
            time = self._ready_time(pcpu), self._times[pcpu]
            if time < least:
                best, least = pcpu, time
        return best

    def _sibling_waits(self, pcpu: int, vcpu: Vcpu) -> bool:
        """Whether another vCPU of the domain has a physical CPU, and waits for this one."""
        core, domain = self.hypervisor.sched, vcpu.domain.sched
        return any(
            unit is not None and unit.domain is domain
            for other, unit in enumerate(core.current)
            if other != pcpu
        )

    def _ready_time(self, pcpu: int) -> int:
        """When a physical CPU can go on: not before another has left the domain alone."""
        unit = self.hypervisor.sched.current[pcpu]
        time = self._times[pcpu]
        if unit is None or not self.hypervisor.clock.virtual:
            return time
        busy_until: int = unit.owner.domain.busy_until
        return busy_until if busy_until > time else time

    def _decide(self, pcpu: int, now: int) -> None:
        """Make the decisions that are due: of `pcpu`, and of those that were asked for."""
        core, clock = self.hypervisor.sched, self.hypervisor.clock
        if pcpu >= 0 and core.slice_end[pcpu] <= now:
            # Its slice may have ended while it waited for another to leave the domain alone.
            self._times[pcpu] = now
            core.tickle(pcpu)
        if self._single:
            core.schedule(0, clock.now())
            self._wait_for_window(0)
            return
        self._turn = -1
        called = clock.now()
        while core.resched:
            one = first(core.resched)
            if core.current[one] is None:
                # An idle CPU has waited until it was called.
                self._times[one] = max(self._times[one], called)
            time = self._times[one]
            clock.set_local(time)
            core.schedule(one, time)
            self._wait_for_window(one)
        clock.set_local(called)

    def _wait_for_window(self, pcpu: int) -> None:
        """See that a CPU that idles, but not for ever (ARINC 653), decides again in time."""
        hypervisor, core = self.hypervisor, self.hypervisor.sched
        hypervisor.timers.cancel(self._windows.pop(pcpu, None))
        if core.current[pcpu] is None and core.slice_end[pcpu] < FOREVER:
            self._windows[pcpu] = hypervisor.timers.add(
                core.slice_end[pcpu], lambda: core.tickle(pcpu)
            )
            core.slice_end[pcpu] = FOREVER

    def _switched(
        self, now: int, pcpu: int, prev: SchedUnit | None, following: SchedUnit | None
    ) -> None:
        """A physical CPU runs another vCPU than before: tell both, and those who listen."""
        hypervisor = self.hypervisor
        if prev is not None:
            self._left(prev.owner)
        if following is not None:
            vcpu: Vcpu = following.owner
            if not self._single and hypervisor.clock.virtual:
                # What has woken it may have been ahead of this CPU.
                vcpu.domain.busy_until = max(vcpu.domain.busy_until, vcpu.runstate_since)
            self._entered(vcpu, now)
        if (hook := hypervisor.instruments.sched_decision) is not None:
            if following is None:
                hook(now, pcpu, DOMID_IDLE, pcpu)
            else:
                hook(now, pcpu, following.domain.domid, following.unit_id)

    def _entered(self, vcpu: Vcpu, now: int) -> None:
        clock = self.hypervisor.clock
        if clock.virtual and vcpu.cpu is not None:
            vcpu.cpu.skip(max(now - vcpu.cpu.instructions(), 0))
        vcpu.set_runstate(RUNSTATE_running)
        update_runstate_area(vcpu)
        update_vcpu_time(vcpu)
        if (hook := self.hypervisor.instruments.run_enter) is not None:
            hook(now, vcpu.domain.domid, vcpu.vcpu_id)

    def _left(self, vcpu: Vcpu) -> None:
        if vcpu.runnable:
            vcpu.set_runstate(RUNSTATE_runnable)
        elif vcpu.blocked and not vcpu.down and not vcpu.paused:
            vcpu.set_runstate(RUNSTATE_blocked)
        else:
            vcpu.set_runstate(RUNSTATE_offline)
        if not vcpu.domain.dying:
            update_runstate_area(vcpu)

    # -- running -----------------------------------------------------------------------------
    def _horizon(self, pcpu: int) -> int:
        """How far a physical CPU may go, for the sake of those behind it."""
        core = self.hypervisor.sched
        least = FOREVER
        for other in cpus_in(core.busy):
            if other != pcpu:
                least = min(least, self._ready_time(other))
        return least if least == FOREVER else least + self.window_ns

    def _run(self, pcpu: int, vcpu: Vcpu, deadline: int | None) -> None:
        """Run the vCPU of a physical CPU until a decision is due, or the loop must look up."""
        hypervisor = self.hypervisor
        clock, timers, core = hypervisor.clock, hypervisor.timers, hypervisor.sched
        virtual = clock.virtual
        cpu = vcpu.cpu
        assert cpu is not None
        self._cpus = (cpu,)
        unit, scheduler = vcpu.unit, vcpu.domain.sched.scheduler
        hypervisor.running = vcpu
        alone = core.busy == 1 << pcpu
        bound = FOREVER if deadline is None else deadline
        if not self._single:
            if virtual:
                clock.set_local(self._ready_time(pcpu))
                cpu.skip(max(clock.now() - cpu.instructions(), 0))
            if self._turn != pcpu:
                self._turn = pcpu
                if virtual:
                    self._turn_end = self._horizon(pcpu)
                else:
                    self._turn_end = FOREVER if alone else clock.now() + self.window_ns
            bound = min(bound, self._turn_end)
        instruments = hypervisor.instruments
        slice_left = self.host_slice
        now = clock.now()
        host_end, look_up = now + self.host_slice_ns, now + LOOK_UP_NS
        until = host_deadline = -1
        parallel = self._team is not None
        slice_end = core.slice_end
        spinning_yields = False
        siblings = not alone and self._sibling_waits(pcpu, vcpu)
        is_pv = vcpu.domain.kind is GuestKind.PV
        cpu.pause_exits(0)
        while True:
            limit = timers.due
            if bound < limit:
                limit = bound
            if slice_end[pcpu] < limit:
                limit = slice_end[pcpu]
            if now >= limit:
                if not alone or now < timers.due or now >= bound or now >= slice_end[pcpu]:
                    break
                timers.run_due(now)
                hypervisor.run_host_events()
                if core.resched or core.current[pcpu] is not unit or vcpu.cpu is not cpu:
                    break
                if hypervisor.attention:
                    break
                now = clock.now()
                continue
            if (siblings or scheduler.waits(pcpu)) is not spinning_yields:
                # A vCPU that spins waits for another: let that one run.
                spinning_yields = not spinning_yields
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
                before, now = now, clock.now()
                host_over = now >= host_end
                if parallel:
                    vcpu.note_run(now - before, _stops_others(exit_))
            if is_pv:
                hypervisor.frames.settle()
            if vcpu.requested >= 0 or vcpu.unended:
                self._acknowledge(vcpu, cpu)
            if instruments.injection is not None:
                self._report_injections(vcpu, cpu)
            reason = exit_[0]
            if reason in _HOST:
                if host_over or reason == _KICK:
                    break
                continue
            if reason == _HALT and alone and hypervisor.when_idle and not scheduler.waits(pcpu):
                # Nobody could run while it waits: what it would be woken by may come at once.
                self._serve_idleness()
                if core.current[pcpu] is not unit or vcpu.cpu is not cpu:
                    break
            handle(hypervisor, vcpu, cpu, exit_)
            if hypervisor.host_events:
                hypervisor.run_host_events()
            if core.resched or core.current[pcpu] is not unit:
                break
            if hypervisor.attention or host_over or now >= look_up:
                break
            if siblings and reason == _PAUSE:
                self._turn = -1
                break
        self._cpus, hypervisor.running = (), None
        if not self._single:
            self._times[pcpu] = now
            vcpu.domain.busy_until = now
            if now >= self._turn_end or timers.due <= now:
                self._turn = -1

    def _companions(self, pcpu: int) -> list[int]:
        """Physical CPUs that can run at the same time as `pcpu`, which is the first of them.

        vCPUs of one domain can't.  Those with an exit every moment don't: each exit stops the
        others, and turns are cheaper then.  Guests that change what belongs to the whole machine by
        themselves, without an exit, run alone: PV guests count uses of frames, and guests that
        share memory with clones take frames for their copies.  So do those that have mapped
        pages of others, who may execute what they write there.
        """
        core = self.hypervisor.sched
        others = core.busy ^ 1 << pcpu
        if self._team is None or not others:
            return []
        members: list[int] = []
        domains: set[int] = set()
        for one in (pcpu, *sorted(cpus_in(others), key=lambda other: self._times[other])):
            unit = core.current[one]
            if unit is None or len(members) == self._team.size:
                continue
            vcpu: Vcpu = unit.owner
            domain: Domain = vcpu.domain
            alone = (
                domain.kind is GuestKind.PV
                or domain.pool.shared is not None
                or bool(domain.grants.maptrack)
            )
            if alone or vcpu.exit_gap < LONG_NS:
                if not members:
                    break
            elif domain.domid not in domains:
                members.append(one)
                domains.add(domain.domid)
        return members

    def _run_together(self, members: list[int], deadline: int | None) -> None:
        """Run the vCPUs of several physical CPUs at the same time (on the real clock)."""
        hypervisor, team = self.hypervisor, self._team
        assert team is not None
        clock, timers, core = hypervisor.clock, hypervisor.timers, hypervisor.sched
        units = [core.current[pcpu] for pcpu in members]
        vcpus: list[Vcpu] = [unit.owner for unit in units if unit is not None]
        cpus = tuple(vcpu.cpu for vcpu in vcpus if vcpu.cpu is not None)
        assert len(cpus) == len(members)
        now = clock.now()
        end = now + self.host_slice_ns
        if deadline is not None:
            end = min(end, deadline)
        if core.busy.bit_count() > len(members):
            # Others have their turn soon.
            end = min(end, now + self.window_ns)
        for pcpu, vcpu, cpu in zip(members, vcpus, cpus, strict=True):
            spins = self._sibling_waits(pcpu, vcpu) or vcpu.domain.sched.scheduler.waits(pcpu)
            cpu.pause_exits(1 if spins else 0)
        self._called, self._cpus = False, cpus
        while True:
            limit = min(end, *(core.slice_end[pcpu] for pcpu in members))
            until = min(limit, timers.due)
            if now >= until or self._called:
                break
            for vcpu, cpu in zip(vcpus, cpus, strict=True):
                if vcpu.irq_dirty:
                    self._request_interrupt(vcpu, cpu)
            self.rounds += 1
            exits = team.run(cpus, clock.host_deadline(until), self._aside(vcpus, cpus, limit))
            before, now = now, clock.now()
            for vcpu, exit_ in zip(vcpus, exits, strict=True):
                vcpu.note_run(now - before, _stops_others(exit_))
            self._answer(vcpus, cpus, exits)
            if core.resched or any(
                core.current[pcpu] is not unit for pcpu, unit in zip(members, units, strict=True)
            ):
                break
            if hypervisor.attention or any(exit_[0] == _PAUSE for exit_ in exits):
                break
        self._cpus = ()
        for pcpu, vcpu in zip(members, vcpus, strict=True):
            self._times[pcpu] = vcpu.domain.busy_until = now
            if core.slice_end[pcpu] <= now:
                core.tickle(pcpu)
        self._turn = -1

    def _aside(self, vcpus: list[Vcpu], cpus: tuple[Cpu, ...], limit: int) -> Aside:
        """Answers what concerns nobody else, for a round until `limit`.

        That are private exits, and the timers that vCPUs have set for themselves.  Nothing is
        raised for a vCPU that runs: its local APIC doesn't know yet what the engine has taken.
        """
        hypervisor = self.hypervisor
        clock, core, timers = hypervisor.clock, hypervisor.sched, hypervisor.timers

        def aside(index: int, exit_: Exit) -> Exit | int:
            if self._called or _stops_others(exit_):
                return exit_
            vcpu, cpu = vcpus[index], cpus[index]
            if vcpu.requested >= 0 or vcpu.unended:
                self._acknowledge(vcpu, cpu)
            self._answer_one(vcpu, cpu, exit_)
            now = clock.now()
            while timers.due <= now < limit:
                first = timers.first()
                if first is vcpu.singleshot_timer:
                    timers.run_first()
                elif any(first is other.singleshot_timer for other in vcpus):
                    break  # that one is about to come back for it
                else:
                    return _NOTHING
            if (
                now >= limit
                or core.resched
                or hypervisor.host_events
                or hypervisor.attention
                or vcpu.cpu is not cpu
            ):
                return _NOTHING
            if vcpu.irq_dirty:
                self._request_interrupt(vcpu, cpu)
            until = timers.due if timers.due > now else now + _MOMENT_NS
            return clock.host_deadline(min(limit, until))

        return aside

    def _answer(self, vcpus: list[Vcpu], cpus: tuple[Cpu, ...], exits: list[Exit]) -> None:
        """Do what the exits of a round ask for, one by one; nobody runs meanwhile."""
        for vcpu, cpu in zip(vcpus, cpus, strict=True):
            # One's exit may raise something for another, whose APIC has to know first what was
            # taken: an interrupt that comes again before would count as the same.
            if vcpu.requested >= 0 or vcpu.unended:
                self._acknowledge(vcpu, cpu)
        for vcpu, cpu, exit_ in zip(vcpus, cpus, exits, strict=True):
            if vcpu.cpu is cpu:  # else what another one has asked for was its end
                self._answer_one(vcpu, cpu, exit_)
                if self.hypervisor.host_events:
                    self.hypervisor.run_host_events()

    def _answer_one(self, vcpu: Vcpu, cpu: Cpu, exit_: Exit) -> None:
        """Do what an exit asks for; what was taken has been acknowledged."""
        hypervisor = self.hypervisor
        hypervisor.running = vcpu
        if hypervisor.instruments.injection is not None:
            self._report_injections(vcpu, cpu)
        if exit_[0] not in _HOST:
            handle(hypervisor, vcpu, cpu, exit_)
        hypervisor.running = None

    def _request_interrupt(self, vcpu: Vcpu, cpu: Cpu) -> None:
        """Ask the engine for the vector that the local APIC has for it, if any."""
        vcpu.irq_dirty = False
        lapic = vcpu.lapic
        if lapic is None:
            return
        vector = lapic.next_vector()
        if vector != vcpu.requested:
            # Those who watch exits shall see each end of an interrupt.
            watched = self.hypervisor.instruments.exit is not None
            vcpu.unended = vector >= 0 and not watched and lapic.ends_alone(vector)
            cpu.set_interrupt(vector, vcpu.unended)
            vcpu.requested = vector
        elif vcpu.unended and lapic.irr and (vector < 0 or not lapic.ends_alone(vector)):
            # Something has come that the end of this one lets in.
            vcpu.unended = False
            cpu.set_interrupt(vector)

    def _acknowledge(self, vcpu: Vcpu, cpu: Cpu) -> None:
        """Tell the local APIC if the requested vector was taken, and ended."""
        lapic = vcpu.lapic
        if lapic is None:
            return
        if vcpu.requested >= 0 and cpu.taken_interrupt() == vcpu.requested:
            vector, vcpu.requested = vcpu.requested, -1
            lapic.acknowledge(vector)
            vcpu.irq_dirty = True
        if vcpu.unended and cpu.ended_interrupt():
            vcpu.unended = False
            lapic.eoi()

    def _report_injections(self, vcpu: Vcpu, cpu: Cpu) -> None:
        hook = self.hypervisor.instruments.injection
        if hook is not None:
            for time, vector, kind in cpu.injections():
                if not self.hypervisor.clock.virtual:
                    time = self.hypervisor.clock.now()
                hook(time, vcpu.domain.domid, vcpu.vcpu_id, vector, _KINDS[kind])


def _stops_others(exit_: Exit) -> bool:
    """Whether an exit can't be answered while others run."""
    return exit_[0] not in _HOST and not is_private(exit_)


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
