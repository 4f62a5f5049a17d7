# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest whose host runs out of room: run in a mount namespace of its own, as a program.

`unshare -rm python -m tests.backends.block.full_disk FOLDER KERNEL RAMDISK`
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

from tests.backends.block.images.support import KIB, MIB, check, pattern
from tests.backends.block.test_guests import Guest
from xenograft import Machine
from xenograft.backends.block.images.open import open_image
from xenograft.backends.block.images.qcow2.create import create_qcow2


def main(folder: Path, kernel: str, ramdisk: str) -> None:
    small = folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(small)], check=True)
    for path in (small / "raw", folder / "other"):
        with path.open("wb") as file:
            file.truncate(64 * MIB)
    create_qcow2(str(small / "qcow2"), 64 * MIB)
    ballast = small / "ballast"
    ballast.write_bytes(bytes(12 * MIB))
    images = {"debian-cloud": Path(kernel), "driver-initrd": Path(ramdisk)}
    with Machine() as machine:
        guest = Guest(
            machine,
            images.__getitem__,
            [
                f"{small / 'raw'},raw,xvda,rw",
                f"{small / 'qcow2'},qcow2,xvdb,rw",
                f"{folder / 'other'},raw,xvdc,rw",
            ],
        ).wait_for_shell()
        sh = guest.sh
        sh("dd if=/dev/urandom of=/tmp/data bs=1M count=4 2> /dev/null")
        before = sh("sha256sum < /tmp/data").split()[0]
        for disk in ("xvda", "xvdb"):
            sh(f"dd if=/tmp/data of=/dev/{disk} bs=64k conv=fsync 2> /dev/null")
        # There are four MiB left for both.
        for disk in ("xvda", "xvdb"):
            told = sh(f"dd if=/dev/zero of=/dev/{disk} bs=1M seek=8 count=16 conv=fsync 2>&1", 1)
            assert "I/O error" in told or "Input/output error" in told, told
        assert machine.log.count("No space left on device") >= 2, machine.log
        # Others go on, and what was there before is still there.
        sh("dd if=/tmp/data of=/dev/xvdc bs=64k conv=fsync 2> /dev/null")
        sh("echo 3 > /proc/sys/vm/drop_caches")
        for disk in ("xvda", "xvdb", "xvdc"):
            assert sh(f"head -c 4194304 /dev/{disk} | sha256sum").split()[0] == before, disk
        # Once there's room, all goes on.
        ballast.unlink()
        for disk in ("xvda", "xvdb"):
            sh(f"dd if=/tmp/data of=/dev/{disk} bs=1M seek=8 conv=fsync 2> /dev/null")
            sh("echo 3 > /proc/sys/vm/drop_caches")
            again = sh(f"dd if=/dev/{disk} bs=1M skip=8 count=4 2> /dev/null | sha256sum")
            assert again.split()[0] == before, disk
        guest.off()
    found = check(small / "qcow2")
    assert not any(found.get(name) for name in ("corruptions", "check-errors")), found
    told = {thin(small, room * KIB) for room in range(0, 300, 4)}
    assert told == {(False, False), (True, False), (True, True)}, told
    print("as it should be")


def thin(small: Path, room: int) -> tuple[bool, ...]:
    """Writes to a new image while its host has `room` bytes: whether each was done.

    There was room for the tables as well, if it was: no flush fails for want of it.
    """
    path, ballast = small / "thin", small / "ballast"
    create_qcow2(str(path), 32 * MIB)
    free = os.statvfs(small)
    ballast.write_bytes(bytes(free.f_bavail * free.f_bsize - room))
    image = open_image(str(path), "qcow2")
    done: list[bool] = []
    for offset in (0, 8 * MIB):
        try:
            image.write(offset, pattern(64 * KIB, offset))
            done.append(True)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            done.append(False)
        image.flush()
    image.close()
    again = open_image(str(path), "qcow2")
    for offset, there in zip((0, 8 * MIB), done, strict=True):
        expected = pattern(64 * KIB, offset) if there else bytes(64 * KIB)
        assert again.read(offset, 64 * KIB) == expected, (room, done)
    again.close()
    found = check(path)
    assert not any(found.get(name) for name in ("corruptions", "check-errors")), found
    for one in (path, ballast):
        one.unlink()
    return tuple(done)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
