# SPDX-License-Identifier: GPL-2.0-or-later
"""A bare 64-bit PV guest for tests of the native engine: validated page tables, no hypervisor."""

from __future__ import annotations

from typing import Any, cast

from tests.engine.assembler import assemble
from tests.engine.pv_model import RW, US, A, D, P
from xenograft.arch.x86.pv import kernel_state, reserved_gdt
from xenograft.engine.protocol import Exit, ExitReason
from xenograft.engine.pv import PvCpu
from xenograft.engine.unicorn import UnicornEngine

GUEST = 5
BASE = 0x400000
CODE, DATA, STACK, USER_STACK, HANDLERS = (BASE + (page << 12) for page in (0, 1, 2, 3, 4))
TABLES = BASE + 0x10000
"""Where the guest sees its page tables, read-only: L1, L2, L3, L4."""
PAGES = 16
GPRS = ("rcx", "r11")
KERNEL_CS, KERNEL_SS = 0xE033, 0xE02B
USER_CS, USER_SS = 0xE033, 0xE02B


class PvBench:
    """One vCPU in its kernel at CODE; `PAGES` pages from BASE on, then its page tables.

    Virtual page n is frame `data[n]`.  A second root table, `user_root`, maps the same pages.
    """

    def __init__(self) -> None:
        engine = UnicornEngine()
        self.memory: Any = engine.memory(2048)
        self.space = engine.space(self.memory)
        self.data = [self._frame() for _ in range(PAGES)]
        self.l1, self.l2, self.l3, self.l4 = (self._frame() for _ in range(4))
        self.user_root = self._frame()
        self.info = self._frame(1)
        self.pages: Any = engine.pv_pages(self.memory, self.space, GUEST)
        self._xen_tables()
        for page, mfn in enumerate(self.data):
            self.put(self.l1, page, mfn << 12 | P | RW | US | A | D)
        for page, mfn in enumerate((self.l1, self.l2, self.l3, self.l4), PAGES):
            self.put(self.l1, page, mfn << 12 | P | US | A)
        self.put(self.l2, BASE >> 21, self.l1 << 12 | P | RW | US | A)
        self.put(self.l3, 0, self.l2 << 12 | P | RW | US | A)
        for root in (self.l4, self.user_root):
            self.put(root, 0, self.l3 << 12 | P | RW | US | A)
            assert self.pages.pin(root, 4) == 0
        self._engine, self._cpus = engine, list[PvCpu]()
        self.cpu = self.vcpu(0)
        self.memory.write((self.info << 12) + 1, b"\1")
        self.masked = True

    def vcpu(self, number: int, entry: int = CODE) -> PvCpu:
        """A vCPU in its kernel at `entry`."""
        cpu = cast(PvCpu, self._engine.cpu(self.space, number))
        cpu.pv_attach(self.pages)
        cpu.pv_set("descriptors", self.descriptors)
        cpu.pv_set("reserved_gdt", self.gdt)
        cpu.pv_set("info", self.info << 12)
        cpu.pv_set("kernel_sp", STACK + 0x1000)
        assert cpu.pv_new_table(self.l4, False) == 0
        assert cpu.pv_new_table(self.user_root, True) == 0
        state = kernel_state(number, 64, entry=entry, stack=STACK + 0x1000, start_info=0)
        for name, value in state.items():
            cpu.set(name, value)
        cpu.pv_load_roots()
        self._cpus.append(cpu)
        return cpu

    def _frame(self, owner: int = GUEST) -> int:
        ((mfn, _),) = self.memory.alloc(owner)
        self.space.map(mfn, mfn)
        return int(mfn)

    def _xen_tables(self) -> None:
        """The vCPU's descriptor tables, as the hypervisor maps them."""
        self.gdt, table, l2, l3 = (self._frame(1) for _ in range(4))
        self.memory.write(self.gdt << 12, reserved_gdt(64))
        self.descriptors = table << 12
        self.put(table, 14, self.gdt << 12 | P | A)
        self.put(l2, 0, table << 12 | P | RW | A)
        self.put(l3, 0, l2 << 12 | P | RW | A)
        self.pages.configure(False, 0, l3 << 12 | P | RW | A, b"")

    def put(self, mfn: int, slot: int, entry: int) -> None:
        self.memory.write_u64((mfn << 12) + slot * 8, entry)

    def entry(self, mfn: int, slot: int) -> int:
        return int(self.memory.read_u64((mfn << 12) + slot * 8))

    def load(self, text: str, at: int = CODE) -> None:
        page, offset = (at - BASE) >> 12, at & 0xFFF
        self.memory.write((self.data[page] << 12) + offset, assemble(text, 64, at))

    def trap(self, vector: int, handler: int, flags: int = 0) -> None:
        self.cpu.pv_trap(vector, flags, KERNEL_CS, handler)

    def run(self, reason: ExitReason | None = None, budget: int = 100_000) -> Exit:
        exit_: Exit = self.cpu.run(budget)
        if reason is not None:
            assert ExitReason(exit_[0]) is reason, (ExitReason(exit_[0]), [hex(x) for x in exit_])
        return exit_

    def u64(self, address: int) -> int:
        """What the guest has at an address of one of its pages."""
        page, offset = (address - BASE) >> 12, address & 0xFFF
        return int(self.memory.read_u64((self.data[page] << 12) + offset))

    def frame(self, words: int) -> list[int]:
        """The words on top of the stack."""
        at = self.cpu.get("rsp")
        return [self.u64(at + 8 * i) for i in range(words)]

    def to_user(self, rip: int, *, rflags: int = 0x202, cs: int = USER_CS, flags: int = 0) -> None:
        """Have the kernel IRET to user mode at `rip`."""
        self.iret(0x77, 0x11, 0xCC, flags, rip, cs, rflags, USER_STACK + 0x1000, USER_SS)

    def iret(self, *frame: int) -> None:
        """Put an iret_context on the kernel's stack, and execute the hypercall."""
        at = STACK + 0x800
        for index, word in enumerate(frame):
            self.memory.write_u64((self.data[2] << 12) + 0x800 + 8 * index, word)
        self.cpu.set("rsp", at)
        self.load("mov $23, %eax\nsyscall", CODE + 0xF00)
        self.cpu.set("rip", CODE + 0xF00)

    def close(self) -> None:
        for cpu in self._cpus:
            cpu.pv_drop()
            cpu.close()
        self.space.close()
        self.memory.close()
