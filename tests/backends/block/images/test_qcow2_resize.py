# SPDX-License-Identifier: GPL-2.0-or-later
"""qcow2 images that grow while they're in use."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backends.block.images.support import (
    KIB,
    MIB,
    assert_clean,
    check,
    content,
    pattern,
    qemu_img,
)
from xenograft.backends.block.images.open import open_image
from xenograft.backends.block.images.qcow2.create import create_qcow2
from xenograft.backends.block.images.qcow2.image import Qcow2Image
from xenograft.backends.block.images.recording import RecordingStorage, after_power_cut


def opened(path: Path) -> Qcow2Image:
    image = open_image(str(path), "qcow2")
    assert isinstance(image, Qcow2Image)
    return image


@pytest.mark.parametrize("bits", [9, 12, 16])
def test_grows_and_is_used(tmp_path: Path, bits: int) -> None:
    """Beyond what the first L1 table covers, too, and as QEMU reads it."""
    path = tmp_path / "disk"
    create_qcow2(str(path), 100 * KIB, cluster_bits=bits)
    image = opened(path)
    image.write(0, pattern(100 * KIB))
    for size in (101 * KIB, MIB, 20 * MIB):
        image.resize(size)
        assert image.size == image.refresh() == size
        image.write(size - 4096, pattern(4096, size))
    assert image.read(101 * KIB, 900 * KIB) == bytes(900 * KIB)
    image.close()
    assert_clean(path)
    data = content(path)
    assert len(data) == 20 * MIB
    assert data[: 97 * KIB] == pattern(100 * KIB)[: 97 * KIB]
    assert data[-4096:] == pattern(4096, 20 * MIB)
    assert data[MIB - 4096 : MIB] == pattern(4096, MIB)


@pytest.mark.parametrize("size", [MIB, 5 * MIB])
@pytest.mark.parametrize("old", [64 * KIB, 100 * KIB])
def test_what_is_behind_its_old_end_stays_hidden(tmp_path: Path, old: int, size: int) -> None:
    """A backing file that is longer doesn't show."""
    base, path = tmp_path / "base", tmp_path / "disk"
    base.write_bytes(pattern(3 * MIB))
    create_qcow2(str(path), old, backing="base", backing_format="raw")
    image = opened(path)
    image.resize(size)
    assert image.read(0, size) == pattern(3 * MIB)[:old] + bytes(size - old)
    image.close()
    assert_clean(path)
    assert content(path) == pattern(3 * MIB)[:old] + bytes(size - old)


def test_what_cannot_be(tmp_path: Path) -> None:
    base, path, second = tmp_path / "base", tmp_path / "disk", tmp_path / "second"
    create_qcow2(str(path), MIB)
    image = opened(path)
    with pytest.raises(OSError, match="can't be made smaller"):
        image.resize(512 * KIB)
    with pytest.raises(OSError, match="too large for clusters of 65536"):
        image.resize(1 << 60)
    image.close()
    assert_clean(path)
    base.write_bytes(bytes(2 * MIB))
    create_qcow2(str(second), MIB, version=2, backing="base", backing_format="raw")
    image = opened(second)
    with pytest.raises(OSError, match="backing file would show"):
        image.resize(2 * MIB)
    image.close()
    readonly = open_image(str(path), "qcow2", True)
    assert isinstance(readonly, Qcow2Image)
    with pytest.raises(OSError, match="read-only"):
        readonly.resize(2 * MIB)
    readonly.close()


def test_snapshots_stay(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    qemu_img("create", "-f", "qcow2", path, "1M")
    image = opened(path)
    image.write(0, pattern(MIB))
    image.close()
    qemu_img("snapshot", "-c", "before", path)
    image = opened(path)
    image.resize(1 << 30)
    image.write(0, bytes(MIB))
    image.close()
    assert_clean(path)
    qemu_img("snapshot", "-a", "before", path)
    assert content(path)[:MIB] == pattern(MIB)


@given(seed=st.integers(0, 1 << 32), data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_power_cuts(
    tmp_path_factory: pytest.TempPathFactory, seed: int, data: st.DataObject
) -> None:
    """After any prefix and any part of what wasn't flushed, it's the old disk or the new one."""
    path = tmp_path_factory.mktemp("cut") / "disk"
    create_qcow2(str(path), 64 * KIB, cluster_bits=9)
    storages: list[RecordingStorage] = []

    def wrap(storage: object) -> RecordingStorage:
        storages.append(RecordingStorage(storage))  # type: ignore[arg-type]
        return storages[0]

    image = open_image(str(path), "qcow2", wrap=wrap)
    assert isinstance(image, Qcow2Image)
    image.write(0, pattern(64 * KIB))
    image.flush()
    begun = len(storages[0].log)
    image.resize(8 * MIB)
    image.write(7 * MIB, pattern(4096))
    image.close()
    log = storages[0].log
    length = data.draw(st.integers(begun, len(log)))
    rng = random.Random(seed)
    cut = path.with_name("cut")
    cut.write_bytes(
        after_power_cut(storages[0].start, log[:length], lambda _i, _a: rng.random() < 0.5)
    )
    found = check(cut)
    assert not any(found.get(name) for name in ("corruptions", "check-errors")), found
    after = opened(cut)
    assert after.size in (64 * KIB, 8 * MIB)
    assert after.read(0, 64 * KIB) == pattern(64 * KIB)
    after.close()
