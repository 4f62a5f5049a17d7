# SPDX-License-Identifier: GPL-2.0-or-later
"""Opening images by name and format."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends.block.images.support import KIB
from xenograft.backends.block.images.image import ImageError, ZeroImage
from xenograft.backends.block.images.open import open_image, probe
from xenograft.backends.block.images.qcow2.create import create_qcow2
from xenograft.backends.block.images.qcow2.rwlock import SharedLock


def test_formats(tmp_path: Path) -> None:
    raw, qcow2 = tmp_path / "raw", tmp_path / "qcow2"
    raw.write_bytes(bytes(64 * KIB))
    create_qcow2(str(qcow2), 128 * KIB)
    assert (probe(str(raw)), probe(str(qcow2)), probe("nbd://a/b")) == ("raw", "qcow2", "raw")
    for path, form, size in ((raw, "raw", 64), (qcow2, "qcow2", 128)):
        image = open_image(str(path), form)
        assert image.size == size * KIB
        image.close()


@pytest.mark.parametrize("form", ["qcow", "vhd", "qed", "nonsense"])
def test_formats_that_nobody_has(tmp_path: Path, form: str) -> None:
    with pytest.raises(ImageError, match=f"format {form} isn't supported; convert it with"):
        open_image(str(tmp_path / "a"), form)


def test_missing_images(tmp_path: Path) -> None:
    for form in ("raw", "qcow2"):
        with pytest.raises(ImageError, match="there is no such image"):
            open_image(str(tmp_path / "a"), form)
    with pytest.raises(ImageError, match="there is no such image"):
        probe(str(tmp_path / "a"))
    with pytest.raises(ImageError, match="Is a directory"):
        probe(str(tmp_path))


def test_a_raw_image_taken_for_another(tmp_path: Path) -> None:
    path = tmp_path / "raw"
    path.write_bytes(bytes(64 * KIB))
    with pytest.raises(ImageError, match="not a qcow2 image"):
        open_image(str(path), "qcow2")
    # The failure has left no lock.
    open_image(str(path)).close()


def test_zeros() -> None:
    zeros = ZeroImage(1024)
    assert zeros.read(0, 4) == zeros.read_now(0, 4) == bytes(4)
    assert zeros.refresh() == 1024
    zeros.flush()
    for change in (lambda: zeros.write(0, b"x"), lambda: zeros.discard(0, 1)):
        with pytest.raises(PermissionError):
            change()
    zeros.close()


def test_the_lock_is_shared_or_alone() -> None:
    lock = SharedLock()
    assert lock.try_shared()
    with lock.shared():
        assert lock.try_shared()
        lock.release_shared()
    lock.release_shared()
    with lock.alone():
        assert not lock.try_shared()
    assert lock.try_shared()
    lock.release_shared()
