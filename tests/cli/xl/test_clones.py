# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg fork`, `xg snapshot` and `xg rewind` with a real guest in a service of its own."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.xl.test_linux import cfg, console, listed
from tests.toolstack.service.conftest import folder
from tests.toolstack.service.test_process import KILLS, XG, kill, paths, xg
from xenograft.toolstack.images.initrd import MARKER
from xenograft.toolstack.service.paths import ServicePaths

__all__ = ["cfg", "folder", "paths"]
Image = Callable[[str], Path]


def names() -> list[str]:
    return [domain["name"] for domain in json.loads(xg("list", "--json").stdout)]


@pytest.mark.timeout(280)
def test_clones_and_moments(paths: ServicePaths, cfg: Path) -> None:
    assert xg("create", "-q", str(cfg)).returncode == 0
    with console(paths) as type_:
        type_("", MARKER)
        type_("echo before > /tmp/word; echo said.\n", "\nsaid.")
        done = xg("fork", "linux", "-n", "2")
        assert (done.returncode, done.stderr) == (0, "")
        assert [line.split()[0] for line in done.stdout.splitlines()] == ["linux-1", "linux-2"]
        assert names() == ["Domain-0", "linux", "linux-1", "linux-2"]
        assert listed("linux-2")["memory"] == listed()["memory"]
        (made,) = json.loads(xg("fork", "--json", "-p", "--name", "twin", "linux").stdout)
        assert made["name"] == "twin"
        assert str(listed("twin")["state"])[2] == "p"
        done = xg("fork", "--name", "twin", "linux")
        assert (done.returncode, done.stderr) == (
            1,
            'Domain with name "twin" already exists.\n',
        )
        for name in ("linux-1", "linux-2", "twin"):
            assert xg("destroy", name).returncode == 0

        assert xg("snapshot", "linux").stdout == "1\n"
        assert xg("snapshot", "linux", "ready").stdout == "ready\n"
        rows = xg("snapshot", "-l", "linux").stdout.splitlines()
        assert [row.split()[0] for row in rows] == ["Name", "1", "ready"]
        assert xg("snapshot", "linux", "ready").returncode == 1
        assert names() == ["Domain-0", "linux"]
        domid = listed()["domid"]
        type_("echo after > /tmp/word; echo said.\n", "\nsaid.")
        done = xg("rewind", "linux")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.split()[0] == "linux"
        assert listed()["domid"] != domid
        # Whoever looked at the console still does.
        assert "before" in type_("cat /tmp/word; echo said.\n", "\nsaid.")
        assert xg("snapshot", "-d", "linux", "ready").returncode == 0
        assert (
            xg("rewind", "linux", "ready").stderr == "linux has no snapshot 'ready'; there is 1\n"
        )
        assert xg("rewind", "linux", "1").returncode == 0
        assert xg("destroy", "linux").returncode == 0
    assert names() == ["Domain-0"]
    done = xg("fork", "nosuch")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


@pytest.mark.timeout(60 + 40 * KILLS)
def test_killed_while_it_forks(paths: ServicePaths, cfg: Path, tmp_path: Path) -> None:
    """The service dies with its clones; the image is sound, and the next command works."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"what was there".ljust(1 << 20, b"\0"))
    before = disk.read_bytes()
    chance = random.Random(11)
    pids = []
    for _ in range(max(KILLS // 2, 1)):
        assert xg("create", "-q", str(cfg), f"disk=['{disk},raw,xvda,rw']").returncode == 0
        with console(paths) as type_:
            type_("", MARKER)
        assert xg("snapshot", "linux").returncode == 0
        command = subprocess.Popen(
            [*XG, "fork", "-n", "40", "linux"], stderr=subprocess.PIPE, text=True
        )
        # The command's own start takes a tenth of a second, and each clone some milliseconds.
        time.sleep(chance.uniform(0.05, 0.6))
        pids.append(kill(paths))
        _, errors = command.communicate(timeout=60)
        assert "Traceback" not in errors, errors
        assert errors.count("\n") <= 2
        assert disk.read_bytes() == before
        assert xg("list").returncode == 0
        assert "linux" not in names()
    for pid in pids:
        assert not Path(f"/proc/{pid}/exe").exists()
