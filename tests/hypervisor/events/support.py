# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine of stand-ins: domains with a shared_info frame and vCPUs that count upcalls."""

from __future__ import annotations

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.xen import shared_info, vcpu_info
from xenograft.engine.fake import FakeMemory, FakeSpace
from xenograft.hypervisor.events.channels import EventChannels
from xenograft.hypervisor.events.pirq import Pirqs
from xenograft.hypervisor.faults import FaultPoints
from xenograft.hypervisor.instruments import Instruments
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.memory.frames import FrameTable
from xenograft.hypervisor.memory.p2m import P2m
from xenograft.hypervisor.time import VirtualClock

PAGE = 4096


class Machine:
    """The part of the hypervisor that event channels see."""

    def __init__(self, frames: int = 512) -> None:
        self.memory = FakeMemory(frames)
        self.frames = FrameTable(self.memory)
        self.clock = VirtualClock()
        self.instruments = Instruments()
        self.faults = FaultPoints()
        self.domains: dict[int, Domain] = {}

    def domain(self, domid: int, **options: object) -> Domain:
        domain = Domain(self, domid, **options)  # type: ignore[arg-type]
        self.domains[domid] = domain
        return domain

    def resolve_domid(self, call: object, domid: int) -> Domain:
        if domid == 0x7FF0:
            return call.domain  # type: ignore[attr-defined, no-any-return]
        if domid not in self.domains:
            raise XenError(Errno.ESRCH)
        return self.domains[domid]


class Vcpu:
    """Counts upcalls as H/W would take them: only when upcall_pending goes from 0 to 1."""

    def __init__(self, domain: Domain, vcpu_id: int) -> None:
        self.domain = domain
        self.vcpu_id = vcpu_id
        self.poll_ports: tuple[int, ...] | None = None
        self.vcpu_info_maddr: int | None = None
        if vcpu_id < 32:
            self.vcpu_info_maddr = domain.shared_info_maddr + vcpu_id * vcpu_info.sizeof()
        self.upcalls = 0
        self.unblocked = 0

    def mark_events_pending(self) -> None:
        assert self.vcpu_info_maddr is not None
        if not self.domain.memory.test_and_set_bit(self.vcpu_info_maddr, 0):
            self.upcalls += 1

    def unblock(self) -> None:
        self.poll_ports = None
        self.unblocked += 1

    # -- what a guest does ------------------------------------------------------------------
    def take_upcall(self) -> bool:
        """Clear upcall_pending; whether it was set."""
        assert self.vcpu_info_maddr is not None
        return self.domain.memory.test_and_clear_bit(self.vcpu_info_maddr, 0)


class Domain:
    def __init__(
        self,
        machine: Machine,
        domid: int,
        *,
        vcpus: int = 1,
        bits: int = 64,
        kind: GuestKind = GuestKind.PVH,
        max_port: int = 1 << 20,
        host: bool = False,
        pirqs: Pirqs | None = None,
        is_privileged: bool = False,
    ) -> None:
        self.hypervisor = machine
        self.memory = machine.memory
        pool = machine.frames.add_pool(domid, max_pages=1 << 20)
        self.p2m = P2m(
            machine.frames,
            pool,
            FakeSpace(machine.memory),
            translated=kind is not GuestKind.PV,
        )
        self.domid = domid
        self.kind = kind
        self.bits = bits
        self.dying = False
        self.is_privileged = is_privileged
        self.is_xenstore = False
        self.target = None
        self.pause_count = 0
        self.shared_info_maddr = self.new_frame() << 12
        self.vcpus = [Vcpu(self, i) for i in range(vcpus)]
        self.events = EventChannels(self, max_port=max_port, host=host, pirqs=pirqs)

    def new_frame(self) -> int:
        [(mfn, _)] = self.p2m.frames.alloc(self.p2m.pool, 1)
        return mfn

    def new_page(self, gfn: int) -> int:
        """Put a fresh page at gfn; returns its mfn."""
        mfn = self.new_frame()
        self.p2m.add_page(gfn, mfn)
        return mfn

    # -- 2-level state as the guest sees it ---------------------------------------------------
    def _bitmap(self, name: str) -> set[int]:
        maddr = self.shared_info_maddr + shared_info.offsetof(name, self.bits)
        value = int.from_bytes(self.memory.read(maddr, self.bits * self.bits // 8), "little")
        return bits_of(value)

    def pending_bits(self) -> set[int]:
        return self._bitmap("evtchn_pending")

    def mask_bits(self) -> set[int]:
        return self._bitmap("evtchn_mask")

    def set_mask(self, port: int, masked: bool = True) -> None:
        maddr = self.shared_info_maddr + shared_info.offsetof("evtchn_mask", self.bits)
        if masked:
            self.memory.test_and_set_bit(maddr, port)
        else:
            self.memory.test_and_clear_bit(maddr, port)

    def selector(self, vcpu_id: int = 0) -> int:
        maddr = self.vcpus[vcpu_id].vcpu_info_maddr
        assert maddr is not None
        offset = vcpu_info.offsetof("evtchn_pending_sel", self.bits)
        return int.from_bytes(self.memory.read(maddr + offset, self.bits // 8), "little")

    def clear_selector(self, vcpu_id: int = 0) -> None:
        maddr = self.vcpus[vcpu_id].vcpu_info_maddr
        assert maddr is not None
        offset = vcpu_info.offsetof("evtchn_pending_sel", self.bits)
        self.memory.write(maddr + offset, bytes(self.bits // 8))

    def clear_pending(self, port: int) -> bool:
        maddr = self.shared_info_maddr + shared_info.offsetof("evtchn_pending", self.bits)
        return self.memory.test_and_clear_bit(maddr, port)


def bits_of(value: int) -> set[int]:
    """The numbers of the bits set."""
    found = set()
    while value:
        found.add((value & -value).bit_length() - 1)
        value &= value - 1
    return found


def connect(a: Domain, b: Domain) -> tuple[int, int]:
    """An interdomain channel; b's end starts pending, which is cleared. Returns both ports."""
    port_a = a.events.alloc_unbound(b.domid)
    port_b = b.events.bind_interdomain(a.domid, port_a)
    return port_a, port_b


def errno_of(call: object, *args: object) -> Errno | None:
    """The errno with which call(*args) fails, or None."""
    try:
        call(*args)  # type: ignore[operator]
    except XenError as error:
        return error.errno
    return None
