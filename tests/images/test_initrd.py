# SPDX-License-Identifier: GPL-2.0-or-later
"""The demonstration guest's first process: its script, and the archive around it."""

from __future__ import annotations

import stat
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from tests.images.test_cpio import read
from xenograft.toolstack.images import initrd

SCRIPT = resources.files("xenograft.toolstack.images").joinpath("demo_init.sh")


@pytest.fixture
def busybox(tmp_path: Path) -> Path:
    path = tmp_path / "busybox"
    path.write_text("#!/bin/sh\necho 'mount\nsh\nls\nbusybox'\n")
    path.chmod(0o755)
    return path


def test_the_script_is_a_shell_script() -> None:
    subprocess.run(["sh", "-n"], input=SCRIPT.read_bytes(), check=True)


def test_the_script_prints_the_marker() -> None:
    assert f'echo "{initrd.MARKER} ' in SCRIPT.read_text()


def test_the_archive(busybox: Path) -> None:
    members = read(initrd.build(busybox))
    assert members["init"].data == SCRIPT.read_bytes()
    assert members["dev/console"].device == (5, 1)
    assert stat.S_ISCHR(members["dev/console"].mode)
    assert {name for name in members if name.startswith("bin/")} == {
        "bin/busybox",
        "bin/ls",
        "bin/mount",
        "bin/sh",
    }
    assert members["etc/udhcpc/default.script"].mode & 0o111
    # Asked to power off, the kernel runs these.
    for name in ("sbin/poweroff", "sbin/reboot"):
        assert members[name].data.startswith(b"#!/bin/sh\nexec /bin/busybox ")
        assert members[name].mode & 0o111
    assert initrd.build(busybox) == initrd.build(busybox)


def test_modules_are_decompressed_and_in_order(busybox: Path, tmp_path: Path) -> None:
    import gzip
    import lzma

    import zstandard

    paths = []
    for name, pack in {
        "d.ko": bytes,
        "c.ko.xz": lzma.compress,
        "b.ko.gz": gzip.compress,
        "a.ko.zst": zstandard.ZstdCompressor().compress,
    }.items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(pack(name.encode()))
    members = read(initrd.build(busybox, paths))
    found = {name: members[name].data for name in members if name.endswith(".ko")}
    assert found == {
        f"lib/modules/{index:02}-{path.name[0]}.ko": path.name.encode()
        for index, path in enumerate(paths)
    }


@pytest.mark.parametrize("content", ["\x7fELF of another machine", "#!/bin/sh\nexit 1\n"])
def test_a_busybox_that_cannot_run_here(tmp_path: Path, content: str) -> None:
    path = tmp_path / "busybox"
    path.write_text(content)
    path.chmod(0o755)
    assert initrd.applets(path) == []
    assert read(initrd.build(path))["bin/sh"].data == b"busybox"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('quiet xg.run="uname -a; ls" rw', "=uname -a; ls"),
        ("xg.run=poweroff quiet", "=poweroff"),
        ('console=hvc0 xg.run="a b"', "=a b"),
        ("quiet", ""),
        ("notxg.run=no", ""),
        ("notxg.run=no xg.run=yes", "=yes"),
    ],
)
def test_parameters_of_the_kernel_command_line(line: str, expected: str) -> None:
    body = SCRIPT.read_text()
    function = body[body.index("parameter() {") : body.index("\n}\n") + 3]
    program = f'line=" $1 "\n{function}parameter xg.run && printf "=%s" "$value"; true'
    done = subprocess.run(
        ["sh", "-c", program, "init", line], capture_output=True, text=True, check=True
    )
    assert done.stdout == expected
