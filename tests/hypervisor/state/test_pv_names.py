# SPDX-License-Identifier: GPL-2.0-or-later
"""Where PV guests of both widths tell that the list of their frames is, and what may be wrong."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("xenograft.engine.unicorn")

from tests.hypervisor.pv.audit import Audit
from tests.hypervisor.state.pv_world import LOWER, UPPER, Form, World, carried
from xenograft.arch.x86.pv import cr3_frame, frame_cr3
from xenograft.hypervisor.pv.tables import l1_entry
from xenograft.hypervisor.state import pv
from xenograft.hypervisor.state.pv import capture_pv, contents_pv
from xenograft.hypervisor.state.rebuild_pv import rebuild_pv
from xenograft.hypervisor.state.records import StateError

BOTH = [64, 32]
FORMS: list[Form] = ["address", "tree"]


@pytest.fixture
def make() -> Iterator[Callable[[int, Form], World]]:
    made: list[World] = []

    def one(bits: int, form: Form) -> World:
        made.append(World(bits, form))
        return made[-1]

    yield one
    for world in made:
        world.close()


Make = Callable[[int, Form], World]


# -- both forms, both widths -----------------------------------------------------------------------
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bits", BOTH)
def test_the_list_is_found_and_names_the_new_frames(make: Make, bits: int, form: Form) -> None:
    world = make(bits, form)
    state = carried(capture_pv(world.guest))
    first = world.plan.p2m.pfn
    assert state.p2m_list == tuple(range(first, first + world.plan.p2m.pages))
    again = rebuild_pv(world.xen, state, contents_pv(world.guest), name="again")
    Audit(again).check()
    mfns = world.mfns_of(again)
    assert not set(mfns.values()) & set(world.mfns.values())
    for pfn in range(world.plan.pages):
        at, offset = divmod(pfn * bits // 8, 4096)
        word = world.memory.read((mfns[first + at] << 12) + offset, bits // 8)
        assert int.from_bytes(word, "little") == mfns[pfn]
    # The way to it led through frames of the other machine (libxenguest, handle_shared_info()).
    assert world.arch(again).pfn_to_mfn_frame_list_list == 0
    assert world.arch(again).max_pfn == world.plan.pages
    assert world.arch(again).p2m_vaddr == world.arch(world.guest).p2m_vaddr
    # The guest makes a new one, and can be saved again.
    world.suspend(again)
    assert capture_pv(again).p2m_list == state.p2m_list


@pytest.mark.parametrize(
    ("bits", "base", "p2m_base"),
    [(64, 0xFFFF_FFFF_8000_0000, 0xFFFF_C900_0000_0000), (32, 0xC000_0000, None)],
)
def test_a_list_far_up(bits: int, base: int, p2m_base: int | None) -> None:
    """Where Linux has it: behind tables of its own, or those that hold Xen's mappings, too."""
    world = World(bits, "address", base, p2m_base)
    state = capture_pv(world.guest)
    address = world.arch(world.guest).p2m_vaddr
    assert address == p2m_base or base < address < base + world.plan.memory
    first = world.plan.p2m.pfn
    assert state.p2m_list == tuple(range(first, first + world.plan.p2m.pages))
    again = rebuild_pv(world.xen, state, contents_pv(world.guest))
    assert l1_entry(again.vcpus[0], address) is not None
    Audit(again).check()
    world.close()


@pytest.mark.parametrize("bits", BOTH)
def test_a_list_with_several_lists(make: Make, bits: int) -> None:
    """A page far behind the others: lists in between share a page that names nothing."""
    world = make(bits, "tree")
    per_page = 4096 * 8 // bits
    far = per_page**2 + 5
    last, empty, second, leaf = 0x30, 0x31, 0x32, 0x33
    world.memory.set_m2p(world.mfns[last], far, 1)
    first = world.plan.p2m.pages
    for index in range(first, per_page):
        world.put_word(world.mfns[LOWER], index, world.mfns[empty])
    world.put_word(world.mfns[UPPER], 1, world.mfns[second])
    world.put_word(world.mfns[second], 0, world.mfns[leaf])
    world.set_arch(world.guest, max_pfn=far + 1)
    state = capture_pv(world.guest)
    assert len(state.p2m_list) == per_page + 1
    assert set(state.p2m_list[first:-1]) == {empty}
    assert state.p2m_list[-1] == leaf
    again = rebuild_pv(world.xen, state, contents_pv(world.guest))
    mfns = world.mfns_of(again)
    word = world.memory.read((mfns[leaf] << 12) + 5 * bits // 8, bits // 8)
    assert int.from_bytes(word, "little") == mfns[far]
    assert world.memory.read(mfns[empty] << 12, 4096) == bytes(4096)


# -- bad values ------------------------------------------------------------------------------------
def _refused(world: World, what: str) -> None:
    with pytest.raises(StateError, match=what) as caught:
        capture_pv(world.guest)
    text = str(caught.value)
    assert text.startswith("pv")
    assert "\n" not in text
    assert len(text) < 160


def _table(world: World) -> int:
    return world.mfns[world.plan.root]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bits", BOTH)
@pytest.mark.parametrize("pages", ["none", "too few"])
def test_a_list_that_ends_too_early(make: Make, bits: int, form: Form, pages: str) -> None:
    world = make(bits, form)
    world.set_arch(world.guest, max_pfn=0 if pages == "none" else world.plan.pages - 1)
    _refused(world, "ends before its last page")


@pytest.mark.parametrize("bits", BOTH)
def test_no_list_at_all(make: Make, bits: int) -> None:
    world = make(bits, "tree")
    world.set_arch(world.guest, pfn_to_mfn_frame_list_list=0)
    _refused(world, "doesn't tell where")


@pytest.mark.parametrize("bits", BOTH)
def test_more_pages_than_a_tree_has(make: Make, bits: int) -> None:
    world = make(bits, "tree")
    most = (4096 * 8 // bits) ** 3
    world.set_arch(world.guest, max_pfn=most + 1)
    _refused(world, re.escape(f"max_pfn {most + 1:#x} is more than"))
    world.set_arch(world.guest, max_pfn=most)
    assert capture_pv(world.guest).p2m_list


@pytest.mark.parametrize("frame", ["none", "nobody's", "another's"])
@pytest.mark.parametrize("bits", BOTH)
@pytest.mark.parametrize("level", ["top", "list", "leaf"])
def test_a_tree_that_leads_elsewhere(make: Make, bits: int, level: str, frame: str) -> None:
    world = make(bits, "tree")
    other = world.xen.create_domain(world.guest.kind, max_pages=4)
    ((theirs, _),) = other.p2m.populate(0)
    bad = {"none": 0, "nobody's": (1 << bits) - 1, "another's": theirs}[frame]
    if level == "top":
        if frame == "none":
            return  # that is no tree
        world.set_arch(world.guest, pfn_to_mfn_frame_list_list=bad)
        _refused(world, "the list of lists of its frames is in no page of its own")
    elif level == "list":
        world.put_word(world.mfns[UPPER], 0, bad)
        _refused(world, "list 0 of lists of its frames is in no page of its own")
    else:
        world.put_word(world.mfns[LOWER], 1, bad)
        _refused(world, "page 1 of the list of its frames is in no page of its own")


@pytest.mark.parametrize("bits", BOTH)
def test_a_leaf_that_is_a_page_table(make: Make, bits: int) -> None:
    world = make(bits, "tree")
    world.put_word(world.mfns[LOWER], 0, _table(world))
    _refused(world, "page 0 of the list of its frames is a page table")
    # Nor can a record say so.
    world.put_word(world.mfns[LOWER], 0, world.mfns[world.plan.p2m.pfn])
    state = capture_pv(world.guest)
    state = msgspec.structs.replace(state, p2m_list=(world.plan.root,))
    with pytest.raises(StateError, match="page table"):
        rebuild_pv(world.xen, state, contents_pv(world.guest))


@pytest.mark.parametrize("bits", BOTH)
def test_a_tree_in_a_circle(make: Make, bits: int) -> None:
    """Its depth is what it is; the guest's own pages are all that suffers."""
    world = make(bits, "tree")
    for index in range(4096 * 8 // bits):
        world.put_word(world.mfns[UPPER], index, world.mfns[UPPER])
    assert set(capture_pv(world.guest).p2m_list) == {UPPER}
    again = rebuild_pv(world.xen, capture_pv(world.guest), contents_pv(world.guest))
    Audit(again).check()


@pytest.mark.parametrize("bits", BOTH)
@pytest.mark.parametrize("root", ["another's", "data", "a lower table", "unfolded"])
def test_roots_that_are_none(make: Make, bits: int, root: str) -> None:
    world = make(bits, "address")
    other = world.xen.create_domain(world.guest.kind, max_pages=4)
    ((theirs, _),) = other.p2m.populate(0)
    lower = next(table.pfn for table in world.plan.tables if table.level == 1)
    frame = {"another's": theirs, "data": world.mfns[5], "a lower table": world.mfns[lower]}
    cr3 = frame_cr3(frame.get(root, 0), bits)
    if root == "unfolded":
        cr3 = _table(world)  # a number of a frame instead
    world.set_arch(world.guest, p2m_cr3=cr3)
    if root in ("another's", "unfolded"):
        _refused(world, r"the root of its list of frames \(p2m_cr3\) is in no page")
    else:
        _refused(world, "isn't behind page tables")


@pytest.mark.parametrize(
    ("bits", "address", "max_pfn"),
    [
        (64, 0x1234, 1028),
        (64, 1 << 47, 1028),
        (64, (1 << 47) - 0x2000, 1028),
        (64, 0xFFFF_8000_0000_0000, 1028),
        (64, 0xFFFF_87FF_FFFF_F000, 1028),
        (64, (1 << 64) - 0x2000, 1028),
        (64, 0x1000, 1 << 63),
        (32, 0x1234, 1028),
        (32, 0xF580_0000, 1028),
        (32, 0xF57F_F000, 1028),
        (32, 0xFFFF_F000, 1028),
        (32, 0x1000, (1 << 32) - 1),
    ],
)
def test_addresses_where_nothing_can_be(make: Make, bits: int, address: int, max_pfn: int) -> None:
    world = make(bits, "address")
    world.set_arch(world.guest, p2m_vaddr=address, max_pfn=max_pfn)
    _refused(world, re.escape(f"can't be at {address:#x}"))


@pytest.mark.parametrize("bits", BOTH)
def test_addresses_without_a_mapping(make: Make, bits: int) -> None:
    world = make(bits, "address")
    world.set_arch(world.guest, p2m_vaddr=0x4000_0000)
    _refused(world, "isn't all mapped")
    # The list ends in a hole.
    world.tell(world.guest)
    entry = l1_entry(world.guest.vcpus[0], world.plan.p2m.start + 0x1000)
    assert entry is not None
    pages = world.guest.arch.pages  # type: ignore[attr-defined]  # a PV guest's
    assert pages.update(entry, 0) == 0
    _refused(world, "isn't all mapped .*level 1")
    # Or somebody else's page is there.
    other = world.xen.create_domain(world.guest.kind, max_pages=4)
    ((theirs, _),) = other.p2m.populate(0)
    assert pages.update(entry, theirs << 12 | 1, other.domid) == 0
    _refused(world, r"what maps the list of its frames at .* is in no page of its own")


# -- there and back --------------------------------------------------------------------------------
FRAMES = st.integers(0, (1 << 32) - 1)


@given(FRAMES)
def test_cr3_of_32_bits(frame: int) -> None:
    cr3 = frame_cr3(frame, 32)
    assert 0 <= cr3 < 1 << 32
    assert cr3_frame(cr3, 32) == frame
    assert cr3 == frame << 12 or frame >= 1 << 20


@given(st.integers(0, (1 << 40) - 1), st.integers(0, 4095))
def test_cr3_of_64_bits(frame: int, flags: int) -> None:
    assert cr3_frame(frame_cr3(frame, 64) | flags, 64) == frame


class _Names:
    """`Names` of no domain."""

    def __init__(self, pfns: dict[int, int]) -> None:
        self.pfns = pfns


PFNS = range(64)


@given(
    bits=st.sampled_from(BOTH),
    level=st.integers(1, 4),
    mfns=st.lists(FRAMES, min_size=len(PFNS), max_size=len(PFNS), unique=True),
    elsewhere=st.lists(
        st.integers(1 << 33, 1 << 34), min_size=len(PFNS), max_size=len(PFNS), unique=True
    ),
    slots=st.dictionaries(
        st.integers(0, 511), st.tuples(st.sampled_from(PFNS), st.sampled_from([1, 3, 7, 0x67, 0]))
    ),
)
def test_a_page_table_there_and_back(
    bits: int,
    level: int,
    mfns: list[int],
    elsewhere: list[int],
    slots: dict[int, tuple[int, int]],
) -> None:
    """Entries of the guest's name the same pages again; those of Xen's don't come along."""
    if bits == 32 and level == 4:
        level = 3
    entries = [0] * 512
    for slot, (pfn, flags) in slots.items():
        entries[slot] = 1 << 63 | mfns[pfn] << 12 | flags
    names = _Names(dict(zip(mfns, PFNS, strict=True)))
    page = struct.pack("<512Q", *entries)
    neutral = pv._to_pfns(names, page, level, bits)  # type: ignore[arg-type]
    there = pv.to_mfns(neutral, dict(zip(PFNS, elsewhere, strict=True)))
    back = _Names(dict(zip(elsewhere, PFNS, strict=True)))
    assert pv._to_pfns(back, there, level, bits) == neutral  # type: ignore[arg-type]
    for slot, entry in enumerate(struct.unpack("<512Q", there)):
        xens = (level == 4 and 256 <= slot < 272) or (bits == 32 and level == 3 and slot > 3)
        pfn, flags = slots.get(slot, (0, 0))
        if xens and flags & 1:
            assert entry == 0
        elif flags & 1:
            assert entry == 1 << 63 | elsewhere[pfn] << 12 | flags
        else:
            assert entry == entries[slot]


@given(
    bits=st.sampled_from(BOTH),
    index=st.integers(0, 3),
    old=st.dictionaries(st.integers(0, 4095), FRAMES),
    offset=st.integers(1, 1 << 20),
    rest=st.integers(0, (1 << 32) - 1),
)
def test_a_page_of_the_list_there_and_back(
    bits: int, index: int, old: dict[int, int], offset: int, rest: int
) -> None:
    code, per_page = ("Q", 512) if bits == 64 else ("I", 1024)
    first = index * per_page
    words = [old.get(first + i, rest) for i in range(per_page)]
    page = struct.pack(f"<{per_page}{code}", *words)
    new = {pfn: mfn + offset & 0xFFFFFFFF for pfn, mfn in old.items()}
    moved = pv.frames_of_list(page, index, bits, new)
    found = struct.unpack(f"<{per_page}{code}", moved)
    assert found == tuple(new.get(first + i, rest) for i in range(per_page))
    assert pv.frames_of_list(moved, index, bits, old) == page


@given(st.sampled_from(BOTH), st.integers(0, (1 << 32) - 1), st.none() | st.integers(0, 1 << 32))
def test_root_tables_there_and_back(bits: int, kernel: int, user: int | None) -> None:
    """Page 0, too, may be one; a 32-bit guest's user has none."""
    context = pv.narrow_or_wide(bits)()
    context.ctrlreg[3] = frame_cr3(kernel, bits)
    if user is not None and bits == 64:
        context.ctrlreg[1] = frame_cr3(user, bits) | 1
    again = pv.narrow_or_wide(bits).unpack(context.pack(bits), bits)
    pv.rename_roots(again, bits, lambda mfn: mfn ^ 0xFFFFFFFF)
    assert again.ctrlreg[3] == frame_cr3(kernel ^ 0xFFFFFFFF, bits)
    pv.rename_roots(again, bits, lambda mfn: mfn ^ 0xFFFFFFFF)
    assert again.pack(bits) == context.pack(bits)
