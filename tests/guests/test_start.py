# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels of every form and guests of every size, seen from inside."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_play import xg
from tests.guests.support import VCPUS, read, run
from tests.toolstack.build.support import COMPRESSORS, bzimage, linux_payload
from xenograft.cli.status import OK, USAGE
from xenograft.toolstack.build.pvh import Module, build_pvh
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.machine import Machine

Guest = Callable[[str], Path]
Image = Callable[[str], Path]


@pytest.mark.parametrize("env", ["64", "pae", "flat"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_several_modules(guest: Guest, env: str, count: int) -> None:
    kernel = guest(f"start-{env}")
    modules = [Module(bytes([i + 1]) * (5000 * i + 1), f"module {i}") for i in range(count)]
    with Machine(clock="virtual") as machine:
        built = build_pvh(
            kernel.read_bytes(), memory=64 << 20, modules=modules, cmdline=f"word modules={count}"
        )
        config = from_options(None, name="guest", kernel=str(kernel), memory="64")
        domain = machine.create_built(built, config)
        domain.wait(timeout=10)
        report = read(domain.console.output)
    assert report.complete
    assert (report.failed, report.skipped) == ({}, {})


@pytest.mark.parametrize("memory", [32, 33, 4096, 8192])
def test_memory(guest: Guest, memory: int) -> None:
    report = run(guest("start-64"), f"word memory={memory}", memory=memory)
    assert report.complete
    assert (report.failed, report.skipped) == ({}, {})


@pytest.mark.parametrize("vcpus", [1, 2, 31, 32])
def test_vcpus(guest: Guest, vcpus: int) -> None:
    """They are in the MADT, start by INIT and SIPI, and send each other interrupts."""
    report = run(guest("smp-64"), vcpus=vcpus)
    assert report.complete
    assert report.failed == {}
    assert "all_cpus_start" in report.passed
    assert vcpus != VCPUS


@pytest.mark.parametrize("env", ["64", "pae"])
@pytest.mark.parametrize("form", COMPRESSORS)
def test_a_kernel_in_every_packing(guest: Guest, tmp_path: Path, form: str, env: str) -> None:
    """bzImages whose payload, an ELF file of either width, boots."""
    path = tmp_path / f"vmlinuz-{form}"
    path.write_bytes(bzimage(linux_payload(guest(f"start-{env}").read_bytes(), form)))
    report = run(path, "word")
    assert report.complete
    assert (report.failed, report.skipped) == ({}, {})


@pytest.mark.parametrize("form", COMPRESSORS)
def test_a_damaged_packing(guest: Guest, tmp_path: Path, form: str) -> None:
    payload = bytearray(linux_payload(guest("start-64").read_bytes(), form))
    middle = len(payload) // 2
    payload[middle : middle + 256] = b"\xff" * 256  # lz4 has no checksum: break its structure
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage(bytes(payload)))
    done = xg("run", "--kernel", str(path), "--memory", "64M", "--cmdline", "word")
    assert done.returncode == USAGE
    assert re.fullmatch(rb"xg: kernel \S+: [^\n]+\n", done.stderr), done.stderr
    assert done.stdout == b""


def test_debian_with_all_that_a_guest_may_have(image: Image) -> None:
    done = xg(
        *("run", "--kernel", str(image("debian-cloud")), "--ramdisk", str(image("demo-initrd"))),
        *("--memory", "8G", "--vcpus", "32", "--cmdline", "console=hvc0 quiet"),
        typed=b"nproc; grep MemTotal /proc/meminfo\n",
    )
    assert done.returncode == OK, done.stderr
    assert b"\n32\r" in done.stdout
    found = re.search(rb"MemTotal: +(\d+) kB", done.stdout)
    assert found is not None
    assert int(found[1]) > 7_900_000
