# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine of a few pages that runs one probe (`xenograft.arch.x86.cpuid.probes`) on an engine.

The code starts at CPL 0; its CPUID and MSR exits are answered from a policy; what is in RAX
when it halts is the result.
"""

from __future__ import annotations

from xenograft.arch.x86 import pvh
from xenograft.arch.x86 import registers as r
from xenograft.arch.x86.cpuid.policy import CpuPolicy, VcpuView
from xenograft.arch.x86.cpuid.probes import FAULT, Probe
from xenograft.arch.x86.msr import VcpuMsrs
from xenograft.arch.x86.platform.lapic import LocalApic
from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE, SYSREG_CR8, Cpu, Engine, ExitReason

# Where things are in the probe's machine.
_PML4, _PDPT, _PD, _PT = 0x1000, 0x2000, 0x3000, 0x4000
_GDT, _IDT, _HANDLERS, _CODE, _STACK = 0x5000, 0x6000, 0x7000, 0x8000, 0xA000
_DATA, _USER = 0xB000, 0xC000
_PD_32, _PDPT_PAE, _PD_PAE = 0x10000, 0x11000, 0x12000
_PAGES = 0x20
_HIGH = 1 << 32
_MAGIC = 0x600DDA7A
_FLAT_CS_64, _FLAT_CS_32, _FLAT_DS = 0x08, 0x18, 0x10


class _Effects:
    """The vCPU of a probe: enough for its MSRs and its local APIC."""

    def __init__(self, cpu: Cpu) -> None:
        self.cpu = cpu
        self.tsc_offset = 0

    def lapic_now(self) -> int:
        return self.cpu.instructions()

    def lapic_guest_tsc(self) -> int:
        return self.cpu.instructions() + self.tsc_offset

    def lapic_tsc_to_ns(self, ticks: int) -> int:
        return ticks

    def lapic_arm_timer(self, deadline_ns: int | None) -> None:
        pass

    def lapic_ipi(self, icr_low: int, dest: int) -> None:
        pass

    def lapic_interrupt(self) -> None:
        pass

    def lapic_level_eoi(self, vector: int) -> None:
        pass

    def lapic_enabled(self) -> None:
        pass

    def msr_get(self, register: str) -> int:
        return self.cpu.get(register)

    def msr_set(self, register: str, value: int) -> None:
        self.cpu.set(register, value)

    def msr_guest_tsc(self) -> int:
        return self.lapic_guest_tsc()

    def msr_adjust_tsc(self, delta: int) -> None:
        self.tsc_offset += delta

    def msr_fill_page(self, gfn: int, page: bytes) -> bool:
        return False


def _qwords(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)


def _tables() -> dict[int, bytes]:
    """Page tables of the three modes, GDT, IDTs and the exception handlers."""
    memory = {
        0: _MAGIC.to_bytes(4, "little"),
        _PML4: _qwords(_PDPT | 7),
        _PDPT: _qwords(_PD | 7),
        _PD: _qwords(_PT | 7),
        _PT: _qwords(
            *(
                page << PAGE_SHIFT | (7 if page << PAGE_SHIFT == _USER else 3)
                for page in range(_PAGES)
            )
        ),
        # 4 MiB pages: one to one, address 0 again, and the page at 4 GiB (PSE-36).
        _PD_32: b"".join(entry.to_bytes(4, "little") for entry in (0x83, 0x83, 1 << 13 | 0x83)),
        _PDPT_PAE: _qwords(_PD_PAE | 1),
        _PD_PAE: _qwords(0x83),
        # Null, 64-bit code, data, 32-bit code, data (what SYSENTER and SYSCALL expect).
        _GDT: _qwords(
            0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
        ),
    }
    handlers = b"".join(
        (b"\xb8" + (FAULT | vector).to_bytes(4, "little") + b"\xf4").ljust(16, b"\x90")
        for vector in range(32)
    )
    memory[_HANDLERS] = handlers
    addresses = [_HANDLERS + 16 * vector for vector in range(32)]
    memory[_IDT] = b"".join(
        _qwords(address & 0xFFFF | _FLAT_CS_64 << 16 | 0x8E00 << 32, 0) for address in addresses
    )
    memory[_IDT + 0x800] = b"".join(
        _qwords(address & 0xFFFF | _FLAT_CS_32 << 16 | 0x8E00 << 32) for address in addresses
    )
    return memory


def _registers(mode: str) -> dict[str, int]:
    state = pvh.fresh_state()
    state["efer"] = r.EFER_LME | r.EFER_LMA | r.EFER_NXE if mode == "64" else 0
    cr4 = r.X86_CR4_OSFXSR | r.X86_CR4_OSXMMEXCPT
    state["cr4"] = cr4 | (r.X86_CR4_PSE if mode == "32" else r.X86_CR4_PAE)
    state["cr3"] = {"64": _PML4, "32": _PD_32, "pae": _PDPT_PAE}[mode]
    state["cr0"] = r.X86_CR0_PE | r.X86_CR0_PG | r.X86_CR0_ET | r.X86_CR0_WP | 1 << 5 | 1 << 1
    selector, attr = (_FLAT_CS_64, pvh.CODE_64) if mode == "64" else (_FLAT_CS_32, pvh.CODE_32)
    pvh.Segment(selector, 0, pvh.FLAT_LIMIT, attr).put(state, "cs")
    for name in ("ds", "es", "ss"):
        pvh.Segment(_FLAT_DS, 0, pvh.FLAT_LIMIT, pvh.DATA_32).put(state, name)
    pvh.Segment(0, 0, 0x67, pvh.TSS_BUSY).put(state, "tr")
    state["gdtr.base"], state["gdtr.limit"] = _GDT, 5 * 8 - 1
    state["idtr.base"] = _IDT if mode == "64" else _IDT + 0x800
    state["idtr.limit"] = 32 * (16 if mode == "64" else 8) - 1
    state.update(rip=_CODE, rsp=_STACK, rdi=_DATA, rsi=_USER)
    return state


def run(engine: Engine, probe: Probe, policy: CpuPolicy | None = None) -> int:
    """RAX at the end of a probe; an exception gives FAULT | vector.

    Raises RuntimeError if it ends in another way (a triple fault, an error, too long a run).
    """
    policy = policy or CpuPolicy.make(maximum=True)
    memory = engine.memory(1024)
    space = engine.space(memory)
    try:
        gfn = 0
        for mfn, count in memory.alloc(0, _PAGES):
            space.map(gfn, mfn, count)
            gfn += count
        space.map(_HIGH >> PAGE_SHIFT, memory.alloc(0, 1)[0][0])
        space.write(_HIGH, _MAGIC.to_bytes(4, "little"))
        for address, data in _tables().items():
            space.write(address, data)
        space.write(_CODE, bytes.fromhex(probe.code))
        cpu = engine.cpu(space, 0)
        try:
            return _run(cpu, probe, policy)
        finally:
            cpu.close()
    finally:
        space.close()
        memory.close()


def _run(cpu: Cpu, probe: Probe, policy: CpuPolicy) -> int:
    effects = _Effects(cpu)
    lapic = LocalApic(0, effects)
    msrs = VcpuMsrs(policy, lapic, effects)
    cpu.set_tsc(True, policy.hypervisor.tsc_khz, 0)
    cpu.pass_msrs(msrs.engine_msrs())
    for name, value in _registers(probe.mode).items():
        cpu.set(name, value)
    for _ in range(100):
        reason, _flags, a0, a1 = cpu.run(PAGE_SIZE)[:4]
        match reason:
            case ExitReason.HALT:
                return cpu.get("rax")
            case ExitReason.CPUID:
                cpu.complete(*policy.cpuid(a0, a1, VcpuView(cr4=cpu.get("cr4"))))
            case ExitReason.MSR_READ:
                answer = lapic.cr8 if a0 == SYSREG_CR8 else msrs.read(a0)
                if answer is None:
                    cpu.fault(r.X86_EXC_GP, 0)
                else:
                    cpu.complete(answer)
            case ExitReason.MSR_WRITE:
                if lapic.set_cr8(a1) if a0 == SYSREG_CR8 else msrs.write(a0, a1):
                    cpu.complete()
                else:
                    cpu.fault(r.X86_EXC_GP, 0)
            case ExitReason.BUDGET | ExitReason.KICK:
                continue
            case _:
                raise RuntimeError(f"probe {probe.features} ended with exit {reason}: {a0:#x}")
    raise RuntimeError(f"probe {probe.features} doesn't end")
