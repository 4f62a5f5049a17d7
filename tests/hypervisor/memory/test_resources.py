# SPDX-License-Identifier: GPL-2.0-or-later
"""XENMEM_acquire_resource: grant frames, status frames and the ioreq page, by their numbers."""

from __future__ import annotations

from tests.hypervisor.memory.world import Caller, Dom, World
from xenograft.abi import memory as abi
from xenograft.abi.errno import Errno
from xenograft.abi.memory import (
    MEMOP_EXTENT_SHIFT,
)
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.memory.frames import INVALID_GFN


def test_resources(world: World, guest: Caller, dom: Dom) -> None:
    def acquire(caller: Caller, **fields: int) -> tuple[int, abi.xen_mem_acquire_resource]:
        request = abi.xen_mem_acquire_resource(**({"domid": 1} | fields))
        return caller.memory_op(abi.XENMEM_acquire_resource, request), request

    grant_table = abi.XENMEM_resource_grant_table
    dom0 = Caller(world, world.domain(0, pages=1, privileged=True))
    assert acquire(guest, domid=0)[0] == -Errno.EACCES
    assert acquire(dom0, domid=0)[0] == -Errno.EPERM
    assert acquire(dom0, domid=9)[0] == -Errno.ESRCH
    for bad in ({"pad": 1}, {"frame": 1 << 32}, {"frame": (1 << 32) - 1, "nr_frames": 1}):
        assert acquire(dom0, type=grant_table, **bad)[0] == -Errno.EINVAL
    result, request = acquire(dom0, type=grant_table)
    assert (result, request.nr_frames) == (0, 64)
    result, request = acquire(dom0, type=grant_table, id=1)
    assert (result, request.nr_frames) == (0, 8)
    assert acquire(dom0, type=grant_table, id=7)[0] == -Errno.EINVAL
    assert acquire(dom0, type=grant_table, nr_frames=1)[0] == -Errno.EINVAL
    result, request = acquire(dom0, type=abi.XENMEM_resource_ioreq_server)
    assert (result, request.nr_frames) == (0, 2)
    gfns = dom0.frames([500, 501, 502])
    more = {"nr_frames": 3, "frame_list": gfns}
    assert acquire(dom0, type=0, **more)[0] == -Errno.ENOENT
    assert acquire(dom0, type=2, **more)[0] == -Errno.EINVAL
    assert acquire(dom0, type=9, **more)[0] == -Errno.EOPNOTSUPP
    assert acquire(dom0, type=grant_table, **more)[0] == 0
    assert dom.grants.nr_frames == 3
    assert [dom0.dom.p2m.lookup(500 + i)[0] for i in range(3)] == dom.grants.shared.frames
    assert acquire(dom0, type=grant_table, frame=63, **more)[0] == -Errno.EINVAL
    assert dom.p2m.frames.gfn_of(dom.grants.shared.frames[0]) == INVALID_GFN
    # all 64 take more than one step
    gfns = dom0.frames(list(range(600, 664)))
    assert acquire(dom0, type=grant_table, nr_frames=64, frame_list=gfns)[0] == 0
    assert dom0.continued == 1
    assert dom0.dom.p2m.lookup(663)[0] == dom.grants.shared.frames[63]


def test_resources_land_at_bad_places(world: World, dom: Dom) -> None:
    dom0 = Caller(world, world.domain(0, pages=2, privileged=True))

    def acquire(gfns: list[int]) -> int:
        request = abi.xen_mem_acquire_resource(
            domid=1, type=1, nr_frames=len(gfns), frame_list=dom0.frames(gfns)
        )
        return dom0.memory_op(abi.XENMEM_acquire_resource, request)

    assert acquire([1 << 40]) == -Errno.EINVAL
    assert acquire([500, 1 << 40]) == -Errno.EIO
    assert dom0.dom.p2m.lookup(500)[0] == dom.grants.shared.frames[0]


def test_status_frames_as_a_resource(world: World, dom: Dom) -> None:
    dom0 = Caller(world, world.domain(0, pages=2, privileged=True))
    request = abi.xen_mem_acquire_resource(
        domid=1, type=1, id=1, nr_frames=2, frame_list=dom0.frames([500, 501])
    )
    assert dom0.memory_op(abi.XENMEM_acquire_resource, request) == -Errno.EINVAL
    dom.grants.set_version(2)
    assert dom0.memory_op(abi.XENMEM_acquire_resource, request) == 0
    assert dom0.dom.p2m.lookup(501)[0] == dom.grants.shared.status[1]
    request.id = 9
    assert dom0.memory_op(abi.XENMEM_acquire_resource, request) == -Errno.EINVAL


def test_the_ioreq_resource_is_for_hvm_type_domains(world: World) -> None:
    world.domain(2, GuestKind.PV)
    dom0 = Caller(world, world.domain(0, privileged=True))
    request = abi.xen_mem_acquire_resource(domid=2, type=abi.XENMEM_resource_ioreq_server)
    assert dom0.memory_op(abi.XENMEM_acquire_resource, request) == -Errno.EINVAL
    too_far = abi.XENMEM_acquire_resource | 5 << MEMOP_EXTENT_SHIFT
    request = abi.xen_mem_acquire_resource(domid=2, type=1, nr_frames=3, frame_list=8)
    assert dom0.memory_op(too_far, request) == -Errno.EINVAL


def test_unknown_resources_look_large(world: World) -> None:
    """As in Xen 4.17, which takes the error for a number of frames."""
    world.domain(2)
    dom0 = Caller(world, world.domain(0, privileged=True))
    request = abi.xen_mem_acquire_resource(domid=2, type=9)
    assert dom0.memory_op(abi.XENMEM_acquire_resource, request) == 0
    assert request.nr_frames == (1 << 32) - Errno.EOPNOTSUPP


def test_resources_for_a_pv_domain_come_as_mfns(world: World, dom: Dom) -> None:
    dom0 = Caller(world, world.domain(0, GuestKind.PV, privileged=True))
    frames = dom0.frames([0, 0])
    request = abi.xen_mem_acquire_resource(domid=1, type=1, nr_frames=2, frame_list=frames)
    assert dom0.memory_op(abi.XENMEM_acquire_resource, request) == 0
    assert dom0.ints(frames, 2) == dom.grants.shared.frames
