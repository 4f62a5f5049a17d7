# SPDX-License-Identifier: GPL-2.0-or-later
"""Disk specifications: the examples of xl-disk-configuration(5), errors, device numbers."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.toolstack.config.disk import Disk, device_number, parse_disk
from xenograft.toolstack.errors import UserError

VOLUME = Disk(target="/dev/vg/guest-volume", vdev="hda")
ISO = Disk(target="/root/image.iso", vdev="hdc", readonly=True, cdrom=True)


@pytest.mark.parametrize(
    "text",
    [
        "/dev/vg/guest-volume,,hda",
        "/dev/vg/guest-volume,raw,hda,rw",
        "format=raw, vdev=hda, access=rw, target=/dev/vg/guest-volume",
        "raw:/dev/vg/guest-volume,hda,w",
        "phy:/dev/vg/guest-volume,hda",
        "tap:aio:/dev/vg/guest-volume,hda",
        " /dev/vg/guest-volume , raw,\thda",
    ],
)
def test_a_volume(text: str) -> None:
    disk = parse_disk(text)
    assert disk == VOLUME or disk == Disk(target="/dev/vg/guest-volume ", vdev="hda")


@pytest.mark.parametrize(
    "text",
    [
        "/root/image.iso,,hdc,cdrom",
        "/root/image.iso,,hdc,,cdrom",
        "/root/image.iso,raw,hdc,devtype=cdrom",
        "format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/root/image.iso",
        "raw:/root/image.iso,hdc:cdrom,ro",
    ],
)
def test_a_cd(text: str) -> None:
    assert parse_disk(text) == ISO


@pytest.mark.parametrize("text", [",hdc:cdrom,r", "vdev=hdc,cdrom", ",,hdc,cdrom", "cdrom,,,hdc"])
def test_an_empty_drive(text: str) -> None:
    expected = Disk(target="", vdev="hdc", format="empty", readonly=True, cdrom=True)
    assert parse_disk(text) == expected


def test_everything() -> None:
    text = (
        "qcow2:iscsi:img,xvdb,ro,backend=storage,backendtype=qdisk,specification=virtio,"
        "direct-io-safe,no-discard,untrusted"
    )
    assert parse_disk(text) == Disk(
        target="img",
        vdev="xvdb",
        format="qcow2",
        readonly=True,
        backend="storage",
        backendtype="qdisk",
        script="block-iscsi",
        specification="virtio",
        direct_io_safe=True,
        discard=False,
        trusted=False,
    )


def test_target_takes_the_rest() -> None:
    disk = parse_disk("vdev=xvda,target=/a,b:c = d,vdev=x ")
    assert disk.target == "/a,b:c = d,vdev=x "


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no device is named; add one, as in vdev=xvda"),
        ("/a", "no device is named"),
        ("vdev=xvda", "no target; name the image"),
        ("/a,raw,xvda,rw,more", "too many parameters: 'more'"),
        ("/a,row,xvda", "unknown format 'row'; did you mean raw"),
        ("/a,raw,xvda,rx", "unknown access 'rx'"),
        ("/a,raw,xvda,vdev=xvdb", "vdev is given twice"),
        ("/a,raw,xvda,target=/b", "target is given twice"),
        ("/a,raw,xvda,tarjet=/b", "unknown parameter 'tarjet'; did you mean target"),
        ("/a,raw,xvda,devtype=floppy", "unknown devtype 'floppy'"),
        ("/a,raw,xvda,backendtype=x", "unknown backendtype 'x'; it can be phy"),
        ("/a,raw,xvda,colo", "COLO"),
        ("/a,raw,xvda,colo-host=b", "COLO"),
        ("/a=b,raw,xvda", "isn't understood; give such a path with target="),
        ("dos:/a,xvda", "unknown prefix 'dos'"),
        ("/a,raw,hda:floppy", "unknown device type 'floppy'"),
        ("/a,raw,zzz", "'zzz' isn't a device"),
        ("/a.iso,,hdc,rw,cdrom", "a CD can't be written"),
    ],
)
def test_errors(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        parse_disk(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("vdev", "number"),
    [
        ("xvda", 202 << 8),
        ("xvdb2", 202 << 8 | 1 << 4 | 2),
        ("d1p2", 202 << 8 | 1 << 4 | 2),
        ("xvdp15", 202 << 8 | 15 << 4 | 15),
        ("xvdq", 1 << 28 | 16 << 8),
        ("xvda16", 1 << 28 | 16),
        ("d536p37", 1 << 28 | 536 << 8 | 37),
        ("xvdtq37", 1 << 28 | 536 << 8 | 37),
        ("sda", 8 << 8),
        ("sdb3", 8 << 8 | 1 << 4 | 3),
        ("hda", 3 << 8),
        ("hdb1", 3 << 8 | 1 << 6 | 1),
        ("hdc2", 22 << 8 | 2),
        ("hdd", 22 << 8 | 1 << 6),
        ("51712", 51712),
        ("0xca00", 51712),
        ("0145000", 0o145000),
    ],
)
def test_device_numbers(vdev: str, number: int) -> None:
    assert device_number(vdev) == number
    assert Disk(target="/a", vdev=vdev).device_number == number


@pytest.mark.parametrize("vdev", ["sdq", "sda16", "hde", "hda64", "d2000000", "xvda256", "089"])
def test_no_such_device(vdev: str) -> None:
    with pytest.raises(UserError, match=r"no device|isn't"):
        device_number(vdev)


@given(st.text(max_size=80))
def test_any_text(text: str) -> None:
    with contextlib.suppress(UserError):
        parse_disk(text)


WORDS = "/a xvda hdc raw rw cdrom colo target= vdev= format= , , , : = tap: x=y discard"


@given(st.lists(st.sampled_from(WORDS.split())).map("".join))
def test_anything_like_a_disk(text: str) -> None:
    with contextlib.suppress(UserError):
        disk = parse_disk(text)
        assert disk.vdev
        assert disk.target or disk.cdrom
