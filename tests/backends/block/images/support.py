# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests of images share: QEMU's tools as a second opinion, and patterns to write."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

from tests.conftest import unavailable
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.images.cache import cache_root
from xenograft.toolstack.images.tools import program

KIB = 1 << 10
MIB = 1 << 20


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes that are neither constant nor the same elsewhere."""
    return random.Random(seed).randbytes(size)


_TOGETHER = {
    "mkfs.ext4": "mke2fs",
    "debugfs": "mke2fs",
    "qemu-io": "qemu-img",
    "qemu-nbd": "qemu-img",
}
"""Programs that come in the packages of another."""


def need(tool: str) -> list[str]:
    """The words that a command with this tool begins with; the test is skipped without it."""
    try:
        found = program(_TOGETHER.get(tool, tool), cache_root())
    except UserError as error:
        unavailable(str(error))
        raise
    environment = [f"{name}={value}" for name, value in found.environment.items()]
    return ["env", *environment, str(found.sibling(tool))]


def qemu_img(*arguments: str | Path) -> str:
    """Run qemu-img, which must succeed."""
    command = [*need("qemu-img"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def qemu_io(path: Path, *commands: str, form: str = "qcow2") -> str:
    """Run commands of qemu-io on an image."""
    command = [*need("qemu-io"), "-f", form]
    for one in commands:
        command += ["-c", one]
    command.append(str(path))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    assert "failed" not in done.stdout, done.stdout
    return done.stdout


def check(path: Path) -> dict[str, Any]:
    """What qemu-img check finds in an image: see its JSON output."""
    command = [*need("qemu-img"), "check", "--output=json", "-f", "qcow2", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode in (0, 2, 3), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def assert_clean(path: Path) -> None:
    """No corruption, and nothing lost either."""
    found = check(path)
    assert not any(found.get(name) for name in ("corruptions", "leaks", "check-errors")), found


def content(path: Path, form: str = "qcow2") -> bytes:
    """The whole disk as QEMU reads it."""
    raw = path.with_name(path.name + ".as-raw")
    qemu_img("convert", "-f", form, "-O", "raw", path, raw)
    data = raw.read_bytes()
    raw.unlink()
    return data
