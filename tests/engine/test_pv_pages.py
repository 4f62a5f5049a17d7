# SPDX-License-Identifier: GPL-2.0-or-later
"""Page types and reference counts of PV guests: against a model, and rule by rule."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine import pv_model as pte
from tests.engine.pv_model import Model, unpack

unicorn = pytest.importorskip("xenograft.engine.unicorn")

GUEST, OTHER = 5, 6
FRAMES = 10
L4_M2P, L4_PERDOMAIN = 0x1234000 | 0x65, 0x5678000 | 0x63
EPERM, EBUSY, EINVAL, ENOSYS = -1, -16, -22, -38


class Pages:
    """A guest with `FRAMES` frames, and a neighbour with two, on the native engine."""

    def __init__(self, domid: int = GUEST) -> None:
        engine = unicorn.UnicornEngine()
        self.memory: Any = engine.memory(1024)
        self.space = engine.space(self.memory)
        self.mine = [self.memory.alloc(domid)[0][0] for _ in range(FRAMES)]
        self.theirs = [self.memory.alloc(OTHER)[0][0] for _ in range(2)]
        self.pages: Any = engine.pv_pages(self.memory, self.space, domid)
        self.pages.configure(False, L4_M2P, L4_PERDOMAIN, b"")

    def put(self, mfn: int, slot: int, entry: int) -> None:
        """Write an entry as a guest writes memory that is no table yet."""
        self.memory.write_u64((mfn << 12) + slot * 8, entry)

    def entry(self, mfn: int, slot: int) -> int:
        return int(self.memory.read_u64((mfn << 12) + slot * 8))

    def update(self, mfn: int, slot: int, entry: int, command: int = 0, *owner: int) -> int:
        return int(self.pages.update((mfn << 12) + slot * 8 | command, entry, *owner))

    def types(self, mfn: int) -> tuple[int, int]:
        kind, count, _, _ = self.memory.types(mfn)
        return kind, count

    def tree(self) -> list[int]:
        """mfns of pinned tables, root first, each with the next one in slot 0."""
        tables = self.mine[:4]
        for table, below in pairwise(tables):
            self.put(table, 0, below << 12 | pte.P | pte.RW | pte.US)
        assert self.pages.pin(tables[0], 4) == 0
        return tables

    def close(self) -> None:
        self.space.close()
        self.memory.close()


@pytest.fixture
def guest() -> Iterator[Pages]:
    pages = Pages()
    yield pages
    pages.close()


# -- against the model -------------------------------------------------------------------------
SLOTS = (0, 1, 255, 256, 300)
_flags = st.sampled_from(
    [
        pte.P,
        pte.P | pte.RW,
        pte.P | pte.RW | pte.US | pte.A | pte.D,
        pte.P | pte.US | pte.NX | pte.AVAIL,
        pte.P | pte.G,
        pte.P | pte.PWT,
        pte.P | pte.PSE | pte.RW,
        pte.RW,
        0,
    ]
)
_frame = st.integers(0, FRAMES + 2)
_slot = st.sampled_from(SLOTS)
_op = st.one_of(
    st.tuples(st.just("write"), _frame, _slot, _frame, _flags),
    st.tuples(st.just("update"), _frame, _slot, _frame, _flags),
    st.tuples(st.just("pin"), _frame, st.integers(1, 4)),
    st.tuples(st.just("unpin"), _frame),
    st.tuples(st.just("descriptors"), _frame),
)


def check(guest: Pages, model: Model) -> None:
    """Types and references are the model's, and no table can be written."""
    for mfn in guest.mine:
        kind, count, _, pinned = guest.memory.types(mfn)
        assert (count, guest.memory.refs(mfn)) == (model.counts[mfn], model.refs[mfn]), hex(mfn)
        assert pinned == (mfn in model.pinned)
        if count:
            assert kind == model.types[mfn]
        if kind == 1 and count:
            for entry in model.entries(mfn, 1):
                target = (entry & ~pte.FLAGS) >> 12
                assert target in guest.mine
                assert not entry & pte.RW or guest.types(target)[0] == pte.WRITABLE
    for mfn in guest.theirs:
        assert guest.memory.types(mfn)[:2] == (0, 0)
        assert guest.memory.refs(mfn) == 1
    assert guest.memory.take_zombies() == []


@settings(max_examples=250, deadline=None)
@given(st.booleans(), st.lists(_op, min_size=1, max_size=40))
def test_agrees_with_the_model(rooted: bool, ops: list[tuple[Any, ...]]) -> None:
    """`rooted`: the guest begins with a tree of tables, as a guest that runs has one."""
    guest = Pages()
    try:
        names = [*guest.mine, *guest.theirs, 1 << 30]
        model = Model(set(guest.mine), lambda mfn: unpack(guest.memory.read(mfn << 12, 4096)))
        if rooted:
            guest.tree()
            assert model.attempt(lambda m: m.pin(guest.mine[0], 4))
        for name, frame, *rest in ops:
            mfn = names[frame]
            if name == "write":
                slot, target, flags = rest
                # What a guest can reach with stores: memory that isn't a table now.
                if mfn in guest.mine and (
                    not model.counts[mfn] or model.types[mfn] == pte.WRITABLE
                ):
                    model.attempt(lambda m, mfn=mfn: m.update(mfn << 12, 0))
                    assert guest.update(mfn, slot, 0) == 0
                    guest.put(mfn, slot, names[target] << 12 | flags)
            elif name == "update":
                slot, target, flags = rest
                value = names[target] << 12 | flags
                maddr = (mfn << 12) + slot * 8
                if mfn > 1024:
                    continue
                fine = model.attempt(lambda m, a=maddr, v=value: m.update(a, v))
                assert (guest.update(mfn, slot, value) == 0) == fine, (name, mfn, rest)
            elif name == "pin":
                fine = model.attempt(lambda m, mfn=mfn, level=rest[0]: m.pin(mfn, level))
                assert (guest.pages.pin(mfn, rest[0]) == 0) == fine, (name, mfn, rest)
            elif name == "unpin":
                fine = model.attempt(lambda m, mfn=mfn: m.unpin(mfn))
                assert (guest.pages.unpin(mfn) == 0) == fine
            else:

                def descriptors(m: Model, mfn: int = mfn) -> None:
                    m.get_page(mfn)
                    m.get_type(mfn, pte.SEG)

                fine = model.attempt(descriptors)
                assert (guest.pages.get_type(mfn, pte.SEG) == 0) == fine
            check(guest, model)
    finally:
        guest.close()


# -- rule by rule ------------------------------------------------------------------------------
def test_a_tree_of_tables_is_counted(guest: Pages) -> None:
    tables = guest.tree()
    assert [guest.types(mfn) for mfn in tables] == [(4, 1), (3, 1), (2, 1), (1, 1)]
    assert [guest.memory.refs(mfn) for mfn in tables] == [2, 2, 2, 2]
    assert guest.pages.unpin(tables[0]) == 0
    assert [guest.types(mfn) for mfn in tables] == [(0, 0)] * 4
    assert [guest.memory.refs(mfn) for mfn in tables] == [1, 1, 1, 1]


def test_only_own_frames_can_be_mapped(guest: Pages) -> None:
    l1 = guest.tree()[3]
    assert guest.update(l1, 5, guest.theirs[0] << 12 | pte.P) == EBUSY
    assert guest.update(l1, 5, 0xFFF << 12 | pte.P) == EPERM  # no such frame: a device's
    assert guest.update(l1, 5, ((1 << 40) - 1) << 12 | pte.P) == EINVAL
    assert guest.update(l1, 5, 3 << 12 | pte.P) == EBUSY  # a frame that nobody has
    assert guest.entry(l1, 5) == 0
    assert guest.update(l1, 5, guest.mine[7] << 12 | pte.P) == 0


def test_a_free_frame_is_not_even_domain_0s() -> None:
    """Domain 0 has the number that a frame without an owner has too."""
    guest = Pages(0)
    l1, free = guest.tree()[3], guest.mine[9]
    assert guest.update(l1, 5, free << 12 | pte.P) == 0
    assert guest.update(l1, 5, 0) == 0
    guest.memory.free(free)
    assert guest.update(l1, 5, free << 12 | pte.P) == EBUSY
    assert guest.pages.pin(free, 1) == EINVAL
    guest.close()


def test_a_table_is_never_writable(guest: Pages) -> None:
    tables = guest.tree()
    for table in tables:
        assert guest.update(tables[3], 5, table << 12 | pte.P | pte.RW) == EBUSY
        assert guest.update(tables[3], 5, table << 12 | pte.P) == 0


def test_what_is_writable_cannot_become_a_table(guest: Pages) -> None:
    l1, data = guest.tree()[3], guest.mine[6]
    assert guest.update(l1, 5, data << 12 | pte.P | pte.RW) == 0
    assert guest.types(data) == (pte.WRITABLE, 1)
    for level in (1, 2, 3, 4):
        assert guest.pages.pin(data, level) == EINVAL
    assert guest.pages.get_type(data, pte.SEG) == EINVAL
    assert guest.update(l1, 5, data << 12 | pte.P) == 0
    assert guest.pages.pin(data, 1) == 0


def test_a_mapping_cannot_be_made_writable_by_changing_flags(guest: Pages) -> None:
    l1 = guest.tree()[3]
    assert guest.update(l1, 5, l1 << 12 | pte.P) == 0
    assert guest.update(l1, 5, l1 << 12 | pte.P | pte.RW) == EBUSY
    assert guest.update(l1, 5, l1 << 12 | pte.P | pte.NX | pte.A | pte.US) == 0
    assert guest.memory.refs(l1) == 3


@pytest.mark.parametrize("level", [2, 3, 4])
def test_a_linear_mapping_cannot_be_made_writable(guest: Pages, level: int) -> None:
    """XSA-182: the flags of a table's mapping of itself are no harmless ones."""
    table = guest.tree()[4 - level]
    assert guest.update(table, 9, table << 12 | pte.P | pte.US) == 0
    assert guest.update(table, 9, table << 12 | pte.P | pte.US | pte.RW) == EINVAL


@pytest.mark.parametrize(
    ("level", "flags"),
    [(level, flag) for level in (1, 2, 3, 4) for flag in (pte.PWT, pte.PCD, pte.PSE)]
    + [(level, pte.G) for level in (2, 3, 4)],
)
def test_flags_that_no_entry_may_have(guest: Pages, level: int, flags: int) -> None:
    """Superpages above all: a large page would map frames that nobody has looked at."""
    tables = guest.tree()
    table, target = tables[4 - level], guest.mine[9]
    if level == 1:
        assert guest.update(table, 0, guest.mine[7] << 12 | pte.P) == 0
    assert guest.update(table, 9, target << 12 | pte.P | flags) == EINVAL
    # Nor can one that is there get it, be it one of those that harm nobody.
    kept = guest.entry(table, 0)
    assert guest.update(table, 0, kept | flags) == EINVAL
    assert guest.entry(table, 0) == kept
    fresh = guest.mine[8]
    guest.put(fresh, 9, target << 12 | pte.P | flags)
    assert guest.pages.pin(fresh, level) == EINVAL
    assert guest.types(fresh)[1] == 0


def test_xens_slots_of_a_root_are_xens(guest: Pages) -> None:
    root = guest.mine[0]
    for slot in (256, 260, 271):
        guest.put(root, slot, guest.mine[5] << 12 | pte.P | pte.RW)
    guest.put(root, 272, guest.mine[1] << 12 | pte.P)
    assert guest.pages.pin(root, 4) == 0
    assert guest.types(guest.mine[5]) == (0, 0)  # what stood there is nothing to Xen
    assert guest.types(guest.mine[1]) == (3, 1)
    assert guest.entry(root, 256) == 0
    assert guest.entry(root, 258) == 0
    assert guest.entry(root, 260) == L4_PERDOMAIN
    assert guest.entry(root, 271) == 0
    for slot in (256, 260, 271):
        assert guest.update(root, slot, 0) == EINVAL
    assert guest.update(root, 255, 0) == guest.update(root, 272, 0) == 0
    assert guest.pages.unpin(root) == 0
    assert guest.entry(root, 260) == 0


def test_the_machine_to_physical_table_is_in_strict_guests_roots(guest: Pages) -> None:
    guest.pages.set_assist(1 << 32)
    assert guest.pages.pin(guest.mine[0], 4) == 0
    assert guest.entry(guest.mine[0], 256) == L4_M2P


def test_kernel_and_user_pages_look_the_same_to_the_processor(guest: Pages) -> None:
    l1, data = guest.tree()[3], guest.mine[6]
    assert guest.update(l1, 5, data << 12 | pte.P) == 0
    assert guest.entry(l1, 5) == data << 12 | pte.P | pte.US | pte.GUEST_KERNEL
    assert guest.update(l1, 5, data << 12 | pte.P | pte.US) == 0
    assert guest.entry(l1, 5) == data << 12 | pte.P | pte.US | pte.G


def test_accessed_and_dirty_bits_are_kept_on_request(guest: Pages) -> None:
    l1, data = guest.tree()[3], guest.mine[6]
    assert guest.update(l1, 5, data << 12 | pte.P | pte.US | pte.A | pte.D) == 0
    assert guest.update(l1, 5, data << 12 | pte.P | pte.US, 2) == 0
    assert guest.entry(l1, 5) & (pte.A | pte.D) == pte.A | pte.D
    assert guest.update(l1, 5, data << 12 | pte.P | pte.US, 0) == 0
    assert guest.entry(l1, 5) & (pte.A | pte.D) == 0


def test_linear_tables_of_others_have_one_level(guest: Pages) -> None:
    """XSA-240: a table mapped by one of its level can't map others so, nor the other way."""
    roots = guest.mine[:3]
    for root in roots:
        assert guest.pages.pin(root, 4) == 0
    assert guest.update(roots[0], 9, roots[1] << 12 | pte.P) == 0
    assert guest.types(roots[1]) == (4, 2)
    assert guest.update(roots[1], 9, roots[2] << 12 | pte.P) == EINVAL
    assert guest.update(roots[2], 9, roots[0] << 12 | pte.P) == EINVAL
    assert guest.update(roots[0], 10, roots[1] << 12 | pte.P) == 0
    assert guest.update(roots[0], 9, 0) == guest.update(roots[0], 10, 0) == 0
    assert guest.update(roots[1], 9, roots[2] << 12 | pte.P) == 0
    assert guest.update(roots[1], 10, roots[0] << 12 | pte.P | pte.RW) == EINVAL


def test_a_refused_table_leaves_no_trace(guest: Pages) -> None:
    table, data = guest.mine[0], guest.mine[1]
    guest.put(table, 3, data << 12 | pte.P | pte.RW)
    guest.put(table, 4, data << 12 | pte.P)
    guest.put(table, 511, guest.theirs[0] << 12 | pte.P)
    assert guest.pages.pin(table, 1) == EBUSY
    assert guest.types(data)[1] == guest.types(table)[1] == 0
    assert guest.memory.refs(data) == guest.memory.refs(table) == 1


def test_pinning_twice_and_unpinning_what_is_not(guest: Pages) -> None:
    table = guest.mine[0]
    assert guest.pages.unpin(table) == EINVAL
    assert guest.pages.pin(table, 1) == 0
    assert guest.pages.pin(table, 1) == EINVAL
    assert guest.types(table) == (1, 1)
    assert guest.pages.pin(guest.theirs[0], 1) == guest.pages.unpin(guest.theirs[0]) == EINVAL


def test_commands_and_tables_that_do_not_exist(guest: Pages) -> None:
    assert guest.update(guest.mine[0], 0, 0, 4) == ENOSYS
    assert guest.update(guest.theirs[0], 0, 0) == EINVAL
    assert guest.update(3, 0, 0) == EINVAL


def test_other_domains_pages_only_for_who_names_them(guest: Pages) -> None:
    """The caller has asked for the right; a frame has to be that domain's all the same."""
    tables = guest.tree()
    entry = guest.theirs[0] << 12 | pte.P | pte.RW
    assert guest.update(tables[3], 5, entry, 0, OTHER) == 0
    assert guest.types(guest.theirs[0]) == (pte.WRITABLE, 1)
    assert guest.update(tables[3], 6, guest.mine[7] << 12 | pte.P, 0, OTHER) == EBUSY
    assert guest.update(tables[2], 6, guest.theirs[1] << 12 | pte.P, 0, OTHER) == EINVAL
    assert guest.update(tables[2], 6, 0, 0, OTHER) == EINVAL  # data pages alone
    assert guest.update(tables[3], 5, 0) == 0
    assert guest.memory.refs(guest.theirs[0]) == 1


def test_hvm_type_frames_have_no_writable_count(guest: Pages) -> None:
    l1 = guest.tree()[3]
    guest.memory.set_external(OTHER, True)
    entry = guest.theirs[0] << 12 | pte.P | pte.RW
    assert guest.update(l1, 5, entry, 0, OTHER) == 0
    assert guest.types(guest.theirs[0]) == (0, 0)
    assert guest.update(l1, 5, 0) == 0
    assert guest.memory.refs(guest.theirs[0]) == 1


def test_the_last_reference_waits_for_its_accountant(guest: Pages) -> None:
    l1, data = guest.tree()[3], guest.mine[6]
    assert guest.update(l1, 5, data << 12 | pte.P) == 0
    assert guest.memory.put_ref(data) == 1  # the owner gives the frame up
    assert guest.update(l1, 5, 0) == 0
    assert guest.update(l1, 5, data << 12 | pte.P) == EBUSY
    assert guest.memory.take_zombies() == [data]
    assert guest.memory.put_ref(data) == 0


# -- descriptors -------------------------------------------------------------------------------
CODE_RING0 = 0x00AF9B000000FFFF
CODE_RING3 = 0x00AFFB000000FFFF
TSS = 0x0000890000000067
CALL_GATE = 0x0000EC0000081234
GATE_TO_XEN = 0x0000EC00E0081234
INTERRUPT_GATE = 0x0000EE0000081234


def test_descriptors_are_checked_and_mended(guest: Pages) -> None:
    check = guest.pages.check_descriptor
    assert check(0) == 0
    assert check(CODE_RING0) == CODE_RING3
    assert check(TSS) is None
    assert check(INTERRUPT_GATE) is None
    assert check(GATE_TO_XEN) is None
    assert check(CALL_GATE) == 0x00008C00000B1234  # not for use; its privilege in the selector
    assert check(CALL_GATE | 1 << 32) is None


def test_a_page_of_descriptors(guest: Pages) -> None:
    page = guest.mine[0]
    guest.put(page, 3, TSS)
    assert guest.pages.get_type(page, pte.SEG) == EINVAL
    guest.put(page, 3, CODE_RING0)
    assert guest.pages.get_type(page, pte.SEG) == 0
    assert guest.entry(page, 3) == CODE_RING3
    assert guest.update(page, 3, 0) == EINVAL
    assert guest.pages.update_descriptor((page << 12) + 24, CODE_RING0) == 0
    assert guest.pages.update_descriptor((page << 12) + 24, TSS) == EINVAL
    assert guest.pages.update_descriptor((page << 12) + 25, 0) == EINVAL
    assert guest.pages.update_descriptor(guest.theirs[0] << 12, 0) == EINVAL
    guest.put(guest.mine[5], 0, page << 12 | pte.P | pte.RW)
    assert guest.pages.pin(guest.mine[5], 1) == EBUSY
    guest.pages.put_type(page)
    assert guest.pages.pin(guest.mine[5], 1) == 0


def test_descriptors_cannot_be_written_into_a_table(guest: Pages) -> None:
    l1 = guest.tree()[3]
    assert guest.pages.update_descriptor(l1 << 12, 0) == EINVAL
    assert guest.pages.update_descriptor(guest.mine[8] << 12, CODE_RING0) == 0
    assert guest.entry(guest.mine[8], 0) == CODE_RING3


# -- 32-bit guests -----------------------------------------------------------------------------
COMPAT_L2 = bytes(84 * 8 - 8) + (0x7777000 | 0x65).to_bytes(8, "little")


class TestPae:
    """A 32-bit guest's root is of level 3, with four entries; the last holds Xen's mappings."""

    @pytest.fixture
    def guest(self) -> Iterator[Pages]:
        pages = Pages()
        pages.pages.configure(True, L4_M2P, L4_PERDOMAIN, COMPAT_L2)
        yield pages
        pages.close()

    def root(self, guest: Pages, *, last: int = 1) -> list[int]:
        root, *tables = guest.mine[:5]
        for slot, table in enumerate(tables):
            guest.put(root, slot, table << 12 | (last if slot == 3 else pte.P))
        return [root, *tables]

    def test_a_root(self, guest: Pages) -> None:
        root, *tables = self.root(guest)
        guest.put(root, 7, guest.theirs[0] << 12 | pte.P)  # beyond the guest's own
        guest.put(tables[3], 511, guest.theirs[0] << 12 | pte.P)
        assert guest.pages.pin(root, 3) == 0
        assert guest.entry(root, 7) == 0
        assert guest.entry(tables[3], 511) == 0x7777065
        assert guest.entry(tables[0], 511) == 0
        assert guest.update(tables[3], 428, 0) == EPERM
        assert guest.update(tables[3], 427, 0) == 0
        assert guest.update(root, 3, 0) == guest.update(root, 4, 0) == EINVAL
        assert guest.update(root, 2, 0) == 0
        assert guest.pages.unpin(root) == 0
        assert guest.entry(tables[3], 511) == 0

    def test_the_last_entry_has_to_be_there(self, guest: Pages) -> None:
        root, *_ = self.root(guest, last=0)
        assert guest.pages.pin(root, 3) == EINVAL

    def test_xens_mappings_are_in_one_place(self, guest: Pages) -> None:
        root, *tables = self.root(guest)
        guest.put(root, 0, tables[3] << 12 | pte.P)
        assert guest.pages.pin(root, 3) == EINVAL
        guest.put(root, 0, tables[0] << 12 | pte.P)
        assert guest.pages.pin(root, 3) == 0
        second = guest.mine[6]
        for slot, table in enumerate(tables):
            guest.put(second, slot, table << 12 | pte.P)
        assert guest.pages.pin(second, 3) == EINVAL
        assert guest.types(tables[0]) == (2, 1)

    def test_no_long_mode_segments(self, guest: Pages) -> None:
        assert guest.pages.check_descriptor(CODE_RING0) is None
        ring0 = 0x00CF9B000000FFFF
        assert guest.pages.check_descriptor(ring0) == 0x00CFBB000000FFFF
        short = 0x00CB9B000000FFFF & ~0xF000000000000 | 0xF << 48
        assert guest.pages.check_descriptor(short) is not None


# -- the end -----------------------------------------------------------------------------------
def test_relinquish_breaks_circles(guest: Pages) -> None:
    roots = guest.mine[:2]
    for root in roots:
        assert guest.pages.pin(root, 4) == 0
    assert guest.update(roots[0], 9, roots[0] << 12 | pte.P) == 0
    assert guest.update(roots[0], 10, roots[1] << 12 | pte.P) == 0
    extents = [(mfn, 1) for mfn in guest.mine]
    for _ in range(4):
        guest.pages.relinquish(extents)
    assert [guest.types(mfn)[1] for mfn in guest.mine] == [0] * FRAMES
    assert [guest.memory.refs(mfn) for mfn in guest.mine] == [1] * FRAMES


def test_levels_cannot_be_left_out(guest: Pages) -> None:
    """A table maps those of the level below, or its own for reading; no others."""
    tables = guest.tree()
    for upper, lower in ((0, 2), (0, 3), (1, 3), (2, 1)):
        entry = tables[lower] << 12 | pte.P
        assert guest.update(tables[upper], 9, entry) == EINVAL, (upper, lower)
    descriptors = guest.mine[8]
    assert guest.pages.get_type(descriptors, pte.SEG) == 0
    assert guest.update(tables[0], 9, descriptors << 12 | pte.P) == EINVAL
