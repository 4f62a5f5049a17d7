# SPDX-License-Identifier: GPL-2.0-or-later
"""What the hypervisor asks of the architecture and kind of a guest.

One object per domain satisfies `Arch`: for HVM-type guests on x86
`xenograft.hypervisor.hvm.platform.HvmPlatform`, which connects the registers and rules in
`xenograft.arch.x86` with the domain's vCPUs.  Nothing outside of such an object names a
register, an APIC or a CPUID leaf.

The vCPU and the hypercall are type parameters, since `arch` knows neither.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

VcpuT = TypeVar("VcpuT", contravariant=True)
CallT = TypeVar("CallT", contravariant=True)


class Arch(Protocol[VcpuT, CallT]):
    """A domain's platform: bring-up, CPU identity, system registers, devices."""

    device_ranges: tuple[range, ...]
    """Guest-physical addresses where emulated devices answer."""

    # -- entry ------------------------------------------------------------------------------
    def start(self, vcpu: VcpuT, state: dict[str, int]) -> None:
        """Give a vCPU its first registers (by the engine's names); it may be brought up then."""
        ...

    def initialise_vcpu(self, call: CallT, vcpu: VcpuT, arg: int) -> None:
        """VCPUOP_initialise with the context at guest address `arg`. Raises XenError."""
        ...

    def vcpu_down(self, vcpu: VcpuT) -> None:
        """The guest halts a vCPU for good; the last one down is a power-off."""
        ...

    # -- identity and system registers ---------------------------------------------------------
    def cpuid(self, vcpu: VcpuT, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """The answer to an identification instruction that the engine left to us."""
        ...

    def read_msr(self, vcpu: VcpuT, index: int) -> int | None:
        """Read a system register; None: the access faults."""
        ...

    def write_msr(self, vcpu: VcpuT, index: int, value: int) -> bool:
        """Write a system register; False: the access faults."""
        ...

    # -- memory-mapped and shared parts ----------------------------------------------------------
    def lapic_base(self, vcpu: VcpuT) -> int:
        """Guest-physical address of the vCPU's interrupt controller page, or -1."""
        ...

    def vcpu_info_moved(self, vcpu: VcpuT) -> None:
        """vcpu_info lies elsewhere now: watch the upcall byte there."""
        ...

    def assists_changed(self) -> None:
        """The guest has switched a vm_assist on or off."""
        ...

    def close(self) -> None:
        """The domain is being destroyed: stop timers, let go of everything."""
        ...
