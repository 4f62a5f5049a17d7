# SPDX-License-Identifier: GPL-2.0-or-later
"""What every engine's memory and address spaces must do, whatever it is made of.

`test_conformance.py` runs these classes against each engine; a new engine adds itself to the
parameters there.  Nothing here assumes which mfns an allocation returns, only that the same
calls return the same ones.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xenograft.engine.protocol import (
    P2M_COW,
    P2M_PRESENT,
    P2M_RWX,
    P2M_WRITE,
    PAGE_SIZE,
    AccessError,
    AddressSpace,
    Engine,
    MachineMemory,
)

FRAMES = 4096
OWNER = 7


@pytest.fixture
def memory(engine: Engine) -> Iterator[MachineMemory]:
    memory = engine.memory(FRAMES)
    yield memory
    memory.close()


@pytest.fixture
def space(engine: Engine, memory: MachineMemory) -> Iterator[AddressSpace]:
    space = engine.space(memory)
    yield space
    space.close()


def take(memory: MachineMemory, count: int = 1, owner: int = OWNER) -> list[int]:
    """Allocate and flatten the extents."""
    return [
        mfn for start, length in memory.alloc(owner, count) for mfn in range(start, start + length)
    ]


class MemoryConformance:
    """`MachineMemory`."""

    def test_frame_count(self, memory: MachineMemory) -> None:
        assert memory.frames == FRAMES
        # An engine may keep a few frames (the first one, say) out of the allocator.
        assert FRAMES - 256 <= memory.free_frames() <= FRAMES

    def test_alloc_gives_distinct_owned_frames(self, memory: MachineMemory) -> None:
        free = memory.free_frames()
        first, second = take(memory, 100), take(memory, 28, owner=9)
        assert len(first) == 100
        assert len(second) == 28
        assert len(set(first) | set(second)) == 128
        assert all(0 <= mfn < FRAMES for mfn in first + second)
        assert {memory.owner(mfn) for mfn in first} == {OWNER}
        assert {memory.owner(mfn) for mfn in second} == {9}
        assert {memory.refs(mfn) for mfn in first + second} == {1}
        assert memory.free_frames() == free - 128

    def test_alloc_of_a_fresh_machine_is_one_ascending_extent(self, memory: MachineMemory) -> None:
        assert len(memory.alloc(OWNER, 64)) == 1

    def test_the_same_calls_give_the_same_frames(self, engine: Engine) -> None:
        def history() -> list[list[int]]:
            memory = engine.memory(FRAMES)
            a, b = take(memory, 10), take(memory, 5)
            for mfn in a[::2]:
                memory.free(mfn)
            c = take(memory, 8)
            memory.close()
            return [a, b, c]

        assert history() == history()

    def test_exhaustion_takes_nothing(self, memory: MachineMemory) -> None:
        free = memory.free_frames()
        with pytest.raises(MemoryError):
            memory.alloc(OWNER, free + 1)
        assert memory.free_frames() == free
        frames = take(memory, free)
        assert memory.free_frames() == 0
        with pytest.raises(MemoryError):
            memory.alloc(OWNER)
        memory.free(frames[5])
        assert take(memory) == [frames[5]]

    def test_freed_frames_come_back_zeroed(self, memory: MachineMemory) -> None:
        frames = take(memory, memory.free_frames())
        for mfn in frames[:3]:
            memory.write(mfn * PAGE_SIZE, b"secret" * 100)
            memory.free(mfn)
        again = take(memory, 3)
        assert sorted(again) == sorted(frames[:3])
        assert all(memory.read(mfn * PAGE_SIZE, PAGE_SIZE) == bytes(PAGE_SIZE) for mfn in again)

    def test_free_a_range(self, memory: MachineMemory) -> None:
        free = memory.free_frames()
        ((start, length),) = memory.alloc(OWNER, 32)
        memory.free(start, length)
        assert memory.free_frames() == free

    def test_references(self, memory: MachineMemory) -> None:
        free = memory.free_frames()
        (mfn,) = take(memory)
        assert memory.get_ref(mfn) == 2
        assert memory.get_ref(mfn) == 3
        assert memory.refs(mfn) == 3
        assert memory.put_ref(mfn) == 2
        assert memory.put_ref(mfn) == 1
        assert memory.free_frames() == free - 1
        assert memory.put_ref(mfn) == 0
        assert memory.free_frames() == free
        assert memory.refs(mfn) == 0

    def test_free_refuses_a_frame_in_use(self, memory: MachineMemory) -> None:
        (mfn,) = take(memory)
        memory.get_ref(mfn)
        with pytest.raises(ValueError, match="references"):
            memory.free(mfn)
        assert memory.refs(mfn) == 2

    def test_references_to_a_free_frame_are_refused(self, memory: MachineMemory) -> None:
        (mfn,) = take(memory)
        memory.free(mfn)
        with pytest.raises(ValueError, match="free"):
            memory.get_ref(mfn)
        with pytest.raises(ValueError, match="free"):
            memory.put_ref(mfn)

    def test_owner_can_change(self, memory: MachineMemory) -> None:
        (mfn,) = take(memory)
        for owner in (0, 1, 0x7FEF, 0x7FF4):
            memory.set_owner(mfn, owner)
            assert memory.owner(mfn) == owner
        assert memory.refs(mfn) == 1

    def test_frame_numbers_outside_raise(self, memory: MachineMemory) -> None:
        for mfn in (-1, FRAMES, 1 << 40):
            with pytest.raises(IndexError):
                memory.owner(mfn)
            with pytest.raises(IndexError):
                memory.refs(mfn)
            with pytest.raises(IndexError):
                memory.get_ref(mfn)

    def test_fresh_memory_is_zero(self, memory: MachineMemory) -> None:
        (mfn,) = take(memory)
        assert memory.read(mfn * PAGE_SIZE, PAGE_SIZE) == bytes(PAGE_SIZE)

    def test_writes_may_cross_frames(self, memory: MachineMemory) -> None:
        ((start, _),) = memory.alloc(OWNER, 4)
        data = bytes(range(256)) * 40
        memory.write(start * PAGE_SIZE + 1000, data)
        assert memory.read(start * PAGE_SIZE + 1000, len(data)) == data
        assert memory.read(start * PAGE_SIZE, 1000) == bytes(1000)

    def test_empty_accesses(self, memory: MachineMemory) -> None:
        assert memory.read(0, 0) == b""
        memory.write(0, b"")

    @pytest.mark.parametrize("maddr", [-1, FRAMES * PAGE_SIZE - 3, FRAMES * PAGE_SIZE, 1 << 60])
    def test_accesses_outside_raise(self, memory: MachineMemory, maddr: int) -> None:
        with pytest.raises(IndexError):
            memory.read(maddr, 8)
        with pytest.raises(IndexError):
            memory.write(maddr, b"12345678")
        with pytest.raises(IndexError):
            memory.read_u64(maddr)
        with pytest.raises(IndexError):
            memory.write_u32(maddr, 1)
        with pytest.raises(IndexError):
            memory.test_and_set_bit(maddr, 63)
        with pytest.raises(IndexError):
            memory.compare_exchange_u32(maddr, 0, 1)

    def test_integers_are_little_endian(self, memory: MachineMemory) -> None:
        base = take(memory)[0] * PAGE_SIZE
        memory.write_u64(base, 0x8877665544332211)
        memory.write_u32(base + 8, 0xDDCCBBAA)
        assert memory.read(base, 12) == bytes.fromhex("1122334455667788aabbccdd")
        assert memory.read_u32(base) == 0x44332211
        assert memory.read_u64(base + 4) == 0xDDCCBBAA88776655

    def test_unaligned_integers_across_frames(self, memory: MachineMemory) -> None:
        ((start, _),) = memory.alloc(OWNER, 2)
        edge = (start + 1) * PAGE_SIZE
        memory.write_u64(edge - 3, 0x0102030405060708)
        assert memory.read_u64(edge - 3) == 0x0102030405060708
        memory.write_u32(edge - 1, 0xA1B2C3D4)
        assert memory.read_u32(edge - 1) == 0xA1B2C3D4

    def test_bits(self, memory: MachineMemory) -> None:
        base = take(memory)[0] * PAGE_SIZE
        for bit in (0, 7, 8, 31, 32, 63, 64, 1000, 32767):
            assert memory.test_and_set_bit(base, bit) is False
            assert memory.test_and_set_bit(base, bit) is True
            assert memory.read(base + bit // 8, 1)[0] & 1 << bit % 8
        assert memory.test_and_clear_bit(base, 1000) is True
        assert memory.test_and_clear_bit(base, 1000) is False
        assert memory.test_and_clear_bit(base, 1001) is False
        assert memory.test_and_set_bit(base, 32767) is True
        with pytest.raises(ValueError, match="aligned"):
            memory.test_and_set_bit(base + 2, 0)

    def test_pieces_of_pages(self, memory: MachineMemory) -> None:
        mfns = [mfn for mfn, _ in (memory.alloc(1)[0] for _ in range(3))]
        for number, mfn in enumerate(mfns):
            memory.write(mfn << 12, bytes([number + 1]) * PAGE_SIZE)
        table = {70: mfns[0] << 12, 1 << 31: mfns[1] << 12, 5: mfns[2] << 12}
        records = struct.pack("<IBBxxIBBxxIBBxxIBBxx", 5, 0, 0, 70, 2, 7, 1 << 31, 7, 7, 5, 1, 1)
        found = memory.locate(records, table)
        assert found is not None
        pieces, size = found
        assert size == 9 * 512
        assert memory.gather(pieces) == b"\3" * 512 + b"\1" * 3072 + b"\2" * 512 + b"\3" * 512
        data = bytes(index % 251 for index in range(size))
        memory.scatter(pieces, memoryview(data))
        assert memory.gather(pieces) == data
        assert memory.read(mfns[0] << 12, 1024) == b"\1" * 1024
        assert memory.read((mfns[2] << 12) + 1024, 3072) == b"\3" * 3072
        # Neighbours become one.
        found = memory.locate(struct.pack("<IBBxxIBBxx", 5, 0, 3, 5, 4, 7), table)
        assert found is not None
        assert found == (struct.pack("=QQ", mfns[2] << 12, PAGE_SIZE), PAGE_SIZE)
        assert memory.locate(b"", table) == (b"", 0)
        for bad in ((6, 0, 0), (5, 1, 0), (5, 0, 8), (5, 255, 255)):
            assert memory.locate(struct.pack("<IBBxx", *bad), table) is None
        assert memory.locate(struct.pack("<IBBxx", 5, 0, 0) * 513, table) is None

    def test_bad_pieces(self, memory: MachineMemory) -> None:
        end = memory.frames << 12
        for maddr, size in ((end, 1), (0, end + 1), (1 << 63, 1), (8192, (1 << 64) - 4096)):
            pieces = struct.pack("=QQ", maddr, size)
            with pytest.raises(IndexError):
                memory.gather(pieces)
            with pytest.raises(IndexError):
                memory.scatter(pieces, b"x")
            with pytest.raises(IndexError):
                memory.fill(pieces, 0, 0)
        with pytest.raises(ValueError, match="array"):
            memory.gather(b"x")
        with pytest.raises(ValueError, match="array"):
            memory.gather(bytes(16 * 513))
        with pytest.raises(ValueError, match="another size"):
            memory.scatter(struct.pack("=QQ", 8192, 5), b"four")

    def test_pieces_from_a_file(self, memory: MachineMemory, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(bytes(range(256)) * 32)
        ((mfn, _),) = memory.alloc(1)
        found = memory.locate(struct.pack("<IBBxxIBBxx", 1, 0, 0, 1, 4, 5), {1: mfn << 12})
        assert found is not None
        with path.open("rb") as file:
            file.read()
            try:
                got = memory.fill(found[0], file.fileno(), 100)
            except OSError:
                pytest.skip("this file system can't read without waiting")
            if got:
                assert (got, memory.gather(found[0])) == (1536, path.read_bytes()[100:1636])
            assert memory.fill(found[0], file.fileno(), 8192) == 0
            assert memory.fill(found[0], file.fileno(), 8192 - 700) in (0, 700)
        with pytest.raises(OSError, match="Bad file"):
            memory.fill(found[0], 999_999, 0)

    def test_compare_exchange(self, memory: MachineMemory) -> None:
        base = take(memory)[0] * PAGE_SIZE
        memory.write(base, b"\x05\0\0\0\xff\xff\xff\xff")
        assert memory.compare_exchange_u32(base, 4, 9) == 5
        assert memory.read_u32(base) == 5
        assert memory.compare_exchange_u32(base, 5, 0xFFFFFFFF) == 5
        assert memory.read_u64(base) == 0xFFFFFFFFFFFFFFFF
        assert memory.compare_exchange_u32(base, 0xFFFFFFFF, 0) == 0xFFFFFFFF
        assert memory.read_u64(base) == 0xFFFFFFFF00000000

    def test_digest_is_sha256_of_the_contents_in_order(self, memory: MachineMemory) -> None:
        ((start, _),) = memory.alloc(OWNER, 4)
        for i in range(4):
            memory.write((start + i) * PAGE_SIZE, bytes([i + 1]) * PAGE_SIZE)
        pages = [bytes([i + 1]) * PAGE_SIZE for i in range(4)]
        expected = hashlib.sha256(pages[2] + pages[3] + pages[0]).digest()
        assert memory.digest([(start + 2, 2), (start, 1)]) == expected
        assert memory.digest([]) == hashlib.sha256().digest()

    @settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        writes=st.lists(
            st.tuples(st.integers(0, 4 * PAGE_SIZE), st.binary(min_size=1, max_size=5000)),
            max_size=10,
        )
    )
    def test_contents_follow_a_flat_model(
        self, engine: Engine, writes: list[tuple[int, bytes]]
    ) -> None:
        memory = engine.memory(512)
        ((start, length),) = memory.alloc(OWNER, 6)
        model = bytearray(length * PAGE_SIZE)
        for at, data in writes:
            memory.write(start * PAGE_SIZE + at, data)
            model[at : at + len(data)] = data
        assert memory.read(start * PAGE_SIZE, len(model)) == bytes(model)
        memory.close()


class DirtyConformance:
    """Dirty logging of copy-outs."""

    def test_copy_out_marks_frames(self, memory: MachineMemory) -> None:
        ((start, _),) = memory.alloc(OWNER, 8)
        memory.set_dirty_logging(True)
        memory.write(start * PAGE_SIZE + PAGE_SIZE - 1, b"ab")
        memory.write_u32((start + 4) * PAGE_SIZE, 1)
        memory.test_and_set_bit((start + 6) * PAGE_SIZE, 3)
        memory.read((start + 7) * PAGE_SIZE, 8)
        expected = [start, start + 1, start + 4, start + 6]
        assert memory.dirty_frames(clear=False) == expected
        assert memory.dirty_frames() == expected
        assert memory.dirty_frames() == []


class SpaceConformance:
    """`AddressSpace`."""

    def test_an_empty_space(self, space: AddressSpace) -> None:
        assert space.entries() == []
        assert space.lookup(0) is None
        assert space.lookup(1 << 30) is None
        with pytest.raises(AccessError) as error:
            space.read(0x1234, 1)
        assert error.value.address == 0x1234

    def test_map_and_lookup(self, memory: MachineMemory, space: AddressSpace) -> None:
        ((start, _),) = memory.alloc(OWNER, 4)
        space.map(0x100, start, 3)
        space.map(0x80000, start + 3, flags=P2M_PRESENT)
        assert space.lookup(0x100) == (start, P2M_RWX)
        assert space.lookup(0x102) == (start + 2, P2M_RWX)
        assert space.lookup(0x103) is None
        assert space.lookup(0xFF) is None
        assert space.lookup(0x80000) == (start + 3, P2M_PRESENT)

    def test_mapping_takes_no_reference(self, memory: MachineMemory, space: AddressSpace) -> None:
        (mfn,) = take(memory)
        space.map(5, mfn)
        assert memory.refs(mfn) == 1
        space.unmap(5)
        assert memory.refs(mfn) == 1

    def test_unmap_leaves_neighbours(self, memory: MachineMemory, space: AddressSpace) -> None:
        ((start, _),) = memory.alloc(OWNER, 5)
        space.map(510, start, 5)
        space.unmap(511, 2)
        assert space.entries() == [(510, start, 1, P2M_RWX), (513, start + 3, 2, P2M_RWX)]
        space.unmap(0, 2000)
        assert space.entries() == []

    def test_map_replaces(self, memory: MachineMemory, space: AddressSpace) -> None:
        ((start, _),) = memory.alloc(OWNER, 4)
        space.map(0, start, 3)
        space.map(1, start + 3, flags=P2M_PRESENT | P2M_WRITE)
        assert space.entries() == [
            (0, start, 1, P2M_RWX),
            (1, start + 3, 1, P2M_PRESENT | P2M_WRITE),
            (2, start + 2, 1, P2M_RWX),
        ]

    def test_one_frame_at_two_addresses(self, memory: MachineMemory, space: AddressSpace) -> None:
        (mfn,) = take(memory)
        space.map(3, mfn)
        space.map(9, mfn, flags=P2M_PRESENT)
        space.write(3 * PAGE_SIZE + 8, b"shared")
        assert space.read(9 * PAGE_SIZE + 8, 6) == b"shared"

    def test_two_spaces_share_a_frame(self, engine: Engine, memory: MachineMemory) -> None:
        (mfn,) = take(memory)
        one, two = engine.space(memory), engine.space(memory)
        one.map(0, mfn)
        two.map(77, mfn)
        one.write(0, b"hello")
        assert two.read(77 * PAGE_SIZE, 5) == b"hello"
        one.close()
        assert two.read(77 * PAGE_SIZE, 5) == b"hello"
        two.close()

    def test_entries_are_maximal_runs(self, memory: MachineMemory, space: AddressSpace) -> None:
        ((start, _),) = memory.alloc(OWNER, 16)
        for i in (3, 1, 0, 2):
            space.map(512 - 2 + i, start + i)
        space.map(514, start + 8)
        space.map(515, start + 9, flags=P2M_PRESENT)
        assert space.entries() == [
            (510, start, 4, P2M_RWX),
            (514, start + 8, 1, P2M_RWX),
            (515, start + 9, 1, P2M_PRESENT),
        ]

    def test_accesses_cross_pages_of_scattered_frames(
        self, memory: MachineMemory, space: AddressSpace
    ) -> None:
        ((start, _),) = memory.alloc(OWNER, 3)
        space.map(0x20, start + 2)
        space.map(0x21, start)
        data = bytes(range(1, 101))
        space.write(0x21 * PAGE_SIZE - 50, data)
        assert space.read(0x21 * PAGE_SIZE - 50, 100) == data
        assert memory.read((start + 3) * PAGE_SIZE - 50, 50) == data[:50]
        assert memory.read(start * PAGE_SIZE, 50) == data[50:]

    def test_a_hole_stops_the_whole_write(self, memory: MachineMemory, space: AddressSpace) -> None:
        (mfn,) = take(memory)
        space.map(4, mfn)
        with pytest.raises(AccessError) as error:
            space.write(5 * PAGE_SIZE - 2, b"abcd")
        assert error.value.address == 5 * PAGE_SIZE
        assert space.read(5 * PAGE_SIZE - 2, 2) == b"\0\0"
        with pytest.raises(AccessError) as error:
            space.read(5 * PAGE_SIZE - 2, 4)
        assert error.value.address == 5 * PAGE_SIZE

    def test_a_read_only_page_refuses_writes(
        self, memory: MachineMemory, space: AddressSpace
    ) -> None:
        ((start, _),) = memory.alloc(OWNER, 2)
        space.map(0, start)
        space.map(1, start + 1, flags=P2M_PRESENT)
        with pytest.raises(AccessError) as error:
            space.write(PAGE_SIZE - 1, b"xy")
        assert error.value.address == PAGE_SIZE
        assert space.read(PAGE_SIZE - 1, 2) == b"\0\0"

    def test_writes_mark_frames_dirty(self, memory: MachineMemory, space: AddressSpace) -> None:
        ((start, _),) = memory.alloc(OWNER, 2)
        space.map(0, start, 2)
        memory.set_dirty_logging(True)
        space.write(PAGE_SIZE, b"x")
        assert memory.dirty_frames() == [start + 1]

    def test_bad_arguments(self, memory: MachineMemory, space: AddressSpace) -> None:
        (mfn,) = take(memory)
        with pytest.raises(IndexError):
            space.map(0, FRAMES)
        with pytest.raises(IndexError):
            space.map(0, FRAMES - 1, 2)
        with pytest.raises(IndexError):
            space.map(1 << 60, mfn)
        with pytest.raises(ValueError, match="PRESENT"):
            space.map(0, mfn, flags=P2M_WRITE)
        assert space.entries() == []

    def test_addresses_far_out_are_holes(self, space: AddressSpace) -> None:
        for gpa in (1 << 47, 1 << 52, (1 << 64) - 8):
            with pytest.raises(AccessError):
                space.read(gpa, 8)
            with pytest.raises(AccessError):
                space.write(gpa, b"12345678")

    @settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        steps=st.lists(
            st.tuples(
                st.booleans(),
                st.integers(500, 530),
                st.integers(0, 20),
                st.integers(1, 12),
                st.sampled_from([P2M_RWX, P2M_PRESENT]),
            ),
            max_size=30,
        )
    )
    def test_entries_follow_a_dict(
        self, engine: Engine, steps: list[tuple[bool, int, int, int, int]]
    ) -> None:
        memory = engine.memory(512)
        space = engine.space(memory)
        ((start, _),) = memory.alloc(OWNER, 32)
        model: dict[int, tuple[int, int]] = {}
        for is_map, gfn, frame, count, flags in steps:
            if is_map:
                space.map(gfn, start + frame, count, flags)
                model.update({gfn + i: (start + frame + i, flags) for i in range(count)})
            else:
                space.unmap(gfn, count)
                for i in range(count):
                    model.pop(gfn + i, None)
        flat = {
            gfn + i: (mfn + i, flags)
            for gfn, mfn, count, flags in space.entries()
            for i in range(count)
        }
        assert flat == model
        assert all(space.lookup(gfn) == model.get(gfn) for gfn in range(495, 545))
        runs = space.entries()
        assert runs == sorted(runs)
        for a, b in pairwise(runs):
            assert (a[0] + a[2], a[1] + a[2], a[3]) != (b[0], b[1], b[3])
        space.close()
        memory.close()


SHARED = 0x7FF3


def _gfns(runs: list[tuple[int, int, int, int]]) -> list[int]:
    return [one for gfn, _, count, _ in runs for one in range(gfn, gfn + count)]


class SharingConformance:
    """Spaces that share their frames until one of them writes."""

    @pytest.fixture
    def spaces(
        self, engine: Engine, memory: MachineMemory
    ) -> Iterator[tuple[AddressSpace, AddressSpace]]:
        one, two = engine.space(memory), engine.space(memory)
        gfn = 16
        for mfn, count in memory.alloc(OWNER, 8):
            one.map(gfn, mfn, count)
            gfn += count
        for page in range(16, 24):
            one.write(page << 12, b"page %d" % page)
        yield one, two
        one.close()
        two.close()

    def test_a_write_is_seen_by_the_writer_alone(
        self, memory: MachineMemory, spaces: tuple[AddressSpace, AddressSpace]
    ) -> None:
        one, two = spaces
        free = memory.free_frames()
        whole = [(*run[:3], P2M_RWX | P2M_COW) for run in one.entries()]
        assert one.share(two, OWNER, 9, SHARED) == (whole, [])
        assert [run[::2] for run in two.entries()] == [run[::2] for run in one.entries()]
        assert memory.free_frames() == free
        (mfn, _) = one.lookup(18) or (0, 0)
        assert (memory.owner(mfn), memory.refs(mfn)) == (SHARED, 2)
        two.write(18 << 12, b"other")
        assert one.read(18 << 12, 7) == b"page 18"
        assert two.read(18 << 12, 7) == b"other18"
        assert memory.free_frames() == free - 1
        (copy, _) = two.lookup(18) or (0, 0)
        assert (memory.owner(copy), memory.refs(copy)) == (9, 1)
        # The last one to see a frame takes it over, without a copy.
        one.write(18 << 12, b"mine")
        assert one.lookup(18) == (mfn, P2M_RWX)
        assert (memory.owner(mfn), memory.refs(mfn)) == (OWNER, 1)
        assert memory.free_frames() == free - 1
        assert two.private(16, 8) == [(18, copy, 1, 0)]

    def test_what_others_refer_to_is_left(
        self, memory: MachineMemory, spaces: tuple[AddressSpace, AddressSpace]
    ) -> None:
        one, two = spaces
        for gfn in (17, 18, 22):
            memory.get_ref((one.lookup(gfn) or (0, 0))[0])
        fresh, left = one.share(two, OWNER, 9, SHARED)
        assert _gfns(fresh) == [16, 19, 20, 21, 23]
        assert _gfns(left) == [17, 18, 22]
        for gfn, mfn, _, flags in left:
            assert one.lookup(gfn) == (mfn, flags)
        assert two.lookup(17) is None
        one.write(17 << 12, b"still")
        assert two.lookup(18) is None

    def test_three_spaces_and_the_end(
        self, engine: Engine, memory: MachineMemory, spaces: tuple[AddressSpace, AddressSpace]
    ) -> None:
        one, two = spaces
        three = engine.space(memory)
        one.share(two, OWNER, 9, SHARED)
        one.write(16 << 12, b"changed")
        (mfn, _) = one.lookup(16) or (0, 0)
        # Nothing is told again of what was shared before.
        assert one.share(three, OWNER, 10, SHARED) == ([(16, mfn, 1, P2M_RWX | P2M_COW)], [])
        two.share(engine.space(memory), 9, 11, SHARED)
        assert two.read(16 << 12, 7) == b"page 16"
        assert three.read(16 << 12, 7) == b"changed"
        (mfn, _) = three.lookup(20) or (0, 0)
        assert memory.refs(mfn) == 4
        for space in (one, two, three):
            assert space.unshare(20)
            space.drop_shared(0, 64)
            assert len(space.entries()) == 1
        assert memory.refs(mfn) == 1
        three.close()

    def test_no_frame_left_for_a_copy(
        self, memory: MachineMemory, spaces: tuple[AddressSpace, AddressSpace]
    ) -> None:
        one, two = spaces
        one.share(two, OWNER, 9, SHARED)
        memory.alloc(1, memory.free_frames())
        assert not two.unshare(19)
        with pytest.raises(MemoryError):
            two.write(19 << 12, b"x")
        assert one.read(19 << 12, 7) == b"page 19"


class DataConformance:
    """Which frames may hold something."""

    def test_only_what_was_touched(self, memory: MachineMemory) -> None:
        ((mfn, _),) = memory.alloc(OWNER, 600)
        assert memory.data(mfn, 600) == []
        memory.write(mfn + 5 << 12, b"x")
        memory.write((mfn + 300 << 12) + 4095, b"y")
        found = {
            frame for first, count in memory.data(mfn, 600) for frame in range(first, first + count)
        }
        assert {mfn + 5, mfn + 300} <= found
        assert len(found) < 100
        with pytest.raises(IndexError):
            memory.data(FRAMES, 1)
