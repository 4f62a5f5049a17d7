# SPDX-License-Identifier: GPL-2.0-or-later
"""The quick way to copy does what the thorough one does."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hypervisor.grants.bench import assert_unused, entry_maddr, grant, map_ref
from tests.hypervisor.memory.world import Caller, Dom, World
from xenograft.abi.grant_table import GNTMAP_host_map, GNTMAP_readonly, GTF_readonly
from xenograft.hypervisor.grants.host import GrantCopier, copy_from_grant, copy_to_grant
from xenograft.hypervisor.grants.status import GrantError

REF, PAGE = 20, 3


def scene(version: int = 1) -> tuple[World, Dom, Dom]:
    world = World()
    front = world.domain(1, pages=8)
    front.grants.set_version(version)
    return world, front, world.domain(0, privileged=True)


class Outcome:
    """What a copy did: its result or error, and the page afterwards."""

    def __init__(self, front: Dom, work: Callable[[], object]) -> None:
        self.result: object
        try:
            self.result = work()
        except GrantError as error:
            self.result = error.status
        except IndexError:
            self.result = "outside"
        self.pages = [front.read(gfn, 0, 4096) for gfn in range(8)]


@given(
    st.one_of(st.sampled_from([0, 1, 1, 1, 5, 2, 3, 9, 17]), st.integers(0, 0xFFFF)),
    st.sampled_from([0, 0, 0, 1, 2, 0x7FF0]),
    st.one_of(st.integers(0, 9), st.integers(0, 0xFFFFFFFF)),
    st.sampled_from([REF, REF, REF, 21, 5000, 0xFFFFFFFF]),
    st.sampled_from(
        [(0, 5), (4091, 5), (4092, 5), (-1, 2), (0, 4096), (0, 4097), (5, 0), (4097, 0)]
    ),
    st.booleans(),
    st.sampled_from([1, 1, 2]),
)
def test_both_ways_agree(
    flags: int,
    domid: int,
    gfn: int,
    ref: int,
    extent: tuple[int, int],
    write: bool,
    version: int,
) -> None:
    offset, size = extent
    data = b"x" * size

    def run(quick: bool) -> tuple[object, list[bytes]]:
        world, front, host = scene(version)
        entry = struct.pack("<HHI", flags, domid, gfn)
        if version == 2:
            entry = struct.pack("<HHIQ", flags, domid, 0, gfn)
        world.memory.write(entry_maddr(front, REF), entry)
        front.write(PAGE, 0, bytes(range(256)) * 16)
        copier = GrantCopier(host.grants, 1)

        def work() -> object:
            match quick, write:
                case True, True:
                    return copier.copy_to(ref, offset, data)
                case True, False:
                    return copier.copy_from(ref, offset, size)
                case False, True:
                    return copy_to_grant(host.grants, 1, ref, offset, data)
            return copy_from_grant(host.grants, 1, ref, offset, size)

        outcome = Outcome(front, work)
        return outcome.result, outcome.pages

    assert run(True) == run(False)


def test_a_plain_grant_is_copied_without_a_trace() -> None:
    world, front, host = scene()
    grant(front, REF, 0, PAGE)
    copier = GrantCopier(host.grants, 1)
    copier.copy_to(REF, 10, b"hello")
    assert copier.copy_from(REF, 8, 8) == b"\0\0hello\0"
    assert_unused(world, front, REF, PAGE)


def test_a_grant_that_is_mapped_meanwhile() -> None:
    world, front, host = scene()
    grant(front, REF, 0, PAGE, GTF_readonly)
    mapped = map_ref(Caller(world, host), front, REF, 0x1000, GNTMAP_host_map | GNTMAP_readonly)
    assert mapped.status == 0
    # The guest has withdrawn it: what is in use is what it was.
    world.memory.write(entry_maddr(front, REF) + 4, struct.pack("<I", 5))
    front.write(PAGE, 0, b"page three")
    front.write(5, 0, b"page five")
    copier = GrantCopier(host.grants, 1)
    result = Outcome(front, lambda: copier.copy_from(REF, 0, 10)).result
    assert result == Outcome(front, lambda: copy_from_grant(host.grants, 1, REF, 0, 10)).result


def test_what_is_watched_is_reported() -> None:
    world, front, host = scene()
    grant(front, REF, 0, PAGE)
    seen: list[tuple[object, ...]] = []
    world.instruments.grant_op = lambda *what: seen.append(what)
    GrantCopier(host.grants, 1).copy_from(REF, 0, 10)
    assert [what[2] for what in seen] == ["copy"]


def test_a_granter_that_is_dying() -> None:
    _, front, host = scene()
    grant(front, REF, 0, PAGE)
    copier = GrantCopier(host.grants, 1)
    copier.copy_from(REF, 0, 1)
    front.dying = True
    quick = Outcome(front, lambda: copier.copy_from(REF, 0, 1)).result
    assert quick == Outcome(front, lambda: copy_from_grant(host.grants, 1, REF, 0, 1)).result


def test_no_such_domain() -> None:
    _, front, host = scene()
    copier = GrantCopier(host.grants, 9)
    assert isinstance(Outcome(front, lambda: copier.copy_from(REF, 0, 1)).result, int)


def test_a_copy_that_a_fault_strikes() -> None:
    """The short way asks as well."""
    world, front, host = scene()
    grant(front, REF, 0, PAGE)
    world.faults.add_grant_copy(lambda _caller, _granter, ref: -9 if ref == REF else 0)
    with pytest.raises(GrantError) as error:
        GrantCopier(host.grants, 1).copy_from(REF, 0, 10)
    assert error.value.status == -9
    assert_unused(world, front, REF, PAGE)
