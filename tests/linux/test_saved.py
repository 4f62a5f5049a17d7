# SPDX-License-Identifier: GPL-2.0-or-later
"""Folders, channels, screens and keyboards of Debian's kernel, through another life."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.linux.conftest import Boot
from xenograft import Machine
from xenograft.toolstack.machine import ShutdownReason

TIMEOUT = 200


@pytest.fixture
def elsewhere() -> Iterator[Machine]:
    with Machine() as machine:
        yield machine


def test_an_open_file(boot: Boot, tmp_path: Path, elsewhere: Machine) -> None:
    share = tmp_path / "share"
    share.mkdir()
    guest = boot(
        ["9p", "9pnet_xen"],
        """
        mkdir -p /mnt && mount -t 9p -o trans=xen,version=9p2000.L share /mnt || exit 1
        exec 3> /mnt/file 4< /mnt/file
        echo one >&3
        echo READY
        while [ ! -e /mnt/go ]; do sleep 0.1; done
        echo two >&3; read -r line <&4; echo "read: $line"
        umount -l /mnt; echo OVER
        """,
        p9=[f"tag=share,path={share}"],
    )
    guest.console.expect("READY", TIMEOUT)
    path = tmp_path / "guest.save"
    guest.save(path, mode="snapshot")
    guest = elsewhere.restore(path)
    (share / "go").touch()
    guest.console.expect("read: one", TIMEOUT)
    guest.console.expect("OVER", TIMEOUT)
    assert guest.wait(TIMEOUT) is ShutdownReason.poweroff
    assert (share / "file").read_text() == "one\ntwo\n"


def test_channels(boot: Boot, tmp_path: Path, elsewhere: Machine) -> None:
    path = tmp_path / "channel"
    guest = boot(
        [],
        """
        exec 3<>/dev/hvc1; stty raw -echo <&3
        echo READY
        while read -r line <&3; do echo "answer to $line" >&3; done
        """,
        channel=[f"connection=socket,path={path},name=org.example.0"],
    )

    def ask(word: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(path))
            client.sendall(word + b"\n")
            channel = guest.channel("org.example.0")
            channel.expect(f"answer to {word.decode()}", TIMEOUT)

    guest.console.expect("READY", TIMEOUT)
    ask(b"first")
    guest.save(tmp_path / "guest.save", mode="snapshot")
    assert not path.exists()
    guest = elsewhere.restore(tmp_path / "guest.save")
    ask(b"second")


def test_a_screen_and_keys(boot: Boot, tmp_path: Path, elsewhere: Machine) -> None:
    guest = boot(
        ["evdev"],
        """
        dd if=/dev/zero bs=3200 count=100 2>/dev/null | tr '\\000' '\\377' > /dev/fb0
        (dd bs=24 count=2 if=/dev/input/event0 > /dev/null 2>&1; echo KEYS) &
        sleep 1; echo READY
        wait
        dd if=/dev/zero of=/dev/fb0 bs=3200 count=100 2>/dev/null
        sleep 1; echo DARK; sleep 1000
        """,
        vfb=["vnc=0"],
    )
    guest.console.expect("READY", TIMEOUT)
    guest.save(tmp_path / "guest.save", mode="snapshot")
    guest = elsewhere.restore(tmp_path / "guest.save")
    assert guest.screen.picture().pixel(10, 10) == (255, 255, 255)
    guest.screen.press("a")
    guest.console.expect("KEYS", TIMEOUT)
    guest.console.expect("DARK", TIMEOUT)
    assert guest.screen.picture().pixel(10, 10) == (0, 0, 0)
