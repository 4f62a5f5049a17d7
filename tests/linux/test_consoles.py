# SPDX-License-Identifier: GPL-2.0-or-later
"""Channels, screen and keyboard of Debian's standard kernel."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest

from tests.linux.conftest import Boot
from xenograft.toolstack.config.display import Vkb
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.machine import ShutdownReason

TIMEOUT = 200


def test_channels(boot: Boot, tmp_path: Path) -> None:
    script = """
    exec 3<>/dev/hvc1 4<>/dev/hvc2
    stty raw -echo <&3; stty raw -echo <&4
    echo READY
    read -r line <&3; echo "first: $line"
    echo "answer on one" >&3
    read -r line <&4; echo "second: $line"
    echo "answer on two" >&4
    read -r line <&3
    """
    path = tmp_path / "channel"
    guest = boot(
        [],
        script,
        channel=[f"connection=socket,path={path},name=org.example.0", "connection=pty,name=two"],
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(path))
        client.settimeout(10)
        guest.console.expect("READY", TIMEOUT)
        client.sendall(b"hello by socket\n")
        guest.console.expect("first: hello by socket", TIMEOUT)
        two = guest.channel("two")
        two.send("hello by Python\n")
        guest.console.expect("second: hello by Python", TIMEOUT)
        two.expect("answer on two")
        assert b"answer on one" in client.recv(1000)
        client.sendall(b"end\n")
        assert guest.wait(TIMEOUT) is ShutdownReason.poweroff
    with pytest.raises(UserError, match="no channel 'three'"):
        guest.channel("three")


def test_screen_and_keyboard(boot: Boot, tmp_path: Path) -> None:
    script = """
    cat /sys/class/graphics/fb0/virtual_size
    dd if=/dev/zero bs=3200 count=100 2>/dev/null | tr '\\000' '\\377' > /dev/fb0
    (dd bs=24 count=8 if=/dev/input/event0 of=/tmp/keys 2>/dev/null; hexdump -e '24/1 "%02x" "\\n"' /tmp/keys; echo KEYS) &
    (dd bs=24 count=5 if=/dev/input/event1 of=/tmp/moves 2>/dev/null; hexdump -e '24/1 "%02x" "\\n"' /tmp/moves; echo MOVES) &
    sleep 1; echo READY
    wait
    """  # noqa: E501
    guest = boot(["evdev"], script, vfb=["vnc=0"])
    guest.console.expect("800,600", TIMEOUT)
    guest.console.expect("READY", TIMEOUT)
    guest.screenshot(tmp_path / "shot.png")
    picture = guest.screen.picture()
    assert (picture.width, picture.height) == (800, 600)
    assert picture.pixel(400, 50) == (255, 255, 255)
    assert picture.pixel(400, 101) == (0, 0, 0)
    assert (tmp_path / "shot.png").read_bytes() == picture.png()
    guest.screen.type("a")
    guest.screen.press("shift", "x")
    events = guest.console.expect(r"((?:[0-9a-f]{48}\s+)+)KEYS", TIMEOUT).group(1).split()
    keys = [struct.unpack_from("<HHi", bytes.fromhex(event), 16) for event in events]
    assert [key[1:] for key in keys if key[0] == 1] == [(30, 1), (30, 0), (42, 1), (45, 1)]
    guest.screen.move_to(100, 50)
    guest.screen.click("left")
    events = guest.console.expect(r"((?:[0-9a-f]{48}\s+)+)MOVES", TIMEOUT).group(1).split()
    moves = [struct.unpack_from("<HHi", bytes.fromhex(event), 16) for event in events]
    assert [move for move in moves if move[0]] == [(3, 0, 100), (3, 1, 50), (1, 0x110, 1)]
    assert guest.wait(TIMEOUT) is ShutdownReason.poweroff


def test_a_keyboard_comes_and_goes(boot: Boot) -> None:
    script = """
    echo READY
    until grep -q 'Xen Virtual Keyboard' /proc/bus/input/devices; do sleep 0.2; done
    echo PLUGGED
    while grep -q 'Xen Virtual Keyboard' /proc/bus/input/devices; do sleep 0.2; done
    echo UNPLUGGED
    """
    guest = boot(["xen-kbdfront"], script)
    guest.console.expect("READY", TIMEOUT)
    assert guest.devices.attach_vkb(Vkb()).devid == 0
    guest.console.expect("PLUGGED", TIMEOUT)
    gone: list[bool] = []
    guest.devices.detach("vkbd", 0, lambda: gone.append(True))
    guest.console.expect("UNPLUGGED", TIMEOUT)
    assert guest.wait(TIMEOUT) is ShutdownReason.poweroff
    assert gone == [True]
    assert guest.devices.find("vkbd", 0) is None


def test_no_screen(boot: Boot, tmp_path: Path) -> None:
    guest = boot([], "true")
    with pytest.raises(UserError, match="has no vfb="):
        guest.screenshot(tmp_path / "shot.png")
    with pytest.raises(UserError, match="has no vkb="):
        guest.screen.type("a")
