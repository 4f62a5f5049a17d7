# SPDX-License-Identifier: GPL-2.0-or-later
"""A PV domain on the fake engine, and its hypercalls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from xenograft.abi.struct import Struct
from xenograft.abi.xen import HYPERCALLS
from xenograft.arch.x86.pv import kernel_state
from xenograft.engine.fake import FakeCpu, FakeEngine
from xenograft.engine.fake_pv import FakePvPages
from xenograft.hypervisor.call import Call, HostAccess
from xenograft.hypervisor.domain import Domain
from xenograft.hypervisor.hypervisor import Hypervisor
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.pv.platform import PvPlatform
from xenograft.hypervisor.time import VirtualClock

NUMBERS = {name: number for number, name in HYPERCALLS.items()}


class PvGuest:
    """Domain 1 with its first vCPU; `call` makes hypercalls with arguments in host memory."""

    def __init__(self, bits: int = 64, vcpus: int = 1, privileged: bool = False) -> None:
        self.bits = bits
        self.engine = FakeEngine()
        self.xen = Hypervisor(self.engine, frames=1 << 13, clock=VirtualClock())
        self.domain: Domain = self.xen.create_domain(
            GuestKind.PV, max_vcpus=vcpus, max_pages=64, is_privileged=privileged
        )
        assert isinstance(self.domain.arch, PvPlatform)
        self.platform = self.domain.arch
        if bits == 32:
            self.platform.set_width(32)
        self.frames = [mfn for mfn, _ in (self.domain.p2m.populate(pfn)[0] for pfn in range(16))]
        state = kernel_state(0, bits, entry=0x1000, stack=0x2000, start_info=0)
        self.platform.start(self.domain.vcpus[0], state)
        self.memory = HostAccess()
        self.hypercall = Call(self.xen, self.domain, self.domain.vcpus[0], self.memory, bits)

    @property
    def cpu(self) -> FakeCpu:
        cpu = self.domain.vcpus[0].cpu
        assert isinstance(cpu, FakeCpu)
        return cpu

    @property
    def pages(self) -> FakePvPages:
        assert isinstance(self.platform.pages, FakePvPages)
        return self.platform.pages

    def put(self, *values: Struct | bytes) -> int:
        data = b"".join(v if isinstance(v, bytes) else v.pack(self.bits) for v in values)
        return self.memory.put(data.ljust(8, b"\0"))

    def call(self, name: str, *args: int) -> int:
        padded = (*args, 0, 0, 0, 0, 0, 0)[:6]
        return self.xen.dispatch(self.hypercall, NUMBERS[name], padded)

    def close(self) -> None:
        self.xen.close()


@contextmanager
def pv_guest(bits: int = 64, vcpus: int = 1, privileged: bool = False) -> Iterator[PvGuest]:
    made = PvGuest(bits, vcpus, privileged)
    try:
        yield made
    finally:
        made.close()
