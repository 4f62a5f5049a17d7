# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory and grants through the front door of a whole hypervisor, on every engine there is."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest

from xenograft.abi.errno import Errno
from xenograft.abi.grant_table import (
    GNTTAB_RESERVED_CONSOLE,
    GNTMAP_host_map,
    GNTST_okay,
    GNTTABOP_map_grant_ref,
    gnttab_map_grant_ref,
)
from xenograft.abi.memory import (
    XENMEM_current_reservation,
    XENMEM_decrease_reservation,
    XENMEM_populate_physmap,
    xen_memory_domain,
    xen_memory_reservation,
)
from xenograft.abi.xen import __HYPERVISOR_grant_table_op as GRANT_TABLE_OP
from xenograft.abi.xen import __HYPERVISOR_memory_op as MEMORY_OP
from xenograft.engine.fake import FakeEngine
from xenograft.engine.protocol import Engine
from xenograft.hypervisor.call import Continuation, HostAccess
from xenograft.hypervisor.domain import Domain
from xenograft.hypervisor.grants.host import map_grant
from xenograft.hypervisor.hypervisor import Hypervisor
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.memory.limits import BUDGET
from xenograft.hypervisor.time import VirtualClock


@pytest.fixture(params=["fake", "unicorn"])
def machine(request: pytest.FixtureRequest) -> Iterator[Hypervisor]:
    engine: Engine = FakeEngine()
    if request.param == "unicorn":
        try:
            module = importlib.import_module("xenograft.engine.unicorn")
        except ImportError as error:
            pytest.skip(f"the native engine isn't built: {error}")
        engine = module.UnicornEngine()
    hypervisor = Hypervisor(engine, frames=8192, clock=VirtualClock())
    free = hypervisor.memory.free_frames()
    yield hypervisor
    for domain in list(hypervisor.domains.values()):
        hypervisor.destroy_domain(domain)
    assert hypervisor.domains == {}
    assert hypervisor.memory.free_frames() == free
    hypervisor.close()


@pytest.fixture
def control(machine: Hypervisor) -> Domain:
    return machine.create_domain(
        GuestKind.PVH, domid=0, is_privileged=True, max_vcpus=0, max_pages=0, host=True
    )


@pytest.fixture
def guest(machine: Hypervisor, control: Domain) -> Domain:
    """A guest of 16 MiB, built by hypercalls of the control domain."""
    domain = machine.create_domain(GuestKind.PVH, max_pages=4096)
    memory = HostAccess()
    gfns = memory.put(b"".join((i * 512).to_bytes(8, "little") for i in range(8)))
    request = xen_memory_reservation(
        extent_start=gfns, nr_extents=8, extent_order=9, domid=domain.domid
    )
    args = (XENMEM_populate_physmap, memory.put(request.pack()))
    assert machine.host_call(control, MEMORY_OP, *args, memory=memory) == 8
    return domain


def ask(machine: Hypervisor, caller: Domain, domid: int) -> int:
    memory = HostAccess()
    addr = memory.put(xen_memory_domain(domid=domid).pack())
    return machine.host_call(caller, MEMORY_OP, XENMEM_current_reservation, addr, memory=memory)


def test_the_control_domain_builds_a_guest(
    machine: Hypervisor, control: Domain, guest: Domain
) -> None:
    assert ask(machine, control, guest.domid) == 4096
    assert ask(machine, guest, 0) == -Errno.EPERM
    guest.space.write(4095 << 12, b"the last page")
    assert guest.space.read(4095 << 12, 13) == b"the last page"


def test_long_lists_come_to_their_end(machine: Hypervisor, control: Domain, guest: Domain) -> None:
    memory = HostAccess()
    gfns = memory.put(b"".join(i.to_bytes(8, "little") for i in range(1000)))
    request = xen_memory_reservation(extent_start=gfns, nr_extents=1000, domid=guest.domid)
    args: tuple[int, ...] = (XENMEM_decrease_reservation, memory.put(request.pack()))
    steps = 0
    while True:
        try:
            result = machine.host_call(control, MEMORY_OP, *args, memory=memory)
            break
        except Continuation as more:
            number, args, steps = more.number, more.arguments, steps + 1
        assert number == MEMORY_OP
    assert (result, steps) == (1000, 999 // BUDGET)
    assert ask(machine, control, guest.domid) == 3096


def test_a_back_end_and_a_guest_share_a_page(
    machine: Hypervisor, control: Domain, guest: Domain
) -> None:
    guest.grants.seed_reserved((0, 100), None)
    ring = map_grant(control.grants, guest.domid, GNTTAB_RESERVED_CONSOLE)
    guest.space.write(100 << 12, b"hello, back end")
    assert ring.read(0, 15) == b"hello, back end"
    other = machine.create_domain(GuestKind.PVH, max_pages=16)
    guest.grants.seed(9, other.domid, 200)
    memory = HostAccess()
    op = gnttab_map_grant_ref(host_addr=5 << 12, flags=GNTMAP_host_map, ref=9, dom=guest.domid)
    addr = memory.put(op.pack())
    args = (GNTTABOP_map_grant_ref, addr, 1)
    assert machine.host_call(other, GRANT_TABLE_OP, *args, memory=memory) == 0
    op = gnttab_map_grant_ref.unpack(memory.read(addr, gnttab_map_grant_ref.sizeof()))
    assert op.status == GNTST_okay
    other.space.write(5 << 12, b"from the other")
    assert guest.space.read(200 << 12, 14) == b"from the other"
    # the guest dies: both pages stay until their users let go
    machine.destroy_domain(guest)
    assert guest.domid in machine.domains
    assert guest.pool.tot_pages == 2
    assert other.space.read(5 << 12, 14) == b"from the other"
    machine.destroy_domain(other)
    assert guest.pool.tot_pages == 1
    ring.unmap()
    assert guest.domid not in machine.domains
