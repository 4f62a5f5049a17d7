# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine on the fake engine and the virtual clock, for tests of the hypervisor core."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeVar

from xenograft.abi.errno import Errno
from xenograft.abi.hvm.params import HVM_PARAM_CALLBACK_TYPE_VECTOR
from xenograft.abi.struct import Struct
from xenograft.abi.xen import HYPERCALLS
from xenograft.arch.x86.pvh import pvh_entry
from xenograft.engine.fake import Answer, FakeCpu, FakeEngine, Script, hypercall
from xenograft.engine.protocol import Exit
from xenograft.hypervisor.call import Call, HostAccess
from xenograft.hypervisor.domain import Domain
from xenograft.hypervisor.hvm.callback import set_callback_via
from xenograft.hypervisor.hypervisor import Hypervisor
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.loop import Loop, Stop
from xenograft.hypervisor.time import VirtualClock
from xenograft.hypervisor.vcpu import Vcpu

NUMBERS = {name: number for number, name in HYPERCALLS.items()}
MASK64 = (1 << 64) - 1
PAGES = 64
ARG = 0x8000
"""Where the tests' guests keep the arguments of their hypercalls."""
IF = 1 << 9

S = TypeVar("S", bound=Struct)
Guest = Generator[Exit, Answer, None]


OPEN: list[Bench] = []
"""The benches of the test under way; the fixture in conftest.py closes them."""


class Bench:
    """One machine with one PVH domain (domid 1); scripts play its vCPUs."""

    def __init__(
        self,
        *scripts: Script,
        vcpus: int | None = None,
        kind: GuestKind = GuestKind.PVH,
        privileged: bool = False,
        **more: Any,
    ) -> None:
        self.engine = FakeEngine(dict(enumerate(scripts)))
        self.xen = Hypervisor(self.engine, frames=1 << 14, clock=VirtualClock(), **more)
        self.loop = Loop(self.xen)
        self.domain = self.add_domain(vcpus or max(len(scripts), 1), kind, privileged)
        for vcpu in self.domain.vcpus[: max(len(scripts), 1)]:
            self.start(vcpu)
        self.domain.unpause()
        OPEN.append(self)

    def close(self) -> None:
        self.xen.close()

    def add_domain(
        self, vcpus: int = 1, kind: GuestKind = GuestKind.PVH, privileged: bool = False
    ) -> Domain:
        domain = self.xen.create_domain(
            kind, max_vcpus=vcpus, max_pages=4 * PAGES, is_privileged=privileged
        )
        domain.p2m.populate(0, PAGES)
        return domain

    def start(self, vcpu: Vcpu) -> None:
        vcpu.domain.arch.start(vcpu, pvh_entry(0x1000, 0))
        vcpu.bring_up()
        assert isinstance(vcpu.cpu, FakeCpu)
        vcpu.cpu.on_interrupt = self.take_upcall

    def use_callback(self, vector: int = 0xF3) -> None:
        """Have events delivered as a vector, as HVM_PARAM_CALLBACK_IRQ does."""
        set_callback_via(self.domain, HVM_PARAM_CALLBACK_TYPE_VECTOR << 56 | vector)

    def take_upcall(self, cpu: FakeCpu, _vector: int) -> None:
        """The least that a guest's handler does: clear evtchn_upcall_pending."""
        maddr = self.domain.vcpus[cpu.index].vcpu_info_maddr
        if maddr is not None:
            self.xen.memory.write(maddr, b"\0")

    def cpu(self, index: int = 0) -> FakeCpu:
        cpu = self.domain.vcpus[index].cpu
        assert isinstance(cpu, FakeCpu)
        return cpu

    def run(self, until: Callable[[], bool] | None = None, deadline: int | None = 10**12) -> Stop:
        """Run until the domain has shut down (or `until`)."""
        return self.loop.run(until or (lambda: self.domain.is_shutting_down), deadline)

    @property
    def now(self) -> int:
        return self.xen.clock.now()

    # -- hypercalls made directly, as vCPU 0 of the domain ----------------------------------------
    def call(self, vcpu: int | None = 0, bits: int = 64, domain: Domain | None = None) -> Call:
        """A call of the domain's vCPU, or of a caller in the host (vcpu None)."""
        target = domain or self.domain
        if vcpu is None:
            return Call(self.xen, target, None, HostAccess(), bits)
        one = target.vcpus[vcpu]
        if one.call is None:
            target.arch.make_cpu(one)
        assert one.call is not None
        one.call.bits = bits
        return one.call

    def do(
        self,
        name: str,
        *args: int | Struct,
        vcpu: int = 0,
        bits: int = 64,
        domain: Domain | None = None,
    ) -> int:
        """A hypercall by name; a structure is put at ARG, and its address passed."""
        call = self.call(vcpu, bits, domain)
        values = tuple(
            self.put(arg, bits, domain) if isinstance(arg, Struct) else arg for arg in args
        )
        return self.xen.dispatch(call, NUMBERS[name], (*values, 0, 0, 0, 0, 0)[:6])

    def put(self, arg: Struct, bits: int = 64, domain: Domain | None = None, at: int = ARG) -> int:
        (domain or self.domain).space.write(at, arg.pack(bits))
        return at

    def got(self, cls: type[S], bits: int = 64, at: int = ARG) -> S:
        """The structure that the guest finds at ARG."""
        return cls.unpack(self.domain.space.read(at, cls.sizeof(bits)), bits)


def errno(result: int) -> Errno | int:
    """A hypercall's result as an Errno if it's one."""
    return Errno(-result) if result < 0 else result


def op(name: str, *args: int) -> Exit:
    """A hypercall exit by name."""
    return hypercall(NUMBERS[name], *args)


def returned(cpu: FakeCpu) -> list[int]:
    """The results of all hypercalls that the script made, signed."""
    results = []
    for exit_, answer in cpu.answers:
        if exit_[0] == 2 and answer.kind == "complete":
            value = answer.values[0]
            results.append(value - (1 << 64) if value >> 63 else value)
    return results
