# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's own kernels from `xg run` to their power-off."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_play import xg
from xenograft.cli.status import OK
from xenograft.toolstack.images.initrd import MARKER

Image = Callable[[str], Path]


@pytest.mark.parametrize("kernel", ["debian-cloud", "debian"])
@pytest.mark.parametrize("vcpus", [1, 4])
def test_boots_to_a_shell_and_powers_off(image: Image, kernel: str, vcpus: int) -> None:
    with Path("/dev/null").open("rb") as null:
        done = xg(
            *("run", "--kernel", str(image(kernel)), "--ramdisk", str(image("demo-initrd"))),
            *("--vcpus", str(vcpus), "--memory", "384M", "--timeout", "200"),
            typed=null.fileno(),
        )
    assert (done.returncode, done.stderr) == (OK, b""), done.stdout[-2000:]
    text = done.stdout.decode(errors="replace")
    assert MARKER in text
    assert re.search(rf"smp: Brought up \d node.*, {vcpus} CPU", text)
    assert re.search(r"reboot: (System halted|Power down)", text)


def test_a_pipe_is_typed_at_the_shell(image: Image) -> None:
    done = xg(
        *("run", "--kernel", "debian-cloud", "--ramdisk", "demo-initrd"),
        *("--cmdline", "console=hvc0 quiet", "--timeout", "200"),
        typed=b"uname -sr; cat /sys/hypervisor/type\n",
    )
    assert done.returncode == OK
    assert re.search(rb"\nLinux 6\.1\.\S+\r", done.stdout)
    assert b"\nxen\r" in done.stdout
