# SPDX-License-Identifier: GPL-2.0-or-later
"""PV domains as plain data: what is translated, and records that make no sense."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("xenograft.engine.unicorn")

from tests.hypervisor.pv.audit import Audit
from tests.hypervisor.state.pv_world import BASE, SECOND, World, carried
from tests.hypervisor.state.test_state import STRANGE, _places
from xenograft.abi.arch_x86.xen import vcpu_guest_context_32
from xenograft.abi.errno import XenError
from xenograft.abi.hvm import params
from xenograft.abi.xen import shared_info, start_info
from xenograft.arch.x86.pv import cr3_frame
from xenograft.engine.unicorn import UnicornEngine
from xenograft.hypervisor.hypervisor import Hypervisor
from xenograft.hypervisor.pv.context import get_context, set_context
from xenograft.hypervisor.pv.tables import l1_entry
from xenograft.hypervisor.state.pv import (
    PvDomainState,
    capture_pv,
    contents_pv,
    narrow_or_wide,
)
from xenograft.hypervisor.state.rebuild_pv import rebuild_pv
from xenograft.hypervisor.state.records import StateError
from xenograft.hypervisor.time import VirtualClock
from xenograft.toolstack.create import create_control_domain

GDT = 1025
"""A page that nothing maps: it may hold descriptors."""
WORDS = st.sampled_from([0, 1, 8, 0xE008, 0xE033, 0x1000, 1 << 47, (1 << 64) - 1]) | st.integers(
    0, (1 << 64) - 1
)


@pytest.fixture(params=[64, 32])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(request.param)
    yield made
    made.close()


def test_frames_have_other_numbers_and_pages_the_same(world: World) -> None:
    state = carried(capture_pv(world.guest))
    pages = list(contents_pv(world.guest))
    again = rebuild_pv(world.xen, state, pages, name="again")
    Audit(again).check()
    mfns = {world.memory.m2p(mfn): mfn for mfn in again.pool.pages}
    assert mfns.keys() == world.mfns.keys()
    assert not set(mfns.values()) & set(world.mfns.values())
    # The list of its frames, and a mapping, name the new ones.
    word = world.bits // 8
    at = (mfns[world.plan.p2m.pfn] << 12) + word * 100
    assert int.from_bytes(world.memory.read(at, word), "little") == mfns[100]
    entry = l1_entry(again.vcpus[0], BASE)
    assert entry is not None
    assert world.memory.read_u64(entry) >> 12 & 0xFFFFFFFF == mfns[BASE >> 12]
    info = start_info.unpack(world.memory.read(mfns[world.plan.start_info] << 12, 4096), world.bits)
    assert info.shared_info == again.shared_info_maddr
    assert info.console.domU.mfn == mfns[world.plan.console]
    assert again.hvm_params[params.HVM_PARAM_CONSOLE_PFN] == mfns[world.plan.console]
    assert info.store_evtchn == again.hvm_params[params.HVM_PARAM_STORE_EVTCHN]
    # What the call that has suspended it was given is the frame that the page has now.
    assert cast(Any, again.vcpus[0].cpu).get("rdx") == mfns[world.plan.start_info]
    # And nothing else differs.
    world.suspend(again)
    twice = capture_pv(again)
    for name in ("pages", "tables", "p2m_list", "start_info", "vm_assist"):
        assert getattr(twice, name) == getattr(state, name)
    # (Selectors of code have been given the guest's privilege by now.)
    third = rebuild_pv(world.xen, twice, contents_pv(again))
    world.suspend(third)
    contexts = [vcpu and vcpu.context for vcpu in twice.vcpus]
    assert [vcpu and vcpu.context for vcpu in capture_pv(third).vcpus] == contexts


def test_further_vcpus_have_tables_of_the_guests_too(world: World) -> None:
    first, second = world.guest.vcpus
    context = get_context(first)
    narrow = isinstance(context, vcpu_guest_context_32)
    setattr(context.user_regs, "edx" if narrow else "rdx", 1234)
    context.gdt_frames[0], context.gdt_ents = world.mfns[GDT], 512
    set_context(second, context)
    state = carried(capture_pv(world.guest))
    assert state.vcpus[1] is not None
    saved = narrow_or_wide(world.bits).unpack(state.vcpus[1].context, world.bits)
    assert cr3_frame(saved.ctrlreg[3], world.bits) == world.plan.root
    assert saved.gdt_frames[0] == GDT
    again = rebuild_pv(world.xen, state, contents_pv(world.guest))
    cpu, mfns = cast(Any, again.vcpus[1].cpu), world.mfns_of(again)
    assert cpu.pv_get("kernel_table") == mfns[world.plan.root]
    assert cpu.pv_gdt()[0] == mfns[GDT]
    assert cpu.get("rdx") == 1234
    Audit(again).check()


def test_time_goes_on(world: World) -> None:
    state = capture_pv(world.guest)
    xen = Hypervisor(UnicornEngine(), frames=1 << 14, clock=VirtualClock(900 * SECOND))
    create_control_domain(xen)
    again = rebuild_pv(xen, state, contents_pv(world.guest))
    assert again.system_time == 5 * SECOND
    tsc = again.vcpus[0].tsc.tsc_at(xen.clock.now())
    assert tsc == world.guest.vcpus[0].tsc.tsc_at(world.xen.clock.now())
    xen.close()


def test_mappings_of_others_are_left_out(world: World) -> None:
    other = world.xen.create_domain(world.guest.kind, max_pages=4)
    ((theirs, _),) = other.p2m.populate(0)
    entry = l1_entry(world.guest.vcpus[0], BASE + 0x80000)
    assert entry is not None
    pages = cast(Any, world.guest.arch).pages
    assert pages.update(entry, theirs << 12 | 3, other.domid) == 0
    again = rebuild_pv(world.xen, capture_pv(world.guest), contents_pv(world.guest))
    at = l1_entry(again.vcpus[0], BASE + 0x80000)
    assert at is not None
    assert world.memory.read_u64(at) == 0
    Audit(again).check()


@pytest.mark.parametrize("what", ["running", "crashed", "start info", "list"])
def test_who_cannot_be_taken_down(world: World, what: str) -> None:
    if what in ("running", "crashed"):
        world.guest.resume()
        if what == "crashed":
            world.guest.crash("a test")
    elif what == "start info":
        cast(Any, world.guest.vcpus[0].cpu).set("rdx", 3)
    else:
        at = world.guest.shared_info_maddr + shared_info.offsetof("arch", world.bits)
        world.memory.write(at, bytes(24))
    with pytest.raises(StateError):
        capture_pv(world.guest)


def test_names_that_the_guest_has_mixed_up(world: World) -> None:
    world.memory.set_m2p(world.mfns[3], 4, 1)
    with pytest.raises(StateError, match="machine-to-physical"):
        capture_pv(world.guest)


def test_a_table_that_names_what_is_not_there(world: World) -> None:
    state = capture_pv(world.guest)
    pages = dict(contents_pv(world.guest))
    table = next(t for t in state.tables if t.level == 1)
    at = table.pfn << 12
    for entry in (0x777777 << 12 | 1, table.pfn << 12 | 3, 5 << 12 | 0x80 | 1):
        broken = entry.to_bytes(8, "little") + pages[at][8:]
        before = world.memory.free_frames()
        with pytest.raises(StateError):
            rebuild_pv(world.xen, state, (pages | {at: broken}).items())
        assert world.memory.free_frames() == before


@pytest.fixture(scope="module", params=[64, 32])
def lasting(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(request.param)
    yield made
    made.close()


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_damaged_record_changes_nothing(lasting: World, data: st.DataObject) -> None:
    """Whatever stands in a record: a domain in its own walls, or one of two errors."""
    world = lasting
    plain = msgspec.msgpack.decode(msgspec.msgpack.encode(capture_pv(world.guest)))
    places = list(_places(plain))
    places += [("vcpus", 0, "context")] * (len(places) // 2)
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(places))
        home = plain
        for step in way:
            home = home[step]
        if last == "context":  # its length stays; what's in it doesn't
            context = bytearray(home[last])
            for at in data.draw(st.lists(st.integers(0, len(context) - 8), max_size=4)):
                context[at & ~7 : (at & ~7) + 8] = data.draw(WORDS).to_bytes(8, "little")
            home[last] = bytes(context)
        else:
            home[last] = data.draw(STRANGE)
    free, domids = world.memory.free_frames(), set(world.xen.domains)
    try:
        state = msgspec.convert(plain, PvDomainState, strict=True)
    except (msgspec.ValidationError, TypeError):
        return
    try:
        domain = rebuild_pv(world.xen, state, contents_pv(world.guest))
    except (StateError, XenError):
        pass
    else:
        Audit(domain).check()
        for vcpu in domain.vcpus:
            if vcpu.cpu is not None:
                least = 3 if world.bits == 64 else 1
                assert vcpu.cpu.get("cs.sel") & 3 >= least
                assert vcpu.cpu.get("cs.attr") >> 5 & 3 >= least
        world.xen.destroy_domain(domain)
    assert world.memory.free_frames() == free
    assert set(world.xen.domains) == domids
