# SPDX-License-Identifier: GPL-2.0-or-later
"""An engine without a processor: the whole seam of `protocol` in plain Python, for tests.

Memory and address spaces behave as the native ones do (`tests/engine/conformance.py` runs
against both).  A CPU executes a *script* instead of guest code.  A script is one of

* an iterable of exits: ``[hypercall(29, 2, 0), halt()]``;
* a callable ``cpu -> Exit``, asked each time for the next exit;
* a generator function ``cpu -> Generator[Exit, Answer, None]``, which sees each answer::

      def guest(cpu):
          answer = yield hypercall(17, 0)     # what the hypervisor completed it with
          assert answer.values[0] == 0x40011

A script that has ended halts with interrupts off, so that a machine loop comes to its end.
Guest-virtual addresses equal guest-physical ones, unless `FakeCpu.paging` holds a page table.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import NamedTuple, cast

from xenograft.engine.fake_memory import FakeMemory, FakeSpace
from xenograft.engine.fake_pv import FakePvCpu, FakePvPages
from xenograft.engine.protocol import (
    MSR_APIC_BASE,
    MSR_X2APIC_EOI,
    P2M_PRESENT,
    P2M_WRITE,
    PAGE_SHIFT,
    PAGE_SIZE,
    AccessError,
    AddressSpace,
    Exit,
    ExitReason,
    MachineMemory,
)

CPL0_64 = 3 << 2
"""Exit flags of a 64-bit kernel: CPL 0, mode 3."""

RFLAGS_IF = 1 << 9


class Answer(NamedTuple):
    """How an exit was answered: kind "complete", "fault", or "none" for exits without one.

    values are complete's four, or fault's (vector, error_code, cr2).
    """

    kind: str
    values: tuple[int, ...] = ()


ExitScript = Generator[Exit, Answer, None]
Script = Iterable[Exit] | Callable[["FakeCpu"], Exit] | Callable[["FakeCpu"], ExitScript]

NEEDS_ANSWER = frozenset(
    (
        ExitReason.HYPERCALL,
        ExitReason.IO_IN,
        ExitReason.IO_OUT,
        ExitReason.MMIO_READ,
        ExitReason.MMIO_WRITE,
        ExitReason.CPUID,
        ExitReason.MSR_READ,
        ExitReason.MSR_WRITE,
    )
)
_HYPERCALL_REGISTERS = {
    3: ("rax", "rdi", "rsi", "rdx", "r10", "r8"),
    2: ("rax", "rbx", "rcx", "rdx", "rsi", "rdi"),
}


def make_exit(reason: ExitReason, *args: int, flags: int = CPL0_64) -> Exit:
    """An exit tuple, padded with zeroes."""
    return cast(Exit, (int(reason), flags, *args, *([0] * (6 - len(args)))))


def hypercall(number: int, *args: int, flags: int = CPL0_64) -> Exit:
    """A VMCALL with up to five arguments."""
    return make_exit(ExitReason.HYPERCALL, number, *args, flags=flags)


def io_in(port: int, size: int = 1) -> Exit:
    return make_exit(ExitReason.IO_IN, port, size)


def io_out(port: int, value: int, size: int = 1) -> Exit:
    return make_exit(ExitReason.IO_OUT, port, size, value)


def mmio_read(gpa: int, size: int = 4) -> Exit:
    return make_exit(ExitReason.MMIO_READ, gpa, size)


def mmio_write(gpa: int, value: int, size: int = 4) -> Exit:
    return make_exit(ExitReason.MMIO_WRITE, gpa, size, value)


def cpuid(leaf: int, subleaf: int = 0) -> Exit:
    return make_exit(ExitReason.CPUID, leaf, subleaf)


def msr_read(index: int) -> Exit:
    return make_exit(ExitReason.MSR_READ, index)


def msr_write(index: int, value: int) -> Exit:
    return make_exit(ExitReason.MSR_WRITE, index, value)


def halt(interrupts: bool = True) -> Exit:
    """HLT, with interrupts enabled or not."""
    return make_exit(ExitReason.HALT, int(interrupts))


def pause() -> Exit:
    return make_exit(ExitReason.PAUSE)


def stage2(gpa: int, access: int = 0, gva: int | None = None) -> Exit:
    return make_exit(ExitReason.STAGE2, gpa, access, gpa if gva is None else gva)


def shutdown(vector: int = 8) -> Exit:
    """A triple fault."""
    return make_exit(ExitReason.SHUTDOWN, vector)


class FakeCpu(FakePvCpu):
    """`Cpu` driven by a script; see the module's docstring.

    For tests to look at: `answers` (exit, Answer) in order, `entered` (vectors that entered,
    NMI as 2), `calls` (name, arguments) of set_interrupt, set_line, poke_line, set_nmi, kick,
    set_tsc, flush_tlb and skip.  `on_interrupt(cpu, vector)` plays the guest's handler; when
    it returns, the guest has executed IRET, unless `auto_iret` is off.  At most one maskable
    interrupt enters per `run`, so that a level line that nobody clears doesn't hang a test.
    """

    def __init__(self, space: FakeSpace, index: int, script: Script = ()) -> None:
        super().__init__()
        self.space = space
        self.index = index
        self.registers: dict[str, int] = {"rip": 0xFFF0, "rflags": 2, "cs_base": 0xFFFF0000}
        self.paging: dict[int, int] | None = None
        self.shadow = False
        self.auto_iret = True
        self.on_interrupt: Callable[[FakeCpu, int], None] | None = None
        self.answers: list[tuple[Exit, Answer]] = []
        self.entered: list[int] = []
        self.calls: list[tuple[str, tuple[int, ...]]] = []
        self.closed = False
        self._count = 0
        self._kicked = False
        self._vector = -1
        self._taken = -1
        self._ends = self._ending = self._ended = False
        self._nmi = False
        self._injections: list[tuple[int, int, int]] = []
        self._tsc = (True, 1_000_000, 0)
        self._line: tuple[int, int] | None = None
        self._pending: Exit | None = None
        self._again: Exit | None = None
        self._cpuid: dict[tuple[int, int], tuple[int, int, int, int]] = {}
        self._msrs: dict[int, int] = {}
        self._open_ports: set[int] = set()
        self._fast: dict[tuple[int, int], int] = {}
        self.load(script)

    def load(self, script: Script) -> None:
        """Start another script, at its beginning."""
        self._script: Iterator[Exit] | None = None
        self._generator: ExitScript | None = None
        self._callable: Callable[[FakeCpu], Exit] | None = None
        self._answer: Answer | None = None
        if inspect.isgeneratorfunction(script):
            self._generator = script(self)
        elif callable(script):
            self._callable = cast("Callable[[FakeCpu], Exit]", script)
        else:
            self._script = iter(script)

    # -- running ---------------------------------------------------------------------------
    def run(self, budget: int, deadline: int = 0) -> Exit:
        """The next exit of the script. `deadline` is ignored: a fake takes no host time."""
        if self._pending is not None:
            raise RuntimeError(f"exit {self._pending} hasn't been answered")
        if self._kicked:
            self._kicked = False
            return make_exit(ExitReason.KICK)
        self._enter_interrupts()
        for _ in range(max(1, budget)):
            exit_ = self._next()
            self._count += budget if exit_[0] == ExitReason.BUDGET else 1
            self._load_arguments(exit_)
            if exit_[0] in NEEDS_ANSWER:
                self._pending = exit_
                if exit_[0] == ExitReason.MSR_WRITE and exit_[2] == MSR_APIC_BASE:
                    self._ends = self._ending = False
                if self._answer_natively(exit_):
                    continue
            elif exit_[0] == ExitReason.HALT:
                self._record(exit_, Answer("none"))
                self._set_if(bool(exit_[2]))
            else:
                self._record(exit_, Answer("none"))
            return exit_
        return make_exit(ExitReason.BUDGET)

    def _next(self) -> Exit:
        if self._again is not None:
            exit_, self._again = self._again, None
            return exit_
        try:
            if self._callable is not None:
                return self._callable(self)
            if self._script is not None:
                return next(self._script)
            assert self._generator is not None
            if self._answer is None:
                return next(self._generator)
            return self._generator.send(self._answer)
        except StopIteration:
            return halt(interrupts=False)

    def _load_arguments(self, exit_: Exit) -> None:
        """Put an exit's operands where the instruction would find them."""
        if exit_[0] == ExitReason.HYPERCALL:
            names = _HYPERCALL_REGISTERS.get(exit_[1] >> 2 & 3, _HYPERCALL_REGISTERS[2])
            self.registers.update(zip(names, exit_[2:], strict=True))
        elif exit_[0] == ExitReason.CPUID:
            self.registers.update(rax=exit_[2], rcx=exit_[3])
        elif exit_[0] in (ExitReason.MSR_READ, ExitReason.MSR_WRITE):
            self.registers["rcx"] = exit_[2]

    def _answer_natively(self, exit_: Exit) -> bool:
        """Answer from the tables of set_cpuid, pass_msrs, trap_ports and fast_hypercalls."""
        reason, flags, a, b, *_ = exit_
        if reason == ExitReason.CPUID:
            values = self._cpuid.get((a, b), self._cpuid.get((a, -1)))
            if values is None:
                return False
            self.complete(*values)
        elif reason == ExitReason.MSR_READ and a in self._msrs:
            self.complete(self._msrs[a])
        elif reason == ExitReason.MSR_WRITE and (a, b) == (MSR_X2APIC_EOI, 0) and self._ending:
            self._ending, self._ended = False, True
            self.complete()
        elif reason == ExitReason.MSR_WRITE and a in self._msrs:
            self._msrs[a] = b
            self.complete()
        elif reason == ExitReason.IO_IN and a in self._open_ports:
            self.complete((1 << 8 * b) - 1)
        elif reason == ExitReason.IO_OUT and a in self._open_ports:
            self.complete()
        elif reason == ExitReason.HYPERCALL and (a, b) in self._fast and flags == CPL0_64:
            self.complete(self._fast[a, b])
        else:
            return False
        return True

    def _record(self, exit_: Exit, answer: Answer) -> None:
        self.answers.append((exit_, answer))
        self._answer = answer

    def _take_pending(self, what: str) -> Exit:
        if self._pending is None:
            raise RuntimeError(f"{what} with no exit pending")
        exit_, self._pending = self._pending, None
        return exit_

    def complete(self, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> None:
        exit_ = self._take_pending("complete")
        self._record(exit_, Answer("complete", (a, b, c, d)))
        reason, flags = exit_[0], exit_[1]
        if reason == ExitReason.HYPERCALL:
            self.registers["rax"] = a & ((1 << 64) - 1 if flags >> 2 & 3 == 3 else 0xFFFFFFFF)
        elif reason == ExitReason.CPUID:
            self.registers.update(rax=a, rbx=b, rcx=c, rdx=d)
        elif reason == ExitReason.MSR_READ:
            self.registers.update(rax=a & 0xFFFFFFFF, rdx=a >> 32 & 0xFFFFFFFF)
        elif reason == ExitReason.IO_IN:
            mask = (1 << 8 * exit_[3]) - 1
            self.registers["rax"] = self.get("rax") & ~mask | a & mask

    def retry(self) -> None:
        """The same instruction again; a hypercall takes its operands from the registers."""
        exit_ = self._take_pending("retry")
        if exit_[0] == ExitReason.HYPERCALL:
            names = _HYPERCALL_REGISTERS.get(exit_[1] >> 2 & 3, _HYPERCALL_REGISTERS[2])
            exit_ = cast(Exit, (*exit_[:2], *(self.get(name) for name in names)))
        self._again = exit_

    def fault(self, vector: int, error_code: int = -1, cr2: int = -1) -> None:
        """Deliver an exception; after a STAGE2 exit too, which needs no other answer."""
        if self._pending is None and self.answers and self.answers[-1][0][0] == ExitReason.STAGE2:
            exit_, _ = self.answers.pop()
        else:
            exit_ = self._take_pending("fault")
        if cr2 != -1:
            self.registers["cr2"] = cr2
        self._record(exit_, Answer("fault", (vector, error_code, cr2)))

    def kick(self) -> None:
        self.calls.append(("kick", ()))
        self._kicked = True

    def instructions(self) -> int:
        return self._count

    def skip(self, count: int) -> None:
        self.calls.append(("skip", (count,)))
        self._count += count

    # -- registers -------------------------------------------------------------------------
    def get(self, name: str) -> int:
        return self.registers.get(name, 0)

    def set(self, name: str, value: int) -> None:
        self.registers[name] = value

    def save(self) -> dict[str, int | bytes]:
        state: dict[str, int | bytes] = dict(sorted(self.registers.items()))
        state["instructions"] = self._count
        state["shadow"] = int(self.shadow)
        return state

    def restore(self, state: Mapping[str, int | bytes]) -> None:
        values = {name: value for name, value in state.items() if isinstance(value, int)}
        self._count = values.pop("instructions", 0)
        self.shadow = bool(values.pop("shadow", 0))
        self.registers = values

    # -- interrupts --------------------------------------------------------------------------
    def _set_if(self, enabled: bool) -> None:
        flags = self.get("rflags")
        self.registers["rflags"] = flags | RFLAGS_IF if enabled else flags & ~RFLAGS_IF

    def _enter_interrupts(self) -> None:
        if self._nmi:
            self._nmi = False
            self._enter(2, 2)
        shadow, self.shadow = self.shadow, False
        if shadow or not self.get("rflags") & RFLAGS_IF:
            return
        vector = self._line_vector()
        from_line = vector != -1
        if not from_line:
            vector, self._vector = self._vector, -1
            self._ending = self._ends if vector != -1 else self._ending
        if vector != -1:
            self._taken = vector
            self._enter(vector, int(from_line))

    def _enter(self, vector: int, kind: int) -> None:
        self.entered.append(vector)
        self._injections.append((self._count, vector, kind))
        before = bool(self.get("rflags") & RFLAGS_IF)
        self._set_if(False)
        if self.on_interrupt is not None:
            self.on_interrupt(self, vector)
        if self.auto_iret:
            self._set_if(before)

    def _line_vector(self) -> int:
        if self._line is None or self.space.memory.read(self._line[0], 1) == b"\0":
            return -1
        return self._line[1]

    def set_interrupt(self, vector: int, ends: bool = False) -> None:
        self.calls.append(("set_interrupt", (vector,)))
        self._vector, self._ends, self._ending = vector, ends, False

    def taken_interrupt(self) -> int:
        taken, self._taken = self._taken, -1
        return taken

    def ended_interrupt(self) -> bool:
        ended, self._ended = self._ended, False
        return ended

    def set_line(self, maddr: int, vector: int) -> None:
        self.calls.append(("set_line", (maddr, vector)))
        self._line = None if vector == -1 else (maddr, vector)

    def poke_line(self) -> None:
        """Recorded only: the fake looks at the line's byte at each `run`."""
        self.calls.append(("poke_line", ()))

    def set_nmi(self) -> None:
        self.calls.append(("set_nmi", ()))
        self._nmi = True

    def injections(self) -> list[tuple[int, int, int]]:
        """What entered since the last call: (instructions, vector, kind)."""
        injections, self._injections = self._injections[-64:], []
        return injections

    def interruptible(self) -> bool:
        return bool(self.get("rflags") & RFLAGS_IF) and not self.shadow and self._pending is None

    # -- memory as the guest sees it -----------------------------------------------------------
    def translate(self, gva: int) -> int:
        if self.paging is None:
            return gva
        page = self.paging.get(gva >> PAGE_SHIFT)
        if page is None:
            raise AccessError(gva)
        return page << PAGE_SHIFT | gva & (PAGE_SIZE - 1)

    def _pieces(self, gva: int, size: int, needed: int) -> list[tuple[int, int]]:
        """(gpa, length) per page; each is known to be backed, so that a write can't stop midway."""
        pieces = []
        while size:
            length = min(size, PAGE_SIZE - (gva & (PAGE_SIZE - 1)))
            gpa = self.translate(gva)
            entry = self.space.lookup(gpa >> PAGE_SHIFT)
            if entry is None or entry[1] & needed != needed:
                raise AccessError(gva)
            pieces.append((gpa, length))
            gva += length
            size -= length
        return pieces

    def read(self, gva: int, size: int) -> bytes:
        pieces = self._pieces(gva, size, P2M_PRESENT)
        return b"".join(self.space.read(gpa, length) for gpa, length in pieces)

    def write(self, gva: int, data: bytes) -> None:
        done = 0
        for gpa, length in self._pieces(gva, len(data), P2M_WRITE):
            self.space.write(gpa, data[done : done + length])
            done += length

    def flush_tlb(self) -> None:
        self.calls.append(("flush_tlb", ()))

    # -- what is answered without an exit ------------------------------------------------------
    def set_cpuid(self, table: list[tuple[int, int, int, int, int, int]]) -> None:
        self._cpuid = {(row[0], row[1]): row[2:] for row in table}

    def pass_msrs(self, indices: list[int]) -> None:
        self._msrs = {index: self._msrs.get(index, 0) for index in indices}

    def trap_ports(self, first: int, last: int, trap: bool) -> None:
        ports = range(first, last + 1)
        if trap:
            self._open_ports.difference_update(ports)
        else:
            self._open_ports.update(ports)

    def limit_controls(self, cr4: int, efer: int, xcr0: int, /) -> None:
        self.calls.append(("limit_controls", (cr4, efer, xcr0)))

    def fast_hypercalls(self, table: list[tuple[int, int, int]]) -> None:
        self._fast = {(number, first): result for number, first, result in table}

    def set_tsc(self, virtual: bool, khz: int, offset: int) -> None:
        self.calls.append(("set_tsc", (int(virtual), khz, offset)))
        self._tsc = (virtual, khz, offset)

    def tsc(self) -> int:
        """RDTSC; a fake has no host time, so that it's that of `instructions` in any case."""
        _, khz, offset = self._tsc
        return self._count * khz // 1_000_000 + offset & (1 << 64) - 1

    def pause_exits(self, every: int, /) -> None:
        """Recorded only: a script's PAUSE always exits."""
        self.calls.append(("pause_exits", (every,)))

    def close(self) -> None:
        self.closed = True


class FakeEngine:
    """`Engine` of the fakes. `scripts` maps a CPU's index to its script.

    All CPUs made are kept in `cpus`, in order, for tests to look at.
    """

    name = "fake"

    def __init__(self, scripts: Mapping[int, Script] | None = None) -> None:
        self.scripts = dict(scripts or {})
        self.cpus: list[FakeCpu] = []

    def memory(self, frames: int) -> FakeMemory:
        return FakeMemory(frames)

    def space(self, memory: MachineMemory) -> FakeSpace:
        """Raises TypeError for another engine's memory."""
        if not isinstance(memory, FakeMemory):
            raise TypeError("a fake space needs a fake memory")
        return FakeSpace(memory)

    def cpu(self, space: AddressSpace, index: int) -> FakeCpu:
        """Raises TypeError for another engine's space."""
        if not isinstance(space, FakeSpace):
            raise TypeError("a fake CPU needs a fake space")
        cpu = FakeCpu(space, index, self.scripts.get(index, ()))
        self.cpus.append(cpu)
        return cpu

    def pv_pages(self, memory: MachineMemory, space: AddressSpace, domid: int) -> FakePvPages:
        return FakePvPages(domid)
