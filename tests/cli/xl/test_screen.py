# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg screenshot` of Debian's standard kernel, whose frame buffer driver is built in."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image as Picture

from tests.conftest import unavailable
from tests.linux import modules
from tests.toolstack.service.conftest import folder
from tests.toolstack.service.support import read_until
from tests.toolstack.service.test_process import paths, xg
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.images.cache import ImageCache
from xenograft.toolstack.service.client import connect
from xenograft.toolstack.service.messages import AttachConsole
from xenograft.toolstack.service.paths import ServicePaths

__all__ = ["folder", "paths"]

SCRIPT = "dd if=/dev/zero bs=3200 count=100 2>/dev/null | tr '\\000' '\\377' > /dev/fb0; echo DRAWN"


@pytest.mark.timeout(280)
def test_screenshot(paths: ServicePaths, tmp_path: Path) -> None:
    try:
        debian = modules.fetch()
        ramdisk = ImageCache().get("demo-initrd").path
    except UserError as error:
        unavailable(str(error))
        raise
    cfg, shot = tmp_path / "screen.cfg", tmp_path / "shot.png"
    cfg.write_text(
        f'name="screen"\ntype="pvh"\nkernel="{debian / "vmlinuz"}"\nramdisk="{ramdisk}"\n'
        'extra="console=hvc0 quiet"\nmemory=384\nvfb=["vnc=0"]\n'
    )
    assert xg("create", str(cfg)).returncode == 0
    with connect(paths) as client:
        client.call(AttachConsole("screen"))
        client.sock.settimeout(200)
        read_until(client.sock, b"guest:~#")
        client.sock.sendall(f"{SCRIPT}\n".encode())
        read_until(client.sock, b"\nDRAWN")
    done = xg("screenshot", "screen", str(shot))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with Picture.open(shot) as picture:
        assert picture.size == (800, 600)
        assert picture.convert("RGB").getpixel((400, 50)) == (255, 255, 255)
        assert picture.convert("RGB").getpixel((400, 101)) == (0, 0, 0)
    done = xg("screenshot", "screen", str(tmp_path / "no" / "folder.png"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert xg("destroy", "screen").returncode == 0
