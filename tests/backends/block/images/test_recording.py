# SPDX-License-Identifier: GPL-2.0-or-later
"""Power cuts, raw and through qcow2: what was flushed is there, the rest is old or new."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backends.block.images.support import KIB, assert_clean, check, pattern
from xenograft.backends.block.images.image import Image
from xenograft.backends.block.images.open import open_image
from xenograft.backends.block.images.qcow2.create import create_qcow2
from xenograft.backends.block.images.raw import RawImage
from xenograft.backends.block.images.recording import (
    ATOM,
    Recorded,
    RecordingStorage,
    after_power_cut,
)


def test_everything_is_passed_on_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(pattern(8 * KIB))
    storage = RecordingStorage(RawImage(str(path)))
    storage.write(512, b"a" * 1024)
    storage.flush()
    storage.discard(4096, 4096)
    storage.resize(16 * KIB)
    assert (storage.size, storage.refresh()) == (16 * KIB, 16 * KIB)
    assert storage.read(512, 4) == b"aaaa"
    assert [one.name for one in storage.log] == ["write", "flush", "discard", "resize"]
    storage.close()
    whole = path.read_bytes()
    assert after_power_cut(storage.start, storage.log, lambda _i, _atom: True) == whole
    flushed = bytearray(pattern(8 * KIB))
    flushed[512:1536] = b"a" * 1024
    assert after_power_cut(storage.start, storage.log, lambda _i, _atom: False) == flushed
    before = after_power_cut(storage.start, storage.log[:1], lambda _i, atom: atom == 1)
    assert before == pattern(8 * KIB)[:1024] + b"a" * 512 + pattern(8 * KIB)[1536:]


def test_a_write_beyond_the_end() -> None:
    log = [Recorded("write", 1024, 512, b"x" * 512)]
    assert after_power_cut(b"ab", log, lambda _i, _a: True) == b"ab" + bytes(1022) + b"x" * 512


SECTORS = 128
_STEP = st.one_of(
    st.tuples(st.just("write"), st.integers(0, SECTORS - 1), st.integers(1, 24)),
    st.tuples(st.just("write"), st.integers(0, SECTORS - 1), st.integers(1, 24)),
    st.tuples(st.just("discard"), st.integers(0, SECTORS - 1), st.integers(1, 64)),
    st.tuples(st.just("flush"), st.just(0), st.just(0)),
)


class Journal:
    """What each sector may hold after a power cut at any time: its values since a flush."""

    def __init__(self, image: Image, storage: RecordingStorage, start: bytes) -> None:
        self.image = image
        self.storage = storage
        self.may = [{start[at : at + ATOM]} for at in range(0, SECTORS * ATOM, ATOM)]
        self.now = [start[at : at + ATOM] for at in range(0, SECTORS * ATOM, ATOM)]
        self.history: list[tuple[int, list[set[bytes]]]] = []
        """(operations in the log by then, what the sectors may hold)"""
        self.note()

    def note(self) -> None:
        self.history.append((len(self.storage.log), [set(one) for one in self.may]))

    def set(self, sector: int, value: bytes) -> None:
        self.now[sector] = value
        self.may[sector].add(value)

    def run(self, steps: list[tuple[str, int, int]], cluster: int) -> None:
        for index, (step, at, count) in enumerate(steps):
            count = min(count, SECTORS - at)
            if step == "flush":
                self.image.flush()
                self.may = [{value} for value in self.now]
            elif step == "write":
                data = pattern(count * ATOM, index)
                # Until it is done, it may have been done in part.
                for sector in range(count):
                    self.set(at + sector, data[sector * ATOM : (sector + 1) * ATOM])
                self.history[-1] = (self.history[-1][0], [set(one) for one in self.may])
                self.image.write(at * ATOM, data)
            else:
                for sector in range(at, at + count):
                    self.may[sector].add(bytes(ATOM))
                self.history[-1] = (self.history[-1][0], [set(one) for one in self.may])
                self.image.discard(at * ATOM, count * ATOM)
                first = -(-at * ATOM // cluster) * cluster // ATOM
                for sector in range(first, (at + count) * ATOM // cluster * cluster // ATOM):
                    self.now[sector] = bytes(ATOM)
            self.note()

    def cut(self, rng: random.Random) -> tuple[bytearray, list[set[bytes]]]:
        """A disk after a power cut somewhere, and what its sectors may hold."""
        length = rng.randint(0, len(self.storage.log))
        share = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        log = self.storage.log[:length]
        disk = after_power_cut(self.storage.start, log, lambda _i, _a: rng.random() < share)
        # The step under way counts as begun.
        allowed = next(may for count, may in reversed(self.history) if count <= length)
        return disk, allowed


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([9, 10, 12]), st.booleans(), st.lists(_STEP, max_size=20), st.randoms())
def test_qcow2_survives_power_cuts(
    cluster_bits: int, backing: bool, steps: list[tuple[str, int, int]], rng: random.Random
) -> None:
    """QEMU finds at worst lost space, and every sector is as flushed, or newer."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = pattern(SECTORS * ATOM, 99) if backing else bytes(SECTORS * ATOM)
        (folder / "base").write_bytes(start)
        behind = {"backing": "base", "backing_format": "raw"} if backing else {}
        path = folder / "disk"
        create_qcow2(str(path), SECTORS * ATOM, cluster_bits=cluster_bits, **behind)  # type: ignore[arg-type]
        recorded: list[RecordingStorage] = []

        def wrap(inner: RawImage) -> RecordingStorage:
            recorded.append(RecordingStorage(inner))
            return recorded[0]

        image = open_image(str(path), "qcow2", wrap=wrap)  # type: ignore[arg-type]
        journal = Journal(image, recorded[0], start)
        journal.run(steps, 1 << cluster_bits)
        image.close()
        assert_clean(path)
        for _ in range(6):
            disk, allowed = journal.cut(rng)
            path.write_bytes(disk)
            assert not check(path).get("corruptions"), check(path)
            survivor = open_image(str(path), "qcow2")
            data = survivor.read(0, SECTORS * ATOM)
            for sector, values in enumerate(allowed):
                assert data[sector * ATOM : (sector + 1) * ATOM] in values, sector
            # And it goes on from there.
            survivor.write(0, bytes(SECTORS * ATOM))
            survivor.close()
            assert not check(path).get("corruptions")


def test_the_check_would_see_a_wrong_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the flushes between the steps, some power cut leaves a broken image."""
    path = tmp_path / "disk"
    create_qcow2(str(path), SECTORS * ATOM, cluster_bits=9)
    recorded: list[RecordingStorage] = []

    class Hasty(RecordingStorage):
        def flush(self) -> None:
            pass

    def wrap(inner: RawImage) -> RecordingStorage:
        recorded.append(Hasty(inner))
        return recorded[0]

    image = open_image(str(path), "qcow2", wrap=wrap)  # type: ignore[arg-type]
    for at in range(0, SECTORS * ATOM, 8 * ATOM):
        image.write(at, pattern(4 * ATOM, at))
    image.close()
    rng = random.Random(1)
    broken = 0
    for _ in range(20):
        log = recorded[0].log
        path.write_bytes(after_power_cut(recorded[0].start, log, lambda _i, _a: rng.random() < 0.5))
        broken += bool(check(path).get("corruptions"))
    assert broken
