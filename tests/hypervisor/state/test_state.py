# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains as plain data: taken down, built again, cloned; and records that make no sense."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hypervisor.support import OPEN, Bench
from xenograft.abi.errno import XenError
from xenograft.abi.event_channel import EVTCHNOP_init_control, evtchn_init_control
from xenograft.abi.memory import XENMAPSPACE_grant_table, XENMAPSPACE_shared_info
from xenograft.abi.vcpu import (
    VCPUOP_register_vcpu_info,
    VCPUOP_set_periodic_timer,
    VCPUOP_set_singleshot_timer,
    vcpu_register_vcpu_info,
    vcpu_set_periodic_timer,
    vcpu_set_singleshot_timer,
)
from xenograft.abi.xen import VIRQ_TIMER, vcpu_info
from xenograft.engine.fake import FakeEngine
from xenograft.hypervisor.grants.host import map_grant
from xenograft.hypervisor.hypervisor import Hypervisor
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.state.capture import capture
from xenograft.hypervisor.state.contents import contents
from xenograft.hypervisor.state.rebuild import clone, rebuild
from xenograft.hypervisor.state.records import DomainState, StateError
from xenograft.hypervisor.time import VirtualClock
from xenograft.toolstack.create import create_control_domain

INFO_GFN = 12
SHARED_GFN = 70
GRANT_GFN = 71
SECOND = 1_000_000_000


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


@pytest.fixture
def bench() -> Bench:
    """A domain that uses a bit of everything, paused at 7 s of system time."""
    bench = Bench(vcpus=2)
    domain = bench.domain
    create_control_domain(bench.xen)
    bench.start(domain.vcpus[1])
    bench.xen.clock.advance_to(7 * SECOND)
    domain.space.write(0x3000, b"contents")
    bench.do("memory_op", 7, _physmap(XENMAPSPACE_shared_info, 0, SHARED_GFN))
    bench.do("memory_op", 7, _physmap(XENMAPSPACE_grant_table, 0, GRANT_GFN))
    info = vcpu_register_vcpu_info(mfn=INFO_GFN, offset=128)
    assert bench.do("vcpu_op", VCPUOP_register_vcpu_info, 0, info) == 0
    at = bench.put(vcpu_set_singleshot_timer(timeout_abs_ns=9 * SECOND))
    assert bench.do("vcpu_op", VCPUOP_set_singleshot_timer, 0, at) == 0
    at = bench.put(vcpu_set_periodic_timer(period_ns=SECOND // 2))
    assert bench.do("vcpu_op", VCPUOP_set_periodic_timer, 1, at, vcpu=1) == 0
    domain.events.bind_virq(VIRQ_TIMER, 0)
    domain.events.alloc_unbound(0)
    domain.watchdogs.set(0, 30)
    domain.grants.seed(5, 0, 3)
    bench.use_callback()
    cpu = bench.cpu()
    cpu.set("rbx", 0x1234)
    domain.pause()
    return bench


def _physmap(space: int, idx: int, gfn: int) -> Any:
    from xenograft.abi.memory import xen_add_to_physmap

    return xen_add_to_physmap(domid=0x7FF0, space=space, idx=idx, gpfn=gfn)


def carried(state: DomainState) -> DomainState:
    """What comes out of a file."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=DomainState)


def comparable(state: DomainState) -> DomainState:
    """Without its identity, and without the page whose time records are written anew."""
    about = msgspec.structs.replace(state.policy.hypervisor, domid=0)
    policy = msgspec.structs.replace(state.policy, hypervisor=about)
    return msgspec.structs.replace(state, name="", uuid=b"", shared_info=b"", policy=policy)


def rest(domain: Any) -> dict[int, bytes]:
    """Memory, but for the page with a vcpu_info, whose time record is written anew."""
    return {gpa: data for gpa, data in contents(domain) if gpa >> 12 != INFO_GFN}


def elsewhere(now: int = 100 * SECOND) -> Hypervisor:
    """Another machine, whose clock stands somewhere else."""
    xen = Hypervisor(FakeEngine({}), frames=1 << 14, clock=VirtualClock(now))
    create_control_domain(xen)
    OPEN.append(xen)  # type: ignore[arg-type]
    return xen


def system_time(domain: Any) -> int:
    """What the guest reads of the time of its first vCPU."""
    maddr = domain.vcpus[0].vcpu_info_maddr
    info = vcpu_info.unpack(domain.memory.read(maddr, vcpu_info.sizeof(64)), 64)
    return int(info.time.system_time)


class TestRoundTrip:
    def test_it_is_the_same_again(self, bench: Bench) -> None:
        state = carried(capture(bench.domain))
        xen = elsewhere()
        domain = rebuild(xen, state, contents(bench.domain), name="again")
        assert domain.name == "again"
        # Nothing has run meanwhile: all is as it was.
        assert comparable(capture(domain)) == comparable(state)
        assert rest(domain) == rest(bench.domain)
        assert domain.space.read(0x3000, 8) == b"contents"

    def test_time_goes_on(self, bench: Bench) -> None:
        domain = rebuild(elsewhere(), carried(capture(bench.domain)), contents(bench.domain))
        assert domain.system_time == 7 * SECOND
        assert system_time(domain) == 7 * SECOND
        clock = domain.hypervisor.clock
        assert domain.vcpus[0].tsc.tsc_at(clock.now()) == bench.domain.vcpus[0].tsc.tsc_at(
            bench.xen.clock.now()
        )
        timer = domain.vcpus[0].singleshot_timer
        assert timer is not None
        assert timer.deadline == clock.now() + 2 * SECOND
        periodic = domain.vcpus[1].periodic_timer
        assert periodic is not None
        assert periodic.deadline == clock.now() + SECOND // 2
        ((_, deadline),) = domain.watchdogs.save()
        assert deadline == clock.now() + 30 * SECOND

    def test_a_timer_is_set_by_the_guests_own_time(self, bench: Bench) -> None:
        xen = elsewhere()
        domain = rebuild(xen, capture(bench.domain), contents(bench.domain))
        other = Bench.__new__(Bench)
        other.xen, other.domain = xen, domain
        at = other.put(vcpu_set_singleshot_timer(timeout_abs_ns=8 * SECOND))
        assert other.do("vcpu_op", VCPUOP_set_singleshot_timer, 0, at) == 0
        timer = domain.vcpus[0].singleshot_timer
        assert timer is not None
        assert timer.deadline == 101 * SECOND

    def test_the_pages_of_the_hypervisor_are_where_they_were(self, bench: Bench) -> None:
        domain = rebuild(elsewhere(), capture(bench.domain), contents(bench.domain))
        shared = domain.p2m.lookup(SHARED_GFN)[0]
        assert shared << 12 == domain.shared_info_maddr
        assert domain.p2m.lookup(GRANT_GFN)[0] == domain.grants.shared.frames[0]
        assert domain.vcpus[0].vcpu_info_maddr == domain.p2m.lookup(INFO_GFN)[0] << 12 | 128
        assert domain.pool.tot_pages == bench.domain.pool.tot_pages

    def test_marks_of_those_who_use_grants_are_left_behind(self, bench: Bench) -> None:
        control = bench.xen.domains[0]
        page = map_grant(control.grants, bench.domain.domid, 5)
        assert bench.domain.grants.shared.flags(5) & 0x18
        xen = elsewhere()
        domain = rebuild(xen, capture(bench.domain), contents(bench.domain))
        assert not domain.grants.shared.flags(5) & 0x18
        assert (
            map_grant(xen.domains[0].grants, domain.domid, 5).maddr >> 12 == domain.p2m.lookup(3)[0]
        )
        page.unmap()

    def test_ports_wait_for_the_control_domain(self, bench: Bench) -> None:
        control = bench.xen.domains[0]
        port = bench.domain.events.alloc_unbound(0)
        control.events.bind_interdomain(bench.domain.domid, port)
        xen = elsewhere()
        domain = rebuild(xen, capture(bench.domain), contents(bench.domain))
        assert xen.domains[0].events.bind_interdomain(domain.domid, port) > 0

    def test_fifo_events(self, bench: Bench) -> None:
        control = evtchn_init_control(control_gfn=20, offset=0, vcpu=0)
        assert bench.do("event_channel_op", EVTCHNOP_init_control, control) == 0
        domain = rebuild(elsewhere(), carried(capture(bench.domain)), contents(bench.domain))
        assert domain.events.abi_name == "fifo"
        assert capture(domain).events == capture(bench.domain).events

    def test_after_a_suspend_all_is_set_up_anew(self, bench: Bench) -> None:
        state = capture(bench.domain)
        domain = rebuild(elsewhere(), state, contents(bench.domain), fresh=True)
        assert domain.events.active == 2
        assert domain.vcpus[0].vcpu_info_mfn is None
        assert domain.p2m.lookup(SHARED_GFN)[0] != domain.shared_info_maddr >> 12
        assert domain.space.read(0x3000, 8) == b"contents"


class TestClone:
    def test_it_goes_on_beside_its_parent(self, bench: Bench) -> None:
        parent = bench.domain
        free = bench.xen.memory.free_frames()
        child = clone(parent, capture(parent), name="child", uuid=bytes(15) + b"c")
        used = free - bench.xen.memory.free_frames()
        # Shared info, a grant frame, and the page that holds a vcpu_info; all else is shared.
        assert used < 6
        assert rest(child) == rest(parent)
        assert child.pool.tot_pages == parent.pool.tot_pages == 64
        child.space.write(0x3000, b"child's.")
        parent.space.write(0x4000, b"parent's")
        assert parent.space.read(0x3000, 8) == b"contents"
        assert child.space.read(0x4000, 8) == bytes(8)
        assert comparable(capture(child)) == comparable(capture(parent))

    def test_it_needs_no_list_of_memory(self, bench: Bench) -> None:
        parent = bench.domain
        state = capture(parent, ram=False)
        assert state.memory.ram == ()
        child = clone(parent, state, name="child", uuid=bytes(16))
        assert comparable(capture(child)) == comparable(capture(parent))

    def test_of_what_is_written_between_two_clones_only_that_is_new(self, bench: Bench) -> None:
        parent = bench.domain
        clone(parent, capture(parent), name="one", uuid=bytes(16))
        parent.space.write(0x4000, b"parent's")
        page = parent.p2m.get_page(5)
        assert page is not None
        child = clone(parent, capture(parent), name="two", uuid=bytes(16))
        parent.space.write(0x4000, b"later...")
        assert child.space.read(0x4000, 8) == b"parent's"
        # Somebody has hold of it: it's the parent's own, and the child has a copy.
        assert page[0] in parent.pool.pages
        assert child.pool.shared is not None
        assert 4 in child.pool.shared
        assert 5 not in child.pool.shared
        assert child.pool.tot_pages == parent.pool.tot_pages == 64
        parent.p2m.frames.put_page(page[0])

    @pytest.mark.parametrize("order", ["parent first", "child first"])
    def test_nothing_is_lost_in_the_end(self, bench: Bench, order: str) -> None:
        xen, parent = bench.xen, bench.domain
        free = xen.memory.free_frames()
        child = clone(parent, capture(parent), name="child", uuid=bytes(16))
        second = clone(child, capture(child), name="grandchild", uuid=bytes(16))
        for domain, at in ((parent, 0x5000), (child, 0x6000), (second, 0x5000)):
            domain.space.write(at, b"written")
        page = child.p2m.get_page(8)
        assert page is not None
        assert page[0] in child.pool.pages
        child.p2m.frames.put_page(page[0])
        second.p2m.guest_remove_page(9)
        first, last = (parent, child) if order == "parent first" else (child, parent)
        xen.destroy_domain(first)
        assert last.space.read(0x3000, 8) == b"contents"
        assert second.space.read(0x5000, 7) == b"written"
        xen.destroy_domain(second)
        if last is parent:
            assert xen.memory.free_frames() == free
        xen.destroy_domain(last)
        assert set(xen.domains) == {0}

    def test_a_clone_keeps_to_its_limit(self, bench: Bench) -> None:
        child = clone(bench.domain, capture(bench.domain), name="child", uuid=bytes(16))
        child.pool.max_pages = child.pool.tot_pages
        with pytest.raises(XenError):
            child.p2m.populate(200)
        child.space.write(0x3000, b"a copy of its own isn't more memory")
        child.p2m.lookup(3)
        assert child.pool.tot_pages == 64

    def test_no_memory_for_copies_is_a_crash_of_the_writer(self, bench: Bench) -> None:
        child = clone(bench.domain, capture(bench.domain), name="child", uuid=bytes(16))
        bench.xen.memory.alloc(0, bench.xen.memory.free_frames())
        child.p2m.fault(3, 1)
        assert child.crash_report is not None
        assert "no memory left" in child.crash_report
        assert bench.domain.crash_report is None


class TestRefused:
    def test_a_running_domain(self, bench: Bench) -> None:
        bench.domain.unpause()
        with pytest.raises(StateError, match="pause it first"):
            capture(bench.domain)

    def test_other_kinds(self) -> None:
        bench = Bench(kind=GuestKind.HVM)
        bench.domain.pause()
        with pytest.raises(StateError, match="only PVH guests"):
            capture(bench.domain)

    def test_pages_of_others(self, bench: Bench) -> None:
        other = bench.add_domain()
        page = other.p2m.get_page(3)
        assert page is not None
        bench.domain.p2m.set_foreign(100, page[0])
        with pytest.raises(StateError, match="pages of other domains"):
            capture(bench.domain)

    def test_too_little_memory(self, bench: Bench) -> None:
        xen = elsewhere()
        xen.memory.alloc(0, xen.memory.free_frames() - 20)
        before = xen.memory.free_frames()
        with pytest.raises(XenError):
            rebuild(xen, capture(bench.domain), contents(bench.domain))
        assert xen.memory.free_frames() == before
        assert set(xen.domains) == {0}

    @pytest.mark.parametrize(
        "change",
        [
            {"kind": "pv"},
            {"bits": 16},
            {"system_time": -1},
            {"system_time": 1 << 63},
            {"vcpus": ()},
            {"shared_info": b"short"},
        ],
    )
    def test_impossible_domains(self, bench: Bench, change: dict[str, Any]) -> None:
        state = msgspec.structs.replace(capture(bench.domain), **change)
        with pytest.raises(StateError):
            rebuild(elsewhere(), state, [])


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all numbers and bytes in plain data."""
    if isinstance(value, dict):
        for key in value:
            yield from _places(value[key], (*path, key))
    elif isinstance(value, list | tuple):
        for index, one in enumerate(value):
            yield from _places(one, (*path, index))
    elif isinstance(value, int | bytes):
        yield path


STRANGE = st.one_of(
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.sampled_from([0, 1, 2, 63, 64, 255, 4095, 4096, (1 << 36) - 1, 1 << 36]),
    st.binary(max_size=5000),
    st.none(),
    st.lists(st.integers(0, 100), max_size=4),
)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_damaged_record_changes_nothing(data: st.DataObject) -> None:
    """Whatever stands in a record: a domain that can be destroyed, or one of two errors."""
    bench = Bench(vcpus=2)
    try:
        bench.domain.pause()
        plain = msgspec.msgpack.decode(msgspec.msgpack.encode(capture(bench.domain)))
        places = list(_places(plain))
        for _ in range(data.draw(st.integers(1, 3))):
            *way, last = data.draw(st.sampled_from(places))
            home = plain
            for step in way:
                home = home[step]
            home[last] = data.draw(STRANGE)
        xen = bench.xen
        free, domids = xen.memory.free_frames(), set(xen.domains)
        try:
            state = msgspec.convert(plain, DomainState, strict=True)
        except msgspec.ValidationError:
            return
        except TypeError:
            return
        try:
            domain = rebuild(xen, state, contents(bench.domain))
        except (StateError, XenError):
            pass
        else:
            xen.destroy_domain(domain)
        assert xen.memory.free_frames() == free
        assert set(xen.domains) == domids
    finally:
        bench.close()
        OPEN.remove(bench)
