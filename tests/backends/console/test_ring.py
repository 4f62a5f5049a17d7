# SPDX-License-Identifier: GPL-2.0-or-later
"""The PV console's ring against a model of a guest's driver, and against nonsense."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xenograft.abi.io.console import XENCONS_IN_SIZE, XENCONS_OUT_SIZE, xencons_interface
from xenograft.backends.console.ring import ConsoleRing
from xenograft.engine.fake import FakeMemory

U32 = st.integers(0, (1 << 32) - 1)
AT = {
    name: xencons_interface.offsetof(name)
    for name in ("in_cons", "in_prod", "out_cons", "out_prod")
}


class Driver:
    """The guest's end, as Linux's hvc_xen has it."""

    def __init__(self, start: int = 0) -> None:
        self.memory = FakeMemory(4)
        self.maddr = 1 << 12
        self.ring = ConsoleRing(self.memory, self.maddr)
        for name in AT:
            self.set(name, start)

    def get(self, name: str) -> int:
        return self.memory.read_u32(self.maddr + AT[name])

    def set(self, name: str, value: int) -> None:
        self.memory.write_u32(self.maddr + AT[name], value & 0xFFFFFFFF)

    def write(self, data: bytes) -> int:
        prod, cons = self.get("out_prod"), self.get("out_cons")
        room = XENCONS_OUT_SIZE - (prod - cons & 0xFFFFFFFF)
        taken = data[:room]
        for byte in taken:
            at = self.maddr + xencons_interface.offsetof("out") + prod % XENCONS_OUT_SIZE
            self.memory.write(at, bytes([byte]))
            prod += 1
        self.set("out_prod", prod)
        return len(taken)

    def read(self) -> bytes:
        prod, cons = self.get("in_prod"), self.get("in_cons")
        data = b""
        while cons & 0xFFFFFFFF != prod:
            data += self.memory.read(self.maddr + cons % XENCONS_IN_SIZE, 1)
            cons += 1
        self.set("in_cons", cons)
        return data


@given(
    st.integers((1 << 32) - 5000, (1 << 32) + 5000), st.lists(st.binary(max_size=3000), max_size=8)
)
def test_what_the_guest_writes_is_read_whole_and_in_order(start: int, pieces: list[bytes]) -> None:
    driver = Driver(start & 0xFFFFFFFF)
    got = sent = b""
    for piece in pieces:
        while piece:
            taken = driver.write(piece)
            sent, piece = sent + piece[:taken], piece[taken:]
            got += driver.ring.read()
    assert got == sent
    assert driver.ring.read() == b""


@given(
    st.integers((1 << 32) - 3000, (1 << 32) + 3000), st.lists(st.binary(max_size=2500), max_size=8)
)
def test_what_is_written_is_read_by_the_guest(start: int, pieces: list[bytes]) -> None:
    driver = Driver(start & 0xFFFFFFFF)
    got = sent = b""
    for piece in pieces:
        while piece:
            taken = driver.ring.write(piece)
            assert taken <= XENCONS_IN_SIZE
            sent, piece = sent + piece[:taken], piece[taken:]
            got += driver.read()
    assert got == sent


def test_a_full_ring_takes_nothing() -> None:
    driver = Driver()
    assert driver.ring.write(b"x" * 5000) == XENCONS_IN_SIZE
    assert driver.ring.write(b"y") == 0
    driver.read()
    assert driver.ring.write(b"y") == 1


@given(U32, U32, U32, U32, st.binary(max_size=2000))
def test_nonsense_indices_do_no_harm(a: int, b: int, c: int, d: int, data: bytes) -> None:
    driver = Driver()
    before = driver.memory.read(0, 1 << 12), driver.memory.read(2 << 12, 1 << 12)
    for name, value in zip(AT, (a, b, c, d), strict=True):
        driver.set(name, value)
    assert len(driver.ring.read()) <= XENCONS_OUT_SIZE
    assert driver.ring.write(data) <= XENCONS_IN_SIZE
    assert (driver.memory.read(0, 1 << 12), driver.memory.read(2 << 12, 1 << 12)) == before
