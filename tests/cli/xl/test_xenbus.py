# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg xenbus` against a service: a device that nobody in the guest looks at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.toolstack.service.conftest import folder
from tests.toolstack.service.test_process import paths, xg
from xenograft.toolstack.service.paths import ServicePaths

__all__ = ["folder", "paths"]


def test_who_must_do_what_next(
    paths: ServicePaths, guest: Callable[[str], Path], tmp_path: Path
) -> None:
    cfg = tmp_path / "tiny.cfg"
    cfg.write_text(
        f'name="tiny"\ntype="pvh"\nkernel="{guest("demo-64")}"\nmemory=32\n'
        "vif=['mac=00:16:3e:00:00:07,bridge=xenbr0']\n"
    )
    assert xg("xenbus").stdout.count("\n") <= 1
    assert xg("create", str(cfg)).returncode == 0
    shown = xg("xenbus", "tiny")
    assert shown.returncode == 0
    line = next(line for line in shown.stdout.splitlines() if "vif/0" in line)
    assert "Initialising for" in line
    assert "InitWait for" in line
    assert "front end: set up its rings, then write Initialised" in line
    assert "InitWait" in xg("xenbus", "--timeline").stdout.partition("Timeline")[2]
    view = json.loads(xg("xenbus", "--json", "tiny").stdout)
    assert [device["name"] for device in view["devices"]] == ["vif/0"]
    assert view["violations"] == []
    missing = xg("xenbus", "nobody")
    assert missing.returncode != 0
    assert len(missing.stderr.splitlines()) == 1
    assert xg("destroy", "tiny").returncode == 0
    assert "vif/0" not in xg("xenbus").stdout
