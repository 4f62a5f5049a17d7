# SPDX-License-Identifier: GPL-2.0-or-later
"""What a PV domain is to its vCPUs: page tables, bring-up, CPU identity, traps.

`PvPlatform` is the `Arch` of a PV domain.  Its first vCPU is set up by the builder, further ones
by the guest with VCPUOP_initialise and a full context.

Facts: arch_set_info_guest(), arch_initialise_vcpu(), vcpu_destroy_pagetables() and
domain_relinquish_resources() of Xen 4.17 (xen/arch/x86/domain.c).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.xen import HYPERCALLS
from xenograft.arch.x86 import pv
from xenograft.arch.x86.cpuid.policy import Edit, VcpuView
from xenograft.engine.protocol import Exit
from xenograft.hypervisor.call import Call, CpuAccess
from xenograft.hypervisor.guest_time import update_vcpu_time
from xenograft.hypervisor.identity import cpu_policy
from xenograft.hypervisor.pv import context, emulate
from xenograft.hypervisor.pv.mappings import DomainMappings, XenMappings
from xenograft.hypervisor.pv.msr import PvMsrs

if TYPE_CHECKING:
    from xenograft.arch.x86.pvh import State
    from xenograft.engine.pv import PvCpu, PvEngine, PvMemory, PvPages
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.hypervisor import Hypervisor
    from xenograft.hypervisor.vcpu import Vcpu

XEN_VERSION = next(number for number, name in HYPERCALLS.items() if name == "xen_version")
RELINQUISH_ROUNDS = 8


def pv_cpu(vcpu: Vcpu) -> PvCpu:
    """The engine CPU of a PV guest's vCPU. Raises XenError(EINVAL) if it has none."""
    if vcpu.cpu is None:
        raise XenError(Errno.EINVAL)
    return cast("PvCpu", vcpu.cpu)


def xen_mappings(hypervisor: Hypervisor) -> XenMappings:
    """The machine's shared mappings, made for its first PV domain. Raises XenError(ENOMEM)."""
    if hypervisor.pv_mappings is None:
        memory = cast("PvMemory", hypervisor.memory)
        hypervisor.pv_mappings = XenMappings(memory)
        hypervisor.frames.show(memory)
    return hypervisor.pv_mappings


class PvPlatform:
    """The platform of one PV domain."""

    device_ranges: tuple[range, ...] = ()
    """PV guests have no emulated devices."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        hypervisor = domain.hypervisor
        engine = cast("PvEngine", hypervisor.engine)
        if not hasattr(engine, "pv_pages"):
            raise XenError(Errno.EOPNOTSUPP)
        self._xen = xen_mappings(hypervisor)
        self.pages: PvPages = engine.pv_pages(hypervisor.memory, domain.space, domain.domid)
        self._mappings: DomainMappings | None = None
        self._xen.show(domain.space)
        self.policy = cpu_policy(domain)
        self.io_bitmaps: dict[int, tuple[int, int]] = {}
        """By vCPU: (address, ports) of the bitmap of ports that its user may use."""
        self.msrs = [PvMsrs(self, vcpu) for vcpu in domain.vcpus]
        self.set_width(64)

    def set_cpuid(self, edits: Iterable[Edit]) -> None:
        """Edit the default policy as a configuration asks; before the first vCPU is brought up."""
        self.policy = cpu_policy(self._domain, edits)

    def set_width(self, bits: int) -> None:
        """Make it a 64-bit or a 32-bit domain, while it has no vCPUs (set_address_size)."""
        domain = self._domain
        if self._mappings is not None:
            self._mappings.close()
        mappings = DomainMappings(self._xen, domain.space, len(domain.vcpus), bits)
        self._mappings = mappings
        domain.bits = bits
        compat = bits == 32
        self.pages.configure(
            compat,
            self._xen.m2p_l4e,
            mappings.perdomain_l4e,
            self._xen.compat_l2 if compat else b"",
        )

    # -- vCPUs -------------------------------------------------------------------------------
    def start(self, vcpu: Vcpu, state: State) -> None:
        """Give a vCPU its registers: from now on it may be brought up."""
        cpu = self.make_cpu(vcpu)
        for name, value in state.items():
            cpu.set(name, value)
        cpu.pv_load_roots()
        vcpu.initialised = True

    def make_cpu(self, vcpu: Vcpu) -> PvCpu:
        """Make the vCPU's engine CPU, unless it has one."""
        if vcpu.cpu is not None:
            return cast("PvCpu", vcpu.cpu)
        domain = self._domain
        hypervisor = domain.hypervisor
        cpu = cast("PvCpu", hypervisor.engine.cpu(domain.space, vcpu.vcpu_id))
        vcpu.cpu = cpu
        vcpu.call = Call(hypervisor, domain, vcpu, CpuAccess(cpu), domain.bits)
        cpu.pv_attach(self.pages)
        cpu.set_cpuid(self.policy.native_table(vcpu.vcpu_id))
        cpu.set("entropy", hypervisor.entropy_for(domain.domid, vcpu.vcpu_id))
        self.set_tsc(vcpu)
        assert self._mappings is not None
        cpu.pv_set("descriptors", self._mappings.descriptors(vcpu.vcpu_id))
        cpu.pv_set("reserved_gdt", self._xen.reserved_gdt[domain.bits])
        cpu.pv_set("cr4", pv.fixup_guest_cr4(self.policy, 0))
        if domain.bits == 32:
            cpu.pv_set("root", self._mappings.roots[vcpu.vcpu_id])
        if hypervisor.instruments.hypercall_enter is None:
            cpu.pv_set("native", 1)
            # Guests call this to have their events delivered; nothing needs to be asked.
            cpu.fast_hypercalls([(XEN_VERSION, 0, hypervisor.xen_version.number)])
        self.vcpu_info_moved(vcpu)
        update_vcpu_time(vcpu, force=True)
        return cpu

    def set_tsc(self, vcpu: Vcpu) -> None:
        """Tell the engine how the vCPU's TSC runs."""
        if vcpu.cpu is None:
            return
        clock, tsc = self._domain.hypervisor.clock, vcpu.tsc
        base = clock.host_deadline(0)
        vcpu.cpu.set_tsc(clock.virtual, tsc.khz, tsc.offset - base * tsc.khz // 1_000_000)

    def initialise_vcpu(self, call: Call, vcpu: Vcpu, arg: int) -> None:
        """VCPUOP_initialise. Raises XenError: EFAULT, EEXIST if it is initialised, EINVAL."""
        context.initialise(call, vcpu, arg)

    def vcpu_down(self, vcpu: Vcpu) -> None:
        """A PV guest takes vCPUs down by VCPUOP_down, never by halting."""
        vcpu.take_down()

    def vcpu_info_moved(self, vcpu: Vcpu) -> None:
        """vcpu_info is somewhere else now: the engine looks there for events."""
        if vcpu.cpu is not None:
            maddr = vcpu.vcpu_info_maddr
            pv_cpu(vcpu).pv_set("info", (1 << 64) - 1 if maddr is None else maddr)

    def assists_changed(self) -> None:
        """The domain has switched an assist on or off."""
        self.pages.set_assist(self._domain.vm_assist)

    # -- exits -------------------------------------------------------------------------------
    def exception(self, vcpu: Vcpu, exit_: Exit) -> None:
        """A fault of the guest whose instruction Xen may emulate."""
        emulate.exception(self, vcpu, exit_)

    def lapic_base(self, vcpu: Vcpu) -> int:
        """PV guests have no local APIC."""
        return -1

    def read_msr(self, vcpu: Vcpu, index: int) -> int | None:
        return self.msrs[vcpu.vcpu_id].read(index)

    def write_msr(self, vcpu: Vcpu, index: int, value: int) -> bool:
        return self.msrs[vcpu.vcpu_id].write(index, value)

    def cpuid(self, vcpu: Vcpu, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """CPUID leaves that the engine doesn't answer: what depends on the vCPU's state."""
        cpu = pv_cpu(vcpu)
        view = VcpuView(
            vcpu_id=vcpu.vcpu_id, cr4=cpu.pv_get("cr4"), xcr0=cpu.get("xcr0"), long_mode=True
        )
        return self.policy.cpuid(leaf, subleaf, view)

    # -- the end -----------------------------------------------------------------------------
    def close(self) -> None:
        """The domain dies: its vCPUs give up what they hold, and its page tables go.

        Its own mappings of other domains' frames go with them.
        """
        domain = self._domain
        for vcpu in domain.vcpus:
            if vcpu.cpu is not None:
                pv_cpu(vcpu).pv_drop()
        domain.hypervisor.frames.settle()
        for _ in range(RELINQUISH_ROUNDS):
            self.pages.relinquish(domain.pool.pages.runs())
            domain.hypervisor.frames.settle()
        if self._mappings is not None:
            self._mappings.close()
            self._mappings = None
