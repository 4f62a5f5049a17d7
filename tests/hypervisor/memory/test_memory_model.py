# SPDX-License-Identifier: GPL-2.0-or-later
"""Physical maps against a model of a few dicts, over random histories.

The model knows frames by a serial number that is written into each when it's populated: what a
guest reads at a gfn says which frame is there, whatever the tables claim.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.hypervisor.memory.world import Caller, Dom, World
from xenograft.abi.errno import Errno, XenError
from xenograft.abi.memory import (
    XENMAPSPACE_gmfn,
    XENMAPSPACE_shared_info,
    XENMEM_add_to_physmap,
    XENMEM_decrease_reservation,
    XENMEM_populate_physmap,
    XENMEM_remove_from_physmap,
    xen_add_to_physmap,
    xen_memory_reservation,
    xen_remove_from_physmap,
)
from xenograft.abi.xen import DOMID_SELF
from xenograft.hypervisor.memory.frames import INVALID_GFN
from xenograft.hypervisor.memory.p2m_types import P2mType

MAX_PAGES = 8
SHARED = -1
"""The serial number of a shared info page."""

gfns = st.integers(0, 9)
which = st.sampled_from([1, 2])


@dataclass
class Model:
    """A guest: where its frames are, and which of them it has."""

    at: dict[int, int] = field(default_factory=dict)
    owned: set[int] = field(default_factory=set)
    holds: dict[int, int] = field(default_factory=dict)
    """References that others have, by serial number."""

    shared_info_freed: bool = False
    """The guest has given up its shared info: it may place it, but do nothing else with it."""

    def usable(self, gfn: int) -> bool:
        return gfn in self.at and not (self.at[gfn] == SHARED and self.shared_info_freed)

    def place(self, serial: int) -> int | None:
        return next((gfn for gfn, one in self.at.items() if one == serial), None)

    def lose(self, serial: int) -> None:
        """The guest gives a frame up; who refers to it keeps it alive."""
        if serial != SHARED and not self.holds.get(serial):
            self.owned.discard(serial)


class PhysicalMaps(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(64)
        self.doms: dict[int, Dom] = {}
        self.models: dict[int, Model] = {}
        self.foreign: dict[int, tuple[int, int]] = {}
        """dom0's foreign mappings: gfn to (domid, serial)."""
        self.released: set[int] = set()
        self.shared_hooked: dict[int, bool] = {}
        self.serial = 0
        self.dom0 = self.world.domain(0, max_pages=4, privileged=True)
        for domid in (1, 2):
            self.doms[domid] = self.world.domain(domid, max_pages=MAX_PAGES)
            self.models[domid] = Model()
            at = self.doms[domid].shared_info_maddr
            self.world.memory.write(at, SHARED.to_bytes(8, "little", signed=True))

    def call(self, domid: int) -> Caller:
        return Caller(self.world, self.doms[domid])

    def extent(self, domid: int, cmd: int, gfn: int) -> int:
        caller = self.call(domid)
        request = xen_memory_reservation(
            extent_start=caller.frames([gfn]), nr_extents=1, domid=DOMID_SELF
        )
        return caller.memory_op(cmd, request)

    @rule(domid=which, gfn=gfns)
    def populate(self, domid: int, gfn: int) -> None:
        model, dom = self.models[domid], self.doms[domid]
        room = dom.pool.tot_pages < MAX_PAGES
        assert self.extent(domid, XENMEM_populate_physmap, gfn) == int(room)
        if room:
            self.serial += 1
            dom.write(gfn, 0, self.serial.to_bytes(8, "little"))
            model.at[gfn] = self.serial
            model.owned.add(self.serial)

    @rule(domid=which, gfn=gfns)
    def decrease(self, domid: int, gfn: int) -> None:
        model = self.models[domid]
        usable = model.usable(gfn)
        assert self.extent(domid, XENMEM_decrease_reservation, gfn) == int(usable)
        if usable:
            serial = model.at.pop(gfn)
            self.released.add(serial)
            model.lose(serial)
            model.shared_info_freed |= serial == SHARED

    @rule(domid=which, gfn=gfns)
    def remove(self, domid: int, gfn: int) -> None:
        model = self.models[domid]
        request = xen_remove_from_physmap(domid=DOMID_SELF, gpfn=gfn)
        result = self.call(domid).memory_op(XENMEM_remove_from_physmap, request)
        assert result == (0 if model.usable(gfn) else -Errno.ENOENT)
        if result == 0:
            del model.at[gfn]

    @rule(domid=which, old=gfns, new=gfns)
    def move(self, domid: int, old: int, new: int) -> None:
        model = self.models[domid]
        result = self.add(domid, XENMAPSPACE_gmfn, old, new)
        assert result == (0 if model.usable(old) else -Errno.EINVAL)
        if result == 0:
            self.displace(model, new, model.at[old])
            model.at[new] = model.at.pop(old)

    @rule(domid=which, new=gfns)
    def shared_info(self, domid: int, new: int) -> None:
        model = self.models[domid]
        assert self.add(domid, XENMAPSPACE_shared_info, 0, new) == 0
        self.displace(model, new, SHARED)
        old = model.place(SHARED)
        if old is not None:
            del model.at[old]
        model.at[new] = SHARED

    def add(self, domid: int, space: int, idx: int, gpfn: int) -> int:
        request = xen_add_to_physmap(domid=DOMID_SELF, space=space, idx=idx, gpfn=gpfn)
        return self.call(domid).memory_op(XENMEM_add_to_physmap, request)

    def displace(self, model: Model, gfn: int, by: int) -> None:
        """What is at gfn goes, unless it's what is to come there."""
        serial = model.at.get(gfn)
        if serial is not None and serial != by:
            del model.at[gfn]
            if serial != SHARED:
                self.released.add(serial)
                model.lose(serial)

    @rule(domid=which, gfn=gfns, at=gfns)
    def map_foreign(self, domid: int, gfn: int, at: int) -> None:
        model, dom = self.models[domid], self.doms[domid]
        page = dom.p2m.get_page(gfn)
        assert (page is not None) == model.usable(gfn)
        if page is None:
            return
        same = at in self.foreign and self.foreign[at] == (domid, model.at[gfn])
        failed = None
        try:
            self.dom0.p2m.set_foreign(at, page[0])
        except XenError as error:
            failed = error.errno
        self.world.frames.put_page(page[0])
        assert failed == (Errno.EPERM if at in self.foreign and not same else None)
        if at not in self.foreign:
            serial = model.at[gfn]
            self.foreign[at] = (domid, serial)
            model.holds[serial] = model.holds.get(serial, 0) + 1

    @precondition(lambda self: self.foreign)
    @rule(data=st.data())
    def unmap_foreign(self, data: st.DataObject) -> None:
        at = data.draw(st.sampled_from(sorted(self.foreign)))
        mfn, kind = self.dom0.p2m.lookup(at)
        assert kind is P2mType.map_foreign
        self.dom0.p2m.remove_page(at, mfn)
        domid, serial = self.foreign.pop(at)
        model = self.models[domid]
        model.holds[serial] -= 1
        if serial in self.released:
            model.lose(serial)

    @invariant()
    def guests_read_their_own_frames(self) -> None:
        for domid, model in self.models.items():
            dom = self.doms[domid]
            seen = {
                gfn: int.from_bytes(dom.read(gfn, 0, 8), "little", signed=True)
                for gfn in range(10)
                if dom.space.lookup(gfn) is not None
            }
            assert seen == model.at
            for gfn in seen:
                mfn, _ = dom.p2m.lookup(gfn)
                assert self.world.memory.owner(mfn) == domid
                assert self.world.frames.gfn_of(mfn) == gfn

    @invariant()
    def foreign_frames_stay_what_they_were(self) -> None:
        for at, (_, serial) in self.foreign.items():
            assert int.from_bytes(self.dom0.read(at, 0, 8), "little", signed=True) == serial

    @invariant()
    def every_frame_is_accounted_for(self) -> None:
        world = self.world
        for domid, model in self.models.items():
            assert self.doms[domid].pool.tot_pages == len(model.owned)
        owned = sum(len(model.owned) for model in self.models.values())
        assert world.memory.free_frames() == world.free_at_start - owned - 3 * 2
        mapped = {
            mfn + i
            for dom in self.doms.values()
            for _, mfn, count, _ in dom.space.entries()
            for i in range(count)
        }
        for mfn in range(world.memory.frames):
            if world.frames.gfn_of(mfn) != INVALID_GFN:
                assert mfn in mapped

    def teardown(self) -> None:
        for dom in list(self.world.domains.values()):
            self.world.destroy(dom)
        assert self.world.domains == {}
        assert self.world.memory.free_frames() == self.world.free_at_start


TestPhysicalMaps = PhysicalMaps.TestCase
TestPhysicalMaps.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
