# SPDX-License-Identifier: GPL-2.0-or-later
"""A bare guest for tests of the native engine: flat memory, long mode, no hypervisor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.engine.assembler import assemble
from xenograft.engine.protocol import Cpu, Exit, ExitReason
from xenograft.engine.unicorn import UnicornEngine

CODE = 0x1000
STACK = 0x9000
IDT = 0xA000
GDT = 0xB000
PAGE_TABLES = 0x10000
DATA = 0x20000
HANDLERS = 0x30000
PAGES = 256

KERNEL_CODE, KERNEL_DATA, USER_DATA, USER_CODE, TSS = 8, 16, 24 | 3, 32 | 3, 40
_GDT = [0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFF3000000FFFF, 0x00AFFB000000FFFF]


class Bench:
    """One space of `PAGES` pages at guest-physical 0, and its CPUs."""

    def __init__(self, cpus: int = 1, frames: int = 4096) -> None:
        self.engine = UnicornEngine()
        self.memory = self.engine.memory(frames)
        self.space = self.engine.space(self.memory)
        gfn = 0
        for mfn, count in self.memory.alloc(1, PAGES):
            self.space.map(gfn, mfn, count)
            gfn += count
        self.cpus = [self.engine.cpu(self.space, index) for index in range(cpus)]
        self.cpu = self.cpus[0]

    def close(self) -> None:
        for cpu in self.cpus:
            cpu.close()
        self.space.close()
        self.memory.close()

    def load(self, text: str, bits: int = 64, at: int = CODE) -> None:
        self.space.write(at, assemble(text, bits, at))

    def long_mode(self, cpu: Cpu | None = None) -> Cpu:
        """Identity-map the first 2 MiB and gpa 0xfee00000, and enter 64-bit mode at CODE."""
        cpu = cpu or self.cpu
        write = self.space.write
        write(PAGE_TABLES, (PAGE_TABLES + 0x1000 | 7).to_bytes(8, "little"))
        write(PAGE_TABLES + 0x1000, (PAGE_TABLES + 0x2000 | 7).to_bytes(8, "little"))
        write(PAGE_TABLES + 0x1018, (PAGE_TABLES + 0x4000 | 7).to_bytes(8, "little"))
        write(PAGE_TABLES + 0x2000, (PAGE_TABLES + 0x3000 | 7).to_bytes(8, "little"))
        for page in range(512):
            write(PAGE_TABLES + 0x3000 + 8 * page, (page << 12 | 7).to_bytes(8, "little"))
        write(PAGE_TABLES + 0x4000 + 8 * 0x1F7, (0xFEE00000 | 0x83).to_bytes(8, "little"))
        tss_base = GDT + 0x100
        low = 0x67 | (tss_base & 0xFFFFFF) << 16 | 0x89 << 40
        for i, descriptor in enumerate([*_GDT, low, 0]):
            write(GDT + 8 * i, descriptor.to_bytes(8, "little"))
        write(tss_base + 4, STACK.to_bytes(8, "little"))
        state = {
            "cr3": PAGE_TABLES, "cr4": 0x20 | 0x200, "efer": 0x501 | 0x800, "cr0": 0x80010031,
            "cs.sel": KERNEL_CODE, "cs.base": 0, "cs.limit": 0xFFFFFFFF, "cs.attr": 0xA9B,
            "gdtr.base": GDT, "gdtr.limit": 0xFF, "idtr.base": IDT, "idtr.limit": 0xFFF,
            "tr.sel": TSS, "tr.base": tss_base, "tr.limit": 0x67, "tr.attr": 0x8B,
            "rip": CODE, "rsp": STACK, "rflags": 2,
        }  # fmt: skip
        for name in ("ds", "es", "ss"):
            state |= {f"{name}.sel": KERNEL_DATA, f"{name}.base": 0, f"{name}.attr": 0xC93}
            state |= {f"{name}.limit": 0xFFFFFFFF}
        for name, value in state.items():
            cpu.set(name, value)
        return cpu

    def gate(self, vector: int, handler: int, dpl: int = 0) -> None:
        """An interrupt gate to `handler`."""
        low = (handler & 0xFFFF) | KERNEL_CODE << 16 | (0x8E | dpl << 5) << 40
        low |= (handler >> 16 & 0xFFFF) << 48
        self.space.write(IDT + 16 * vector, low.to_bytes(8, "little"))
        self.space.write(IDT + 16 * vector + 8, (handler >> 32).to_bytes(8, "little"))

    def run(self, reason: ExitReason | None = None, budget: int = 1_000_000) -> Exit:
        """Run the first CPU; the exit must be of the given reason."""
        result = self.cpu.run(budget)
        if reason is not None:
            assert ExitReason(result[0]) is reason, (ExitReason(result[0]), result)
        return result

    def u64(self, gpa: int) -> int:
        return int.from_bytes(self.space.read(gpa, 8), "little")


@contextmanager
def bench(cpus: int = 1, frames: int = 4096) -> Iterator[Bench]:
    """A `Bench` that's closed at the end."""
    made = Bench(cpus, frames)
    try:
        yield made
    finally:
        made.close()
