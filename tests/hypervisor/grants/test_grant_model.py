# SPDX-License-Identifier: GPL-2.0-or-later
"""Grants against a small model, over random histories of three domains.

Each page carries a serial number. A mapping must show the page that was granted when it came,
to the domain that it was granted to, for as long as it's there, whatever its owner does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.hypervisor.grants.bench import grant, map_ref, revoke, unmap_ref, use_of
from tests.hypervisor.grants.test_grant_copy import copy, page, ref
from tests.hypervisor.memory.world import Caller, Dom, World
from xenograft.abi.errno import XenError
from xenograft.abi.grant_table import (
    GNTCOPY_dest_gref,
    GNTCOPY_source_gref,
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_bad_page,
    GNTST_general_error,
    GNTST_okay,
    GTF_reading,
    GTF_readonly,
    GTF_writing,
)
from xenograft.hypervisor.grants.host import GrantMapping, map_grant
from xenograft.hypervisor.grants.status import GrantError

PAGES = 6
REFS = (8, 9, 10, 11)

doms = st.sampled_from([1, 2, 3])
refs = st.sampled_from(REFS)
gfns = st.integers(0, PAGES)


@dataclass
class Entry:
    """What the guest has written."""

    to: int
    gfn: int
    readonly: bool


@dataclass
class Use:
    """A grant in use: by whom, which page, by how many readers and writers."""

    by: int
    serial: int
    mfn: int
    readers: int = 0
    writers: int = 0


@dataclass
class Mapping:
    owner: int
    ref: int
    readonly: bool
    handle: int
    gfn: int
    host: GrantMapping | None = None


@dataclass
class Guest:
    dom: Dom
    pages: dict[int, int] = field(default_factory=dict)
    entries: dict[int, Entry] = field(default_factory=dict)
    uses: dict[int, Use] = field(default_factory=dict)
    mappings: list[Mapping] = field(default_factory=list)


class Grants(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(256)
        self.serial = 0
        self.next_gfn = 100
        self.guests: dict[int, Guest] = {}

    @initialize(versions=st.tuples(*[st.sampled_from([1, 2])] * 3))
    def start(self, versions: tuple[int, ...]) -> None:
        for domid, version in zip((1, 2, 3), versions, strict=True):
            self.make(domid, version)
        self.guests[0] = Guest(self.world.domain(0, privileged=True))

    def make(self, domid: int, version: int) -> None:
        guest = self.guests[domid] = Guest(self.world.domain(domid, pages=PAGES, max_pages=20))
        guest.dom.grants.set_version(version)
        for gfn in range(PAGES):
            self.mark(guest, gfn)

    def mark(self, guest: Guest, gfn: int) -> None:
        self.serial += 1
        guest.dom.write(gfn, 0, self.serial.to_bytes(8, "little"))
        guest.pages[gfn] = self.serial

    # -- what granting guests do ------------------------------------------------------------
    @rule(domid=doms, number=refs, to=st.sampled_from([0, 1, 2, 3]), gfn=gfns, ro=st.booleans())
    def write_entry(self, domid: int, number: int, to: int, gfn: int, ro: bool) -> None:
        """A polite guest: it doesn't touch an entry in use, but for the read-only flag."""
        guest = self.guests[domid]
        if number in guest.uses or to == domid:
            return
        grant(guest.dom, number, to, gfn, GTF_readonly if ro else 0)
        guest.entries[number] = Entry(to, gfn, ro)

    @rule(domid=doms, number=refs)
    def revoke_entry(self, domid: int, number: int) -> None:
        guest = self.guests[domid]
        if number in guest.uses:
            return
        revoke(guest.dom, number)
        guest.entries.pop(number, None)

    @rule(domid=doms, gfn=gfns)
    def give_page_back(self, domid: int, gfn: int) -> None:
        guest = self.guests[domid]
        if gfn in guest.pages:
            guest.dom.p2m.guest_remove_page(gfn)
            del guest.pages[gfn]

    @rule(domid=doms, gfn=gfns)
    def take_page(self, domid: int, gfn: int) -> None:
        guest = self.guests[domid]
        if gfn not in guest.pages:
            try:
                guest.dom.p2m.populate(gfn)
            except XenError:
                assert guest.dom.pool.tot_pages == 20
            else:
                self.mark(guest, gfn)

    # -- what users do -------------------------------------------------------------------------
    def expect(self, user: int, owner: int, number: int, readonly: bool) -> int:
        """The status that taking hold of a grant must have."""
        guest = self.guests[owner]
        entry, use = guest.entries.get(number), guest.uses.get(number)
        if use is not None:
            if use.by != user:
                return GNTST_general_error
            assert entry is not None
            upgrade = not readonly and not use.writers
            return GNTST_general_error if upgrade and entry.readonly else GNTST_okay
        if entry is None or entry.to != user or (entry.readonly and not readonly):
            return GNTST_general_error
        return GNTST_okay if entry.gfn in guest.pages else GNTST_bad_page

    def note(self, user: int, owner: int, number: int, readonly: bool) -> None:
        guest = self.guests[owner]
        if number not in guest.uses:
            gfn = guest.entries[number].gfn
            mfn = guest.dom.p2m.lookup(gfn)[0]
            guest.uses[number] = Use(user, guest.pages[gfn], mfn)
        use = guest.uses[number]
        use.readers += readonly
        use.writers += not readonly

    def forget(self, mapping: Mapping) -> None:
        guest = self.guests[mapping.owner]
        use = guest.uses[mapping.ref]
        use.readers -= mapping.readonly
        use.writers -= not mapping.readonly
        if not use.readers and not use.writers:
            del guest.uses[mapping.ref]

    @rule(user=doms, owner=doms, number=refs, readonly=st.booleans())
    def map(self, user: int, owner: int, number: int, readonly: bool) -> None:
        if user == owner:
            return
        guest = self.guests[user]
        caller = Caller(self.world, guest.dom)
        gfn, self.next_gfn = self.next_gfn, self.next_gfn + 1
        flags = GNTMAP_host_map | (GNTMAP_readonly if readonly else 0)
        expected = self.expect(user, owner, number, readonly)
        op = map_ref(caller, self.guests[owner].dom, number, gfn, flags)
        assert op.status == expected
        if expected == GNTST_okay:
            self.note(user, owner, number, readonly)
            guest.mappings.append(Mapping(owner, number, readonly, op.handle, gfn))

    @rule(owner=doms, number=refs, readonly=st.booleans())
    def host_map(self, owner: int, number: int, readonly: bool) -> None:
        host = self.guests[0]
        expected = self.expect(0, owner, number, readonly)
        try:
            page = map_grant(host.dom.grants, owner, number, readonly)
        except GrantError as error:
            status = error.status
        else:
            status = GNTST_okay
            self.note(0, owner, number, readonly)
            host.mappings.append(Mapping(owner, number, readonly, page.handle, 0, page))
        assert status == expected

    @precondition(lambda self: any(guest.mappings for guest in self.guests.values()))
    @rule(data=st.data())
    def unmap(self, data: st.DataObject) -> None:
        choices = [(d, i) for d, g in sorted(self.guests.items()) for i in range(len(g.mappings))]
        domid, index = data.draw(st.sampled_from(choices))
        guest = self.guests[domid]
        mapping = guest.mappings.pop(index)
        if mapping.host is not None:
            mapping.host.unmap()
        else:
            caller = Caller(self.world, guest.dom)
            assert unmap_ref(caller, mapping.handle, mapping.gfn) == GNTST_okay
        self.forget(mapping)

    @rule(user=doms, owner=doms, number=refs, to_grant=st.booleans(), gfn=gfns)
    def copy(self, user: int, owner: int, number: int, to_grant: bool, gfn: int) -> None:
        if user == owner or gfn not in self.guests[user].pages:
            return
        caller = Caller(self.world, self.guests[user].dom)
        expected = self.expect(user, owner, number, not to_grant)
        offset = 64
        if to_grant:
            status = copy(caller, page(gfn, 0), ref(number, owner, offset), 8, GNTCOPY_dest_gref)
        else:
            status = copy(caller, ref(number, owner, 0), page(gfn, offset), 8, GNTCOPY_source_gref)
        assert status == expected
        if status != GNTST_okay:
            return
        granter = self.guests[owner]
        use = granter.uses.get(number)
        entry = granter.entries[number]
        mfn = use.mfn if use is not None else granter.dom.p2m.lookup(entry.gfn)[0]
        serial = use.serial if use is not None else granter.pages[entry.gfn]
        if to_grant:
            got = self.world.memory.read_u64(mfn << 12 | offset)
            assert got == self.guests[user].pages[gfn]
        else:
            got = int.from_bytes(caller.dom.read(gfn, offset, 8), "little")
            assert got == serial

    # -- what must hold -------------------------------------------------------------------------
    @invariant()
    def mappings_show_what_was_granted(self) -> None:
        for guest in self.guests.values():
            for mapping in guest.mappings:
                use = self.guests[mapping.owner].uses[mapping.ref]
                if mapping.host is not None:
                    data = mapping.host.read(0, 8)
                else:
                    data = guest.dom.read(mapping.gfn, 0, 8)
                assert int.from_bytes(data, "little") == use.serial

    @invariant()
    def flags_and_counts_are_right(self) -> None:
        for guest in self.guests.values():
            references: dict[int, int] = {}
            for use in guest.uses.values():
                references[use.mfn] = references.get(use.mfn, 0) + use.readers + use.writers
            for number in REFS:
                use = guest.uses.get(number)
                flags = 0
                if use is not None:
                    flags = GTF_reading | (GTF_writing if use.writers else 0)
                assert use_of(guest.dom, number) == flags
            for gfn in guest.pages:
                mfn = guest.dom.p2m.lookup(gfn)[0]
                expected = 1 + references.pop(mfn, 0)
                assert self.world.memory.refs(mfn) == expected
            for mfn, count in references.items():  # given back by the guest, still in use
                assert self.world.memory.refs(mfn) == count
            assert guest.dom.pool.tot_pages == len(guest.pages) + len(references)
            assert len(guest.dom.grants.maptrack) == len(guest.mappings)
            assert guest.dom.crashes == []

    @invariant()
    def nobody_sees_anything_else(self) -> None:
        for guest in self.guests.values():
            seen = {gfn + i for gfn, _, count, _ in guest.dom.space.entries() for i in range(count)}
            mapped = {mapping.gfn for mapping in guest.mappings if mapping.host is None}
            assert seen == set(guest.pages) | mapped

    def teardown(self) -> None:
        for dom in sorted(self.world.domains.values(), key=lambda dom: self.serial * dom.domid % 5):
            self.world.destroy(dom)
        assert self.world.domains == {}
        assert self.world.memory.free_frames() == self.world.free_at_start


TestGrants = Grants.TestCase
TestGrants.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
