# SPDX-License-Identifier: GPL-2.0-or-later
"""The MSRs of one vCPU: placeholder wiring until arch.x86.msr is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xenograft.engine.protocol import Cpu
    from xenograft.hypervisor.hvm.platform import HvmPlatform
    from xenograft.hypervisor.vcpu import Vcpu


class VcpuMsrs:
    """RDMSR and WRMSR of one vCPU."""

    __slots__ = ("_platform", "_vcpu")

    def __init__(self, platform: HvmPlatform, vcpu: Vcpu) -> None:
        self._platform = platform
        self._vcpu = vcpu

    def attach(self, cpu: Cpu) -> None:
        cpu.pass_msrs([])

    def read(self, index: int) -> int | None:
        return None

    def write(self, index: int, value: int) -> bool:
        return False
