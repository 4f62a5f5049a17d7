# SPDX-License-Identifier: GPL-2.0-or-later
"""Seven guests side by side: the two whose like ran on a real Xen, and five others.

What the commands print is compared with what xl 4.17 printed there, numbers of the moment aside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.toolstack.service.conftest import folder
from tests.toolstack.service.support import until
from tests.toolstack.service.test_process import paths, xg
from xenograft.toolstack.service.paths import ServicePaths

__all__ = ["folder", "paths"]
Image = Callable[[str], Path]

# The reference's two, with paths of our own.
REF = """\
name="ref-{kind}"
type="{kind}"
kernel="{kernel}"
ramdisk="{ramdisk}"
extra="console=hvc0"
memory=128
vcpus=1
disk=['{disk},raw,xvda,rw']
vif=['mac=00:16:3e:00:00:0{number},bridge=xenbr0']
on_poweroff="destroy"
on_reboot="restart"
on_crash="destroy"
"""

# In the ways in which Xen's documents write them.
OTHERS = {
    "cache": """
        # A guest that may grow.
        type = "pvh"
        kernel = "{kernel}"; ramdisk = "{ramdisk}"
        name = "cache"
        memory = 128
        maxmem = 256
        extra = "console=hvc0 quiet"
    """,
    "web": """
        name    = 'web'
        type    = 'pvh'
        kernel  = '{kernel}'
        ramdisk = '{ramdisk}'
        cmdline = "console=hvc0 quiet"
        memory  = 0x80
        vcpus   = 2
        maxvcpus = 4
        cpu_weight = 512
        cap = 50
        vif = [ 'bridge=xenbr0, mac=00:16:3E:00:00:03', 'mac=00:16:3e:00:00:04,rate=10Mb/s' ]
    """,
    "store": """
        name = "store"
        type = "pvh"
        kernel = "{kernel}"
        ramdisk = "{ramdisk}"
        extra = "console=hvc0 quiet"
        memory = 128
        disk = [
            'format=raw, vdev=xvda, access=rw, target={disk}',
            'vdev=xvdb, access=r, target={disk2}',
        ]
        channel = [ 'connection=pty,name=org.example.agent' ]
    """,
    "pinned": """
        name = "pinned"
        type = "pv"
        kernel = "{kernel}"
        ramdisk = "{ramdisk}"
        extra = "console=hvc0 quiet"
        memory = 128
        vcpus = 2
        cpus = ["1", "2-3"]
        on_crash = "coredump-restart"
    """,
    "held": """
        name = "held"
        uuid = "6f1b4f4e-3c0f-4b44-8a30-6f3c9e5b0d11"
        type = "pvh"
        kernel = "{kernel}"
        ramdisk = "{ramdisk}"
        extra = "console=hvc0 quiet"
        memory = 128
        on_poweroff = "preserve"
        max_event_channels = 500
    """,
}

NAMES = ["ref-pv", "ref-pvh", *OTHERS]


@pytest.fixture
def guests(paths: ServicePaths, image: Image, tmp_path: Path) -> Iterator[dict[str, Path]]:
    """The configurations of the seven, all created, their devices connected."""
    values = {"kernel": image("debian-cloud"), "ramdisk": image("driver-initrd")}
    files: dict[str, Path] = {}
    for name in NAMES:
        for disk in ("disk", "disk2"):
            (tmp_path / f"{name}-{disk}.img").write_bytes(bytes(1 << 20))
            values[disk] = tmp_path / f"{name}-{disk}.img"
        text = OTHERS.get(name, REF).format(
            kind=name.removeprefix("ref-"), number=1 + NAMES.index(name), **values
        )
        files[name] = tmp_path / f"{name}.cfg"
        files[name].write_text(text)
    assert xg("service", "start", "--cpus", "4").returncode == 0
    for name, path in files.items():
        done = xg("create", *(["-p"] if name == "held" else []), str(path))
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert done.stderr == f"Parsing config from {path}\n"
    for name in ("ref-pv", "ref-pvh"):
        until(lambda name=name: connected(name), 120)
    yield files
    assert xg("service", "stop").returncode == 0


def connected(name: str) -> bool:
    """Whether a guest has connected its disk and its network interface."""
    lists = [json.loads(xg(f"{kind}-list", "--json", name).stdout) for kind in ("block", "network")]
    return all(row["state"] == 4 for rows in lists for row in rows)


def masked(text: str) -> list[str]:
    """Lines with UUIDs, times and states aside, and with blanks as they are."""
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", text)
    text = re.sub(r"[ \d]{7}\.\d(?= |$)", "     T.T", text, flags=re.MULTILINE)
    return re.sub(r"(?<= )[r-][b-][p-](?:---)?(?= )", "SSS", text).splitlines()


def shown(command: str, *names: str) -> list[str]:
    done = xg(command, *names)
    assert done.returncode == 0, done.stderr
    return masked(done.stdout)


@pytest.mark.timeout(280)
def test_they_are_shown_as_on_a_real_xen(guests: dict[str, Path]) -> None:
    rows = shown("list")
    assert rows[0] == "Name                                        ID   Mem VCPUs\tState\tTime(s)"
    assert "ref-pv                                       1   128     1     SSS      T.T" in rows
    assert "ref-pvh                                      2   128     1     SSS      T.T" in rows
    assert [row.split()[0] for row in rows[1:]] == ["Domain-0", *NAMES]
    tail = "UUID        -                -"
    assert (
        f"ref-pvh                                      2   128     1     SSS      T.T {tail}"
        in shown("list", "-v")
    )

    rows = shown("vcpu-list")
    assert rows[0] == (
        "Name                                ID  VCPU   CPU State   Time(s) Affinity (Hard / Soft)"
    )
    pattern = r"ref-pv {31}1     0 +[\d-]+   SSS      T.T  all / all"
    assert any(re.fullmatch(pattern, row) for row in rows), rows
    affinity = {(row.split()[0], row.split()[2]): row.partition("T.T")[2] for row in rows[1:]}
    assert affinity["pinned", "0"] == "  1 / all"
    assert affinity["pinned", "1"] == "  2-3 / all"

    assert shown("block-list", "ref-pv") == [
        "Vdev  BE  handle state evt-ch ring-ref BE-path                       ",
        "51712 0   1      4     8      8        /local/domain/0/backend/vbd/1/51712",
    ]
    assert shown("network-list", "ref-pvh") == [
        "Idx BE Mac Addr.         handle state evt-ch   tx-/rx-ring-ref"
        " BE-path                       ",
        "0   0  00:16:3e:00:00:02     0     4     -1   522/523        "
        " /local/domain/0/backend/vif/2/0",
    ]
    assert "ref-pv                               1    256    0" in shown("sched-credit2")
    assert "web                                  4    512   50" in shown("sched-credit2")
    assert (shown("domid", "ref-pvh"), shown("domname", "2")) == (["2"], ["ref-pvh"])

    assert xg("pause", "ref-pv").returncode == 0
    (paused,) = json.loads(xg("list", "--json", "ref-pv").stdout)
    assert paused["state"][2] == "p"
    assert xg("unpause", "ref-pv").returncode == 0
    for name in guests:
        assert xg("destroy", name).returncode == 0
    assert len(shown("list")) == 2
