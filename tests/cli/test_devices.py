# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg run` with folders, channels and screens: what it prints, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_play import xg
from xenograft.backends.block.images.qcow2.create import create_qcow2
from xenograft.cli.status import OK, USAGE


@pytest.fixture
def tiny(guest: Callable[[str], Path]) -> list[str]:
    return ["run", "--kernel", str(guest("demo-64")), "--memory", "32M", "--timeout", "100"]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--p9", "tag=t,path=/no/such/folder", "p9 t: /no/such/folder doesn't exist"),
        ("--p9", "path=/tmp", "tag= is missing"),
        ("--channel", "name=c,connection=socket,path=/no/such/x", "/no/such isn't a folder"),
        ("--channel", "name=c", "connection= is missing"),
        ("--vfb", "sdl=1", "no window is opened"),
        ("--disk", "vdev=xvda,script=block-drbd,target=r0", "script=block-drbd isn't supported"),
        ("--disk", "iscsi:a,xvda,w", "script=block-iscsi isn't supported: no hotplug scripts"),
        ("--disk", "a.img,vhd,xvda,w", "format vhd isn't supported; convert"),
    ],
)
def test_bad_input_is_one_line(tiny: list[str], option: str, value: str, said: str) -> None:
    done = xg(*tiny, option, value)
    text = done.stderr.decode()
    assert (done.returncode, done.stdout) == (USAGE, b"")
    assert said in text
    assert text.startswith("xg: ")
    assert text.count("\n") == 1


def test_xenbus_tells_who_is_stuck(tiny: list[str], tmp_path: Path) -> None:
    done = xg(*tiny, "--p9", f"tag=t,path={tmp_path}", "--xenbus", typed=b"halt\n")
    text = done.stderr.decode()
    assert done.returncode == OK
    assert "front end: set up its rings, then write Initialised (missing: version" in text
    assert "9pfs/0 back end: Initialising -> InitWait (versions=1" in text
    assert "0 violations of the protocol" in text


@pytest.mark.parametrize("log", [[], ["--log", "xen"]])
def test_trouble_with_a_disk_is_told_at_once(
    image: Callable[[str], Path], tmp_path: Path, log: list[str]
) -> None:
    """A table that leads nowhere: the guest has an error, the user a line that says why."""
    disk = tmp_path / "disk"
    create_qcow2(str(disk), 1 << 20)
    with disk.open("r+b") as file:
        file.seek(40)
        file.seek(int.from_bytes(file.read(8), "big"))
        file.write((1 << 63 | 1 << 40).to_bytes(8, "big"))
    done = xg(
        "run",
        *("--kernel", str(image("debian-cloud")), "--ramdisk", str(image("driver-initrd"))),
        *("--disk", f"{disk},qcow2,xvda,w", "--timeout", "100", *log),
        typed=b"dd if=/dev/xvda of=/dev/null count=1; poweroff -f\n",
    )
    assert b"rror" in done.stdout
    told = [line for line in done.stderr.decode().splitlines() if "corrupt: an L2 table at" in line]
    assert told
    assert all(line.startswith("xg: ") is not bool(log) for line in told)
    assert len(set(told)) == len(told)


@pytest.mark.parametrize("form", ["", "qcow2"])
def test_an_image_given_as_raw_by_mistake(tiny: list[str], tmp_path: Path, form: str) -> None:
    disk = tmp_path / "disk"
    create_qcow2(str(disk), 1 << 20)
    done = xg(*tiny, "--disk", f"{disk},{form},xvda,ro", typed=b"halt\n")
    assert (b"is a qcow2 image, and the guest is given" in done.stderr) is (not form)
    assert done.returncode == OK


def test_log_xenbus(tiny: list[str], tmp_path: Path) -> None:
    done = xg(*tiny, "--p9", f"tag=t,path={tmp_path}", "--log", "xenbus", typed=b"halt\n")
    assert "d1 9pfs/0 back end: Initialising -> InitWait" in done.stderr.decode()


def test_a_screen_that_shows_nothing(tiny: list[str], tmp_path: Path) -> None:
    shot = tmp_path / "shot.png"
    done = xg(*tiny, "--vfb", "vnc=0", "--screenshot", str(shot), typed=b"halt\n")
    assert done.returncode == USAGE
    assert "the guest hasn't set up its frame buffer" in done.stderr.decode()
    assert not shot.exists()
