# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine with a PV guest that has suspended itself, without ever having run."""

from __future__ import annotations

import struct
from typing import Any, Literal, cast

import msgspec

from tests.toolstack.build.support import elf, note
from xenograft.abi.sched import SHUTDOWN_suspend
from xenograft.abi.xen import shared_info, start_info
from xenograft.arch.x86.pv import frame_cr3
from xenograft.engine.unicorn import UnicornEngine
from xenograft.hypervisor.domain import Domain
from xenograft.hypervisor.hypervisor import Hypervisor
from xenograft.hypervisor.state.pv import PvDomainState
from xenograft.hypervisor.time import VirtualClock
from xenograft.toolstack.build.pv import PvPlan, build_pv
from xenograft.toolstack.create import create_control_domain, create_pv_domain

BASE = 0x100000
SECOND = 1_000_000_000
UPPER, LOWER = 0x20, 0x21
"""Pages that the guest has for the list of lists of its frames, and for its first list."""
Form = Literal["address", "tree"]


class World:
    """The guest tells where the list of its frames is in one of two forms."""

    def __init__(
        self, bits: int = 64, form: Form = "address", base: int = 0, p2m_base: int | None = None
    ) -> None:
        """`base`: the address of its first page; `p2m_base`: of the list, below that."""
        self.bits, self.form = bits, form
        self.xen = Hypervisor(UnicornEngine(), frames=1 << 14, clock=VirtualClock(5 * SECOND))
        create_control_domain(self.xen)
        notes = [note(8, "generic"), note(5, "xen-3.0"), note(9, "yes")]
        notes += [note(3, base, 8), note(1, base + BASE, 8)]
        if p2m_base is not None:
            notes.append(note(15, p2m_base, 8))
        image = elf([(BASE, b"\xf4" * 64, 0x2000)], notes, bits=bits)
        memory = (4 if p2m_base is None else 6) << 20 | 0x4000
        self.plan: PvPlan = build_pv(image, memory=memory, vcpus=2)
        self.guest: Domain = create_pv_domain(self.xen, self.plan, name="pv")
        self.memory = cast(Any, self.xen.memory)
        self.mfns = self.mfns_of(self.guest)
        self.suspend(self.guest)

    def mfns_of(self, domain: Domain) -> dict[int, int]:
        """The frame of each page of a domain."""
        return {self.memory.m2p(mfn): mfn for mfn in domain.pool.pages}

    def suspend(self, domain: Domain) -> None:
        """Do what a guest does before it calls SHUTDOWN_suspend, and that."""
        mfns = self.mfns_of(domain)
        at = mfns[self.plan.start_info] << 12
        info = start_info.unpack(self.memory.read(at, 4096), self.bits)
        info.store_mfn, info.console.domU.mfn = self.plan.xenstore, self.plan.console
        self.memory.write(at, info.pack(self.bits))
        self.tell(domain)
        cpu = domain.vcpus[0].cpu
        assert cpu is not None
        cpu.set("rdx", mfns[self.plan.start_info])
        domain.unpause()
        domain.shutdown(SHUTDOWN_suspend)

    def tell(self, domain: Domain) -> None:
        """Have a domain tell where the list of its frames is."""
        mfns = self.mfns_of(domain)
        self.set_arch(domain, max_pfn=self.plan.pages)
        if self.form == "tree":
            for index in range(self.plan.p2m.pages):
                self.put_word(mfns[LOWER], index, mfns[self.plan.p2m.pfn + index])
            self.put_word(mfns[UPPER], 0, mfns[LOWER])
            self.set_arch(domain, pfn_to_mfn_frame_list_list=mfns[UPPER])
        else:
            root = frame_cr3(mfns[self.plan.root], self.bits)
            self.set_arch(domain, p2m_vaddr=self.plan.p2m.start, p2m_cr3=root)

    def put_word(self, mfn: int, index: int, value: int) -> None:
        """A word of the guest's in one of its pages."""
        size = self.bits // 8
        data = struct.pack("<Q" if self.bits == 64 else "<I", value)
        self.memory.write((mfn << 12) + index * size, data)

    def set_arch(self, domain: Domain, **values: int) -> None:
        """Set members of shared_info.arch."""
        at = domain.shared_info_maddr
        shared = shared_info.unpack(self.memory.read(at, 4096), self.bits)
        for name, value in values.items():
            setattr(shared.arch, name, value)
        self.memory.write(at, shared.pack(self.bits))

    def arch(self, domain: Domain) -> Any:
        """shared_info.arch."""
        page = self.memory.read(domain.shared_info_maddr, 4096)
        return shared_info.unpack(page, self.bits).arch

    def close(self) -> None:
        self.xen.close()


def carried(state: PvDomainState) -> PvDomainState:
    """A state as it comes out of a file."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=PvDomainState)
