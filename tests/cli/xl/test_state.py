# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's kernel in the host service, saved, restored and suspended by the commands."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.cli.xl.test_linux import console, listed
from tests.toolstack.service.conftest import folder
from tests.toolstack.service.support import until
from tests.toolstack.service.test_process import KILLS, XG, kill, paths, xg
from xenograft.toolstack.service.client import await_end, connect
from xenograft.toolstack.service.messages import GetService
from xenograft.toolstack.service.paths import ServicePaths
from xenograft.toolstack.state.pages import FileGuest

__all__ = ["folder", "paths"]
Image = Callable[[str], Path]

COUNTER = (
    "(n=0; while :; do n=$((n+1)); echo $n > /tmp/m; mv /tmp/m /tmp/n; usleep 20000; done) &\n"
)


@pytest.fixture
def cfg(image: Image, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    kind = getattr(request, "param", "pvh")
    path, disk = tmp_path / "linux.cfg", tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(8 << 20)
    path.write_text(
        f'name="linux"\ntype="{kind}"\nkernel="{image("debian-cloud")}"\n'
        f'ramdisk="{image("driver-initrd")}"\nextra="console=hvc0 quiet xg.net=dhcp"\n'
        f"memory=160\ndisk=['{disk},raw,xvda,rw']\nvif=['bridge=user']\n"
    )
    return path


def ok(*words: str) -> CompletedProcess[str]:
    done = xg(*words)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def counting(paths: ServicePaths, cfg: Path) -> Iterator[ServicePaths]:
    """A service whose guest "linux" counts in a file, and has synced another to its disk."""
    ok("create", str(cfg))
    with console(paths) as type_:
        type_("", "guest:~# ")
        type_("stty -echo\n", "# ")
        type_(COUNTER, "# ")
        type_("echo lasting | dd of=/dev/xvda conv=fsync 2>/dev/null; echo done.\n", "done.\r")
    return paths


def count(paths: ServicePaths) -> int:
    with console(paths) as type_:
        shown = type_('echo "n=$(cat /tmp/n)="; echo seen.\n', "seen.\r")
        (last,) = re.findall(r"n=(\d+)=", shown)[-1:]
        return int(last)


def goes_on(paths: ServicePaths, before: int) -> int:
    """The counter counts, from where it was."""
    first = count(paths)
    assert before <= first
    until(lambda: count(paths) > first, 60)
    return count(paths)


def works(paths: ServicePaths) -> None:
    with console(paths) as type_:
        type_("head -c 7 /dev/xvda; echo; echo read.\n", "lasting\r\nread.\r")
        type_("ping -c 1 -W 10 10.0.2.2 | grep received; echo pinged.\n", "1 packets received")


@pytest.mark.timeout(280)
def test_save_and_restore(counting: ServicePaths, cfg: Path, tmp_path: Path) -> None:
    paths, file = counting, tmp_path / "linux.save"
    before = count(paths)
    for mode in ("--snapshot", "--suspend", ""):
        domid = listed()["domid"]
        done = ok("save", *filter(None, [mode]), "linux", str(file))
        size = file.stat().st_size
        kind = "a snapshot" if mode == "--snapshot" else "a guest that suspended itself"
        assert (done.stdout, done.stderr) == (
            "",
            f"Saving to {file} new xg format (info 0x1/0x0/{size})\n"
            f"xg: info: Saved domain {domid}, {kind}, {size} bytes\n",
        )
        assert size < 100 << 20
        assert xg("domid", "linux").returncode == 1
        done = ok("restore", str(file))
        lines = done.stderr.splitlines()
        assert lines[:-2] == [
            f"Loading new save file {file} (new xg format (info 0x1/0x0/{size}))",
            " Savefile contains xl domain config in JSON format",
            "Parsing config from <saved>",
            "xc: info: Found x86 HVM domain from Xen 4.17",
            "xc: info: Restoring domain",
            "xc: info: Restore successful",
        ]
        assert re.fullmatch(r"xc: info: XenStore: mfn 0x[0-9a-f]+, dom 0, evt \d+", lines[-2])
        assert re.fullmatch(r"xc: info: Console: mfn 0x[0-9a-f]+, dom 0, evt \d+", lines[-1])
        assert listed()["domid"] != domid
        before = goes_on(paths, before)
        works(paths)
    # Its end is like any guest's.
    ok("shutdown", "-w", "--timeout", "60", "linux")
    until(lambda: xg("domid", "linux").returncode == 1)
    assert [one.name for one in tmp_path.iterdir() if ".new" in one.name] == []


def small(folder: Path, kernel: Path) -> Path:
    """A configuration of `guests/suspend`, which suspends itself when it's asked to."""
    path = folder / "small.cfg"
    path.write_text(
        f'name="small"\ntype="pv"\nkernel="{kernel}"\nextra="ask rounds=3"\nmemory=16\n'
    )
    return path


def woken(shown: str, counter: int) -> bool:
    """Whether it says that all is as it was, but its frames."""
    wanted = rf"Woken: counter {counter}, .* as before, 4096 of 4096 frames are others"
    return bool(re.search(wanted, shown)) and "WRONG" not in shown


@pytest.mark.parametrize("env", ["pv32", "pv64"])
def test_pv_kernels_of_ours(
    paths: ServicePaths, guest: Callable[[str], Path], tmp_path: Path, env: str
) -> None:
    cfg, file = small(tmp_path, guest(f"suspend-{env}")), tmp_path / "small.save"
    ok("create", str(cfg))
    with console(paths, "small") as type_:
        type_("", "Waiting: counter 0")
    ok("save", "small", str(file))
    assert xg("domid", "small").returncode == 1
    # Its frames are somebody else's now.
    ok("create", "-p", str(cfg), 'name="other"')
    done = ok("restore", str(file))
    assert "xc: info: Found x86 PV domain from Xen 4.17" in done.stderr
    with console(paths, "small") as type_:
        assert woken(type_("", "Waiting: counter 1"), 1)
    ok("suspend", "small")
    assert "s" in str(listed("small")["state"])
    ok("resume", "small")
    with console(paths, "small") as type_:
        assert "Still here: counter 2, " in type_("", "Waiting: counter 2")
    done = ok("save", "-c", "small", str(file))
    assert "a guest that suspended itself" in done.stderr
    until(lambda: xg("domid", "small").returncode == 1)
    ok("restore", str(file))
    until(lambda: xg("domid", "small").returncode == 1)  # that was its last round


@pytest.mark.timeout(280)
def test_checkpoints_and_a_service_that_dies(
    counting: ServicePaths, cfg: Path, tmp_path: Path
) -> None:
    paths, file = counting, tmp_path / "linux.save"
    before = count(paths)
    ok("save", "-c", "linux", str(file))
    goes_on(paths, before)
    ok("save", "-p", "--snapshot", "linux", str(file))
    assert "p" in str(listed()["state"])
    before = 0
    done = xg("restore", str(file))
    assert (done.returncode, done.stderr) == (1, 'Domain with name "linux" already exists.\n')
    with connect(paths) as client:
        pid = client.call(GetService()).pid
    os.kill(pid, signal.SIGKILL)
    assert await_end(paths)
    done = ok("list")
    assert f"linux has a saved state: xg restore {file}" in done.stderr
    assert "linux" not in done.stdout
    # In another process, with other settings: it waits for somebody to let it go.
    other = tmp_path / "other.cfg"
    other.write_text(cfg.read_text().replace('name="linux"', 'name="other"'))
    ok("restore", "-p", str(other), str(file))
    assert "p" in str(listed("other")["state"])
    ok("rename", "other", "linux")
    ok("unpause", "linux")
    goes_on(paths, before)
    works(paths)


@pytest.mark.timeout(280)
def test_suspend_and_resume(counting: ServicePaths, tmp_path: Path) -> None:
    paths, file = counting, tmp_path / "linux.save"
    before = count(paths)
    done = xg("resume", "linux")
    assert (done.returncode, done.stderr) == (1, "domain 1 (linux) isn't suspended\n")
    ok("suspend", "linux")
    assert "s" in str(listed()["state"])
    ok("resume", "linux")
    before = goes_on(paths, before)
    ok("suspend", "linux")
    ok("save", "linux", str(file))
    ok("restore", str(file))
    goes_on(paths, before)
    works(paths)
    _, linux = json.loads(ok("top", "--json").stdout)
    # The ping at least, there and back; its reads of the disk as well.
    assert linux["net_tx"] >= 98
    assert linux["net_rx"] >= 98
    assert linux["sectors_read"] >= 1


@pytest.mark.timeout(280)
def test_what_cannot_be_done(counting: ServicePaths, tmp_path: Path) -> None:
    paths, file = counting, tmp_path / "linux.save"
    for words, says in (
        (("save", "none", str(file)), "none is an invalid domain identifier (rc=-6)\n"),
        (("save", "0", str(file)), "Domain-0 can't be worked on like a guest"),
        (("save", "linux", str(tmp_path / "no" / "x")), "no such file or directory\n"),
        (("save", "linux", str(tmp_path)), "isn't a file; name another place\n"),
        (("restore", str(file)), "no such file or directory\n"),
        (("restore", str(tmp_path / "linux.cfg")), "isn't a saved guest\n"),
        (("save", "--suspend", "--snapshot", "linux", "x"), "exclude each other"),
    ):
        done = xg(*words)
        assert done.returncode in (1, 2)
        assert says in done.stderr
        assert "Traceback" not in done.stderr
    goes_on(paths, 0)
    assert not file.exists()


@pytest.mark.timeout(280)
def test_killed_while_it_saves_and_restores(counting: ServicePaths, tmp_path: Path) -> None:
    paths, base, file = counting, tmp_path / "base.save", tmp_path / "linux.save"
    ok("save", "-c", "linux", str(base))
    chance = random.Random(7)
    for round_ in range(KILLS):
        if xg("domid", "linux").returncode:
            ok("restore", str(base))
        words = ["save", "-c", "linux", str(file)] if round_ % 2 else ["restore", str(base)]
        if not round_ % 2:
            ok("destroy", "linux")
        command = subprocess.Popen([*XG, *words], stderr=subprocess.PIPE, text=True)
        time.sleep(chance.uniform(0.1, 0.8))
        kill(paths)
        errors = command.communicate(timeout=60)[1]
        assert "Traceback" not in errors, errors
        # It's whole, or it isn't there.
        if file.exists():
            with FileGuest(file) as saved:
                assert saved.body
        assert {one.name for one in tmp_path.iterdir()} <= {
            *("base.save", "linux.save", "linux.cfg", "disk.img")
        }
    if xg("domid", "linux").returncode:
        ok("restore", str(base))
    goes_on(paths, 0)
    works(paths)
