# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's kernel in the host service, led through its life by the commands."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.toolstack.service.conftest import folder
from tests.toolstack.service.support import read_until, until
from tests.toolstack.service.test_process import paths, xg
from xenograft.toolstack.images.initrd import MARKER
from xenograft.toolstack.service.client import connect
from xenograft.toolstack.service.messages import AttachConsole
from xenograft.toolstack.service.paths import ServicePaths

__all__ = ["folder", "paths"]
Image = Callable[[str], Path]


@pytest.fixture
def cfg(image: Image, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    kind = getattr(request, "param", "pvh")
    path, ramdisk = tmp_path / "linux.cfg", tmp_path / "initrd"
    # It is read again at each reboot: the same one, whoever builds images meanwhile.
    shutil.copy(image("demo-initrd"), ramdisk)
    path.write_text(
        f'name="linux"\ntype="{kind}"\nkernel="{image("debian-cloud")}"\n'
        f'ramdisk="{ramdisk}"\nextra="console=hvc0 quiet"\n'
        "memory=160\nmaxmem=224\nvcpus=1\nmaxvcpus=2\n"
        "vif=['mac=00:16:3e:00:00:02,bridge=xenbr0']\n"
        'on_poweroff="destroy"\non_reboot="restart"\non_crash="destroy"\n'
    )
    return path


@contextlib.contextmanager
def console(paths: ServicePaths, name: str = "linux") -> Iterator[Callable[[str, str], str]]:
    """`type_("ls", "etc")`: what the guest shows up to a pattern."""
    with connect(paths) as client:
        client.call(AttachConsole(name, follow=True))

        def type_(text: str, wanted: str) -> str:
            client.sock.sendall(text.encode())
            return read_until(client.sock, wanted.encode()).decode(errors="replace")

        client.sock.settimeout(120)
        yield type_


def listed(name: str = "linux") -> dict[str, object]:
    (domain,) = json.loads(xg("list", "--json", name).stdout)
    assert isinstance(domain, dict)
    return domain


@pytest.mark.timeout(280)
@pytest.mark.parametrize("cfg", ["pvh", "pv"], indirect=True)
def test_a_life(paths: ServicePaths, cfg: Path) -> None:
    done = xg("create", str(cfg))
    assert (done.returncode, done.stderr) == (0, f"Parsing config from {cfg}\n")
    assert listed()["memory"] == 160
    with console(paths) as type_:
        type_("", MARKER)
        # Its map shows maxmem=, and it never had more than memory=.
        assert listed()["memory"] == 160
        type_("dmesg | grep Memory:.*/22[89]\n", "K available (")
        assert xg("mem-set", "linux", "120").returncode == 0
        until(lambda: listed()["memory"] == 120, 60)
        assert xg("mem-set", "linux", "200").returncode == 0
        until(lambda: listed()["memory"] == 200, 60)

        assert xg("vcpu-set", "-i", "linux", "2").returncode == 0
        shown = "cat /sys/devices/system/cpu/present; echo present.\n"
        until(lambda: "\n0-1" in type_(shown, "\npresent."), 60)
        online = "/sys/devices/system/cpu/cpu1/online"
        type_(f"echo 1 > {online}; nproc; echo done.\n", "\ndone.")
        until(lambda: listed()["vcpus"] == 2, 60)
        assert xg("vcpu-set", "linux", "1").returncode == 0
        until(lambda: listed()["vcpus"] == 1, 60)

        assert xg("pause", "linux").returncode == 0
        before = listed()
        assert "p" in str(before["state"])
        assert listed()["time"] == before["time"]
        assert xg("unpause", "linux").returncode == 0
        type_("echo still $((40 + 2))\n", "still 42")

        assert xg("sysrq", "linux", "h").returncode == 0
        assert xg("reboot", "-w", "--timeout", "60", "linux").returncode == 0
        type_("", MARKER)
    assert listed()["domid"] == 2
    # It was built again as it had become.
    build = json.loads(xg("list", "-l", "linux").stdout)[0]["config"]["b_info"]
    assert (build["target_memkb"], build["max_memkb"]) == (200 << 10, 224 << 10)
    assert (build["avail_vcpus"], build["max_vcpus"]) == ([0], 2)
    done = xg("shutdown", "-w", "--timeout", "60", "linux")
    assert (done.returncode, done.stderr.splitlines()) == (
        0,
        [
            "Shutting down domain 2",
            "Waiting for 1 domains",
            "Domain 2 has been shut down, reason code 0",
        ],
    )
    until(lambda: xg("domid", "linux").returncode == 1)


@pytest.mark.timeout(280)
def test_create_c_shows_the_whole_life(paths: ServicePaths, cfg: Path) -> None:
    done = xg("create", "-c", str(cfg), 'extra=console=hvc0 quiet xg.run="cat /proc/uptime"')
    assert done.returncode == 0
    assert MARKER in done.stdout
    assert re.search(r"\n\d+\.\d\d \d+\.\d\d\r?\n", done.stdout)
    assert "the command ended with status 0" in done.stdout


@pytest.mark.timeout(280)
def test_a_panic_leaves_a_core(paths: ServicePaths, cfg: Path) -> None:
    assert xg("create", "-q", str(cfg), "on_crash=coredump-destroy").returncode == 0
    with console(paths) as type_:
        type_("", MARKER)
        type_("echo c > /proc/sysrq-trigger\n", "Kernel panic")
    until(lambda: xg("domid", "linux").returncode == 1, 60)
    (core,) = paths.dumps.iterdir()
    assert core.name.endswith("-linux.1.core")
    assert core.read_bytes()[:4] == b"\x7fELF"
    assert b"Linux version 6.1" in core.read_bytes()
    core.unlink()
    paths.dumps.rmdir()
