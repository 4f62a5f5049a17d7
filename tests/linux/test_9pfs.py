# SPDX-License-Identifier: GPL-2.0-or-later
"""A folder of the host in Debian's standard kernel: 9p over Xen's transport."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.linux.conftest import Boot
from xenograft.toolstack.machine import ShutdownReason

MODULES = ["9p", "9pnet_xen"]
MOUNT = """
mkdir -p /mnt
mount -t 9p -o trans=xen,version=9p2000.L share /mnt || exit 1
"""
TIMEOUT = 200


@pytest.fixture
def share(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("the host's own\n")
    folder = tmp_path / "share"
    folder.mkdir()
    return folder


def run(boot: Boot, share: Path, script: str, more: str = "") -> str:
    """What the script printed."""
    guest = boot(MODULES, MOUNT + script + "\necho END-$?", p9=[f"tag=share,path={share}{more}"])
    assert guest.wait(TIMEOUT) is ShutdownReason.poweroff, guest.console.output[-2000:]
    text = guest.console.output.replace("\r", "")
    assert "END-0" in text, text[-2000:]
    return text


def test_files_and_directories(boot: Boot, share: Path) -> None:
    big = os.urandom(5 << 20)
    (share / "big").write_bytes(big)
    (share / "old").write_text("from the host\n")
    text = run(
        boot,
        share,
        """
        cat /mnt/old
        echo sum $(sha256sum < /mnt/big)
        cp /mnt/big /mnt/copy && sync
        echo from the guest > /mnt/new; echo more >> /mnt/new
        mkdir /mnt/dir && mv /mnt/new /mnt/dir/moved
        ln -s dir/moved /mnt/sym && cat /mnt/sym
        ln /mnt/dir/moved /mnt/hard
        chmod 640 /mnt/hard; touch -t 200001010000 /mnt/hard
        truncate -s 1000000 /mnt/sparse
        mkdir /mnt/many
        i=0; while [ $i -lt 200 ]; do echo $i > /mnt/many/file$i; i=$((i+1)); done
        echo count $(ls /mnt/many | wc -l) $(cat /mnt/many/* | wc -l)
        rm /mnt/old; rmdir /mnt/dir 2>/dev/null && echo gone
        mknod /mnt/fifo p
        (echo through > /mnt/fifo) & read -r x < /mnt/fifo; echo fifo $x
        umount /mnt
        """,
    )
    assert "from the host\n" in text
    assert f"sum {hashlib.sha256(big).hexdigest()}" in text
    assert "from the guest\nmore\n" in text
    assert "count 200 200" in text
    assert "fifo through" in text
    assert (share / "copy").read_bytes() == big
    assert (share / "dir" / "moved").read_text() == "from the guest\nmore\n"
    assert (share / "sym").readlink() == Path("dir/moved")
    hard = (share / "hard").stat()
    assert hard.st_ino == (share / "dir" / "moved").stat().st_ino
    assert hard.st_mode & 0o777 == 0o640
    assert (share / "sparse").stat().st_size == 1_000_000
    assert not (share / "old").exists()
    assert sorted(int(path.read_text()) for path in (share / "many").iterdir()) == list(range(200))


def test_nothing_leads_out(boot: Boot, share: Path) -> None:
    (share / "out").symlink_to(share.parent / "secret")
    (share / "up").symlink_to("..")
    text = run(
        boot,
        share,
        """
        cat /mnt/out && echo LEAK
        cat /mnt/up/secret && echo LEAK
        cat /mnt/../secret && echo LEAK
        echo x > /mnt/out && echo LEAK
        ln -s /etc/passwd /mnt/guests && cat /mnt/guests
        mknod /mnt/disk b 8 0 && echo LEAK
        cp /bin/busybox /mnt/program && chmod 4755 /mnt/program
        true
        """,
    )
    assert "LEAK" not in text
    # A guest's links are followed in the guest: this file is its own.
    assert "root:x:0:0:root" in text
    assert (share.parent / "secret").read_text() == "the host's own\n"
    assert not (share / "disk").exists()
    assert (share / "program").stat().st_mode & 0o7000 == 0
    assert {path.name for path in share.parent.iterdir()} == {"secret", "share", "ramdisk"}


def test_readonly(boot: Boot, share: Path) -> None:
    (share / "f").write_text("kept\n")
    text = run(
        boot,
        share,
        """
        cat /mnt/f
        echo x > /mnt/f || echo refused
        rm -f /mnt/f || echo refused
        mkdir /mnt/d || echo refused
        true
        """,
        ",readonly=1",
    )
    assert text.count("\nrefused") == 3
    assert "kept\n" in text
    assert [path.name for path in share.iterdir()] == ["f"]


def test_two_folders_and_an_unlinked_file(boot: Boot, share: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "here").write_text("second\n")
    script = (
        MOUNT
        + """
        mkdir /two; mount -t 9p -o trans=xen,version=9p2000.L,msize=65536 two /two || exit 1
        cat /two/here
        exec 3<>/mnt/f; rm /mnt/f; echo unlinked >&3; exec 3<&-
        cp /two/here /mnt/crossed
        echo END-$?
        """
    )
    guest = boot(MODULES, script, p9=[f"tag=share,path={share}", f"tag=two,path={other}"])
    assert guest.wait(TIMEOUT) is ShutdownReason.poweroff
    assert "second" in guest.console.output
    assert "END-0" in guest.console.output
    assert (share / "crossed").read_text() == "second\n"
    assert [path.name for path in share.iterdir()] == ["crossed"]
