# SPDX-License-Identifier: GPL-2.0-or-later
"""Media that come and go in a CD drive, as Linux's block front end sees them.

A PV guest: in HVM-type ones, PVH among them, Linux leaves CD drives to emulation (blkfront_probe).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from xenograft.testing import Guest
from xenograft.toolstack.config.disk import parse_disk


@pytest.mark.xen_guest(type="pv")
def test_linux_sees_media_come_and_go(xen_guest: Guest, tmp_path: Path) -> None:
    first, second = tmp_path / "first.iso", tmp_path / "second.iso"
    first.write_bytes(b"the first medium".ljust(1 << 16))
    second.write_bytes(b"the second medium".ljust(3 << 16))
    devices = xen_guest.domain.devices
    drive = "vdev=xvdb,access=r,devtype=cdrom"
    devices.attach_disk(parse_disk(drive))
    xen_guest.await_devices()
    xen_guest.check("while ! [ -e /sys/block/xvdb ]; do sleep 0.01; done")

    def sectors(number: int) -> bool:
        wait = f"n=0; while [ $(cat /sys/block/xvdb/size) != {number} ] && [ $n -lt 200 ]; do"
        return xen_guest.run(f"{wait} sleep 0.01; n=$((n+1)); done; [ $n -lt 200 ]").status == 0

    assert sectors(0)
    assert xen_guest.check("cat /sys/block/xvdb/removable") == "1\n"
    devices.change_medium(parse_disk(f"{drive},target={first}"))
    assert sectors(128)
    assert xen_guest.check("head -c 16 /dev/xvdb") == "the first medium"
    devices.change_medium(parse_disk(f"{drive},target={second}"))
    assert sectors(384)
    assert xen_guest.check("head -c 17 /dev/xvdb") == "the second medium"
    devices.change_medium(parse_disk(drive))
    assert sectors(0)
    assert xen_guest.run("head -c 17 /dev/xvdb").stdout == b""
