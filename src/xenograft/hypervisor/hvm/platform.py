# SPDX-License-Identifier: GPL-2.0-or-later
"""What Xen emulates for an HVM-type guest: its CPUs' bring-up, local APICs, CPUID and MSRs.

HVM guests proper have an I/O APIC and an HPET too (`xenograft.hypervisor.hvm.chipset`).

`HvmPlatform` belongs to a domain and connects the parts of `arch` (which know registers and
rules) with the domain's vCPUs and their engine CPUs.

Facts: Xen's vlapic_init_sipi_one(), hvm_vcpu_reset_state(), arch_set_info_hvm_guest(),
hvm_vcpu_down().
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.hvm.hvm_vcpu import vcpu_hvm_context
from xenograft.abi.hvm.params import HVM_PARAM_TRIPLE_FAULT_REASON
from xenograft.abi.sched import SHUTDOWN_poweroff, SHUTDOWN_reboot
from xenograft.abi.version import XENVER_version
from xenograft.abi.xen import HYPERCALLS
from xenograft.arch.x86 import pvh
from xenograft.arch.x86.cpuid.policy import Edit, VcpuView
from xenograft.arch.x86.msr import VcpuMsrs
from xenograft.arch.x86.platform.apic_bus import ApicBus
from xenograft.arch.x86.platform.apicdef import APIC_BASE_ENABLE, APIC_BASE_EXTD
from xenograft.arch.x86.platform.lapic import LocalApic
from xenograft.arch.x86.registers import EFER_LMA
from xenograft.engine.protocol import SYSREG_CR8
from xenograft.hypervisor.call import Call, CpuAccess
from xenograft.hypervisor.guest_time import update_vcpu_time
from xenograft.hypervisor.hvm.callback import set_upcall_line
from xenograft.hypervisor.hvm.chipset import RANGES, Chipset
from xenograft.hypervisor.hvm.effects import VcpuEffects
from xenograft.hypervisor.identity import cpu_policy
from xenograft.hypervisor.kinds import GuestKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.vcpu import Vcpu


XEN_VERSION = next(number for number, name in HYPERCALLS.items() if name == "xen_version")


class HvmPlatform:
    """The emulated platform of one HVM-type domain."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        domain.hvm_params[HVM_PARAM_TRIPLE_FAULT_REASON] = SHUTDOWN_reboot
        self.policy = cpu_policy(domain)
        self._apics: list[LocalApic] = []
        self.msrs: list[VcpuMsrs] = []
        for vcpu in domain.vcpus:
            effects = VcpuEffects(self, vcpu)
            vcpu.lapic = LocalApic(vcpu.vcpu_id, effects)
            self._apics.append(vcpu.lapic)
            self.msrs.append(
                VcpuMsrs(self.policy, vcpu.lapic, effects, pvh=domain.kind is GuestKind.PVH)
            )
        self.bus = ApicBus(self._apics, self)
        self.chipset = Chipset(domain, self.bus) if domain.kind is GuestKind.HVM else None
        self.device_ranges = RANGES if self.chipset is not None else ()

    def set_cpuid(self, edits: Iterable[Edit]) -> None:
        """Edit the default policy as a configuration asks; before the first vCPU is brought up."""
        self.policy = cpu_policy(self._domain, edits)
        for msrs in self.msrs:
            msrs.policy = self.policy

    # -- vCPUs -------------------------------------------------------------------------------
    def start(self, vcpu: Vcpu, state: pvh.State) -> None:
        """Give a vCPU its registers: from now on it may be brought up."""
        self.make_cpu(vcpu)
        self._set_registers(vcpu, state)
        vcpu.initialised = True

    def make_cpu(self, vcpu: Vcpu) -> None:
        """Make the vCPU's engine CPU, unless it has one."""
        if vcpu.cpu is not None:
            return
        domain = self._domain
        hypervisor = domain.hypervisor
        cpu = hypervisor.engine.cpu(domain.space, vcpu.vcpu_id)
        vcpu.cpu = cpu
        vcpu.call = Call(hypervisor, domain, vcpu, CpuAccess(cpu, domain.p2m))
        cpu.set_cpuid(self.policy.native_table(vcpu.vcpu_id))
        cpu.pass_msrs(self.msrs[vcpu.vcpu_id].engine_msrs())
        cpu.limit_controls(
            pvh.cr4_valid_bits(self.policy), pvh.efer_valid_bits(self.policy), self.policy.xcr0_mask
        )
        cpu.set("entropy", hypervisor.entropy_for(domain.domid, vcpu.vcpu_id))
        self.set_tsc(vcpu)
        if hypervisor.instruments.hypercall_enter is None:
            # Guests call this to have their events delivered; nothing needs to be asked.
            version = hypervisor.xen_version.number
            cpu.fast_hypercalls([(XEN_VERSION, XENVER_version, version)])
        set_upcall_line(vcpu)
        update_vcpu_time(vcpu, force=True)

    def set_tsc(self, vcpu: Vcpu) -> None:
        """Tell the engine how the vCPU's TSC runs."""
        if vcpu.cpu is None:
            return
        clock, tsc = self._domain.hypervisor.clock, vcpu.tsc
        # The engine counts from the host's zero, the hypervisor from the machine's start.
        base = clock.host_deadline(0)
        offset = tsc.offset - base * tsc.khz // 1_000_000
        vcpu.cpu.set_tsc(clock.virtual, tsc.khz, offset)

    def _set_registers(self, vcpu: Vcpu, state: pvh.State) -> None:
        assert vcpu.cpu is not None
        for name, value in state.items():
            if name != "cr8":  # the local APIC's, whose reset clears it
                vcpu.cpu.set(name, value)
        vcpu.cpu.flush_tlb()

    def initialise_vcpu(self, call: Call, vcpu: Vcpu, arg: int) -> None:
        """VCPUOP_initialise. Raises XenError: EFAULT, EEXIST if it is initialised, EINVAL."""
        context = call.read(arg, vcpu_hvm_context)
        if vcpu.initialised:
            raise XenError(Errno.EEXIST)
        self.start(vcpu, pvh.initialise_state(context, self.policy))

    def vcpu_down(self, vcpu: Vcpu) -> None:
        """Take a vCPU down; the last one down is a power-off (Xen's hvm_vcpu_down)."""
        vcpu.take_down()
        if all(other.down for other in self._domain.vcpus):
            self._domain.log.message("All CPUs offline -- powering off.")
            self._domain.shutdown(SHUTDOWN_poweroff)

    def vcpu_info_moved(self, vcpu: Vcpu) -> None:
        """vcpu_info is somewhere else now: watch the upcall byte there."""
        set_upcall_line(vcpu)

    def assists_changed(self) -> None:
        """Nothing here depends on the domain's assists."""

    # -- what the APIC bus asks for (apic_bus.ApicBusEffects) ------------------------------
    def apic_nmi(self, vcpu_id: int) -> None:
        self._domain.vcpus[vcpu_id].send_nmi()

    def apic_init(self, vcpu_id: int) -> None:
        """INIT: nothing to do for a vCPU that never ran (Xen: `!is_initialised`)."""
        vcpu = self._domain.vcpus[vcpu_id]
        if not vcpu.initialised:
            return
        self.vcpu_down(vcpu)
        self._set_registers(vcpu, pvh.init_state())
        vcpu.initialised = False
        vcpu.blocked = False
        vcpu.stop_timers()
        self._apics[vcpu_id].init()
        self.msrs[vcpu_id].reset()

    def apic_startup(self, vcpu_id: int, vector: int) -> None:
        """A start-up IPI: only the first one after INIT counts."""
        vcpu = self._domain.vcpus[vcpu_id]
        if not vcpu.initialised:
            self.start(vcpu, pvh.startup_state(vector))
            vcpu.bring_up()

    # -- exits -------------------------------------------------------------------------------
    def lapic_base(self, vcpu: Vcpu) -> int:
        """Where the vCPU's xAPIC page is, or -1."""
        # Of each access to memory that isn't RAM: no calls of properties.
        base = self._apics[vcpu.vcpu_id].apic_base
        enabled = base & (APIC_BASE_ENABLE | APIC_BASE_EXTD) == APIC_BASE_ENABLE
        return base & ~0xFFF if enabled else -1

    def device_read(self, gpa: int, size: int) -> int:
        """Read an emulated device's memory, inside `device_ranges`."""
        assert self.chipset is not None
        return self.chipset.read(gpa, size)

    def device_write(self, gpa: int, size: int, value: int) -> None:
        """Write an emulated device's memory, inside `device_ranges`."""
        assert self.chipset is not None
        self.chipset.write(gpa, size, value)

    def level_eoi(self, vector: int) -> None:
        """A local APIC has ended a level-triggered interrupt."""
        if self.chipset is not None:
            self.chipset.ioapic.eoi(vector)

    def read_msr(self, vcpu: Vcpu, index: int) -> int | None:
        """RDMSR, and MOV from CR8 (as the engine names it); None: #GP."""
        if index == SYSREG_CR8:
            return self._apics[vcpu.vcpu_id].cr8
        return self.msrs[vcpu.vcpu_id].read(index)

    def write_msr(self, vcpu: Vcpu, index: int, value: int) -> bool:
        """WRMSR, and MOV to CR8; False: #GP."""
        if index == SYSREG_CR8:
            return self._apics[vcpu.vcpu_id].set_cr8(value)
        return self.msrs[vcpu.vcpu_id].write(index, value)

    def cpuid(self, vcpu: Vcpu, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """CPUID leaves that the engine doesn't answer: what depends on the vCPU's state."""
        cpu = vcpu.cpu
        assert cpu is not None
        view = VcpuView(
            vcpu_id=vcpu.vcpu_id,
            cr4=cpu.get("cr4"),
            xcr0=cpu.get("xcr0"),
            apic_enabled=not self._apics[vcpu.vcpu_id].hw_disabled,
            long_mode=bool(cpu.get("efer") & EFER_LMA),
        )
        return self.policy.cpuid(leaf, subleaf, view)

    def close(self) -> None:
        """Stop the timers of local APICs and devices (the domain is being destroyed)."""
        for apic in self._apics:
            apic.init()
        if self.chipset is not None:
            self.chipset.close()
