# SPDX-License-Identifier: GPL-2.0-or-later
"""Disk I/O in the guest on a raw image that the host has in memory, against QEMU's virtio-blk."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from bench.harness import OURS, QEMU, XG, Peer, Result, alternate, timed
from xenograft.toolstack.images.cache import ImageCache
from xenograft.toolstack.images.cpio import Archive

_SIZE = 256 << 20
_MEMORY = 256

# name: (operation, bytes each, how many, at once, order)
_WORK = {
    "sequential read, through the guest's cache": ("read", 1 << 20, 512, 1, "cached"),
    "sequential write, through the guest's cache": ("write", 1 << 20, 512, 1, "cached"),
    "sequential read of 128 KiB, direct, 1 at once": ("read", 1 << 17, 4096, 1, "seq"),
    "sequential write of 128 KiB, direct, 1 at once": ("write", 1 << 17, 4096, 1, "seq"),
    "sequential read of 1 MiB, direct, 1 at once": ("read", 1 << 20, 1024, 1, "seq"),
    "sequential write of 1 MiB, direct, 1 at once": ("write", 1 << 20, 1024, 1, "seq"),
    "sequential read of 1 MiB, direct, 4 at once": ("read", 1 << 20, 1024, 4, "seq"),
    "sequential write of 1 MiB, direct, 4 at once": ("write", 1 << 20, 1024, 4, "seq"),
    "random read of 4 KiB, 1 at once": ("read", 4096, 6000, 1, "random"),
    "random read of 4 KiB, 32 at once": ("read", 4096, 40000, 32, "random"),
    "random write of 4 KiB, 1 at once": ("write", 4096, 6000, 1, "random"),
    "random write of 4 KiB, 32 at once": ("write", 4096, 40000, 32, "random"),
}
_RUNS = 3


def _program(folder: Path) -> Path:
    """The guest's program as a further archive for its ramdisk."""
    source = Path(__file__).with_name("diskio.c")
    binary = folder / "diskio"
    subprocess.run(["gcc", "-O2", "-static", "-o", str(binary), str(source)], check=True)
    archive = Archive()
    archive.directory("bench")
    archive.file("bench/diskio", binary.read_bytes(), 0o755)
    return _write(folder / "bench.cpio", archive.finish())


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _script(device: str) -> str:
    steps = []
    for index, (operation, each, count, depth, order) in enumerate(_WORK.values()):
        steps += [
            f"echo begin-{index}",
            f"/bench/diskio {device} {operation} {each} {count} {depth} {order}",
            f"echo end-{index}",
        ]
    return "; ".join(steps)


def _ours(disk: Path, kernel: Path, ramdisk: Path, cmdline: str) -> list[str]:
    return [
        *(XG, "run", "--kernel", str(kernel), "--ramdisk", str(ramdisk), "--cmdline", cmdline),
        *("--memory", f"{_MEMORY}M", "--timeout", "600"),
        *("--disk", f"format=raw,vdev=xvda,access=rw,target={disk}"),
    ]


def _qemu(disk: Path, kernel: Path, ramdisk: Path, cmdline: str) -> list[str]:
    return [
        *(QEMU, "-accel", "tcg", "-M", "pc", "-m", str(_MEMORY)),
        *("-kernel", str(kernel), "-initrd", str(ramdisk), "-append", cmdline),
        *("-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"),
        *("-drive", f"file={disk},if=none,id=disk,format=raw,cache=writeback"),
        *("-device", "virtio-blk-pci,drive=disk"),
    ]


def measure(peer: Peer, folder: Path) -> dict[str, tuple[float, float]]:
    """Seconds that each piece of work took: on the host's clock, and of processor time."""
    ours = peer is OURS
    cache = ImageCache()
    base = cache.get("driver-initrd" if ours else "virtio-initrd").path
    program = folder / "bench.cpio"
    if not program.exists():
        _program(folder)
    whole = base.read_bytes()
    ramdisk = _write(folder / "ramdisk", whole + bytes(-len(whole) % 512) + program.read_bytes())
    disk = folder / "disk"
    with disk.open("wb") as file:
        for _ in range(_SIZE >> 20):
            file.write(b"disk" * (1 << 18))
    script = _script("/dev/xvda" if ours else "/dev/vda")
    decode = f"echo {script.encode().hex()} | xxd -r -p > /tmp/work; sh /tmp/work"
    cmdline = f'{peer.parameters} xg.run="{decode}"'
    command = (_ours if ours else _qemu)(disk, cache.get("debian-cloud").path, ramdisk, cmdline)
    last = len(_WORK) - 1
    run = timed(command, r"^(begin|end)-", f"^end-{last}", 600)
    return {
        name: (
            run.at(f"end-{index}") - run.at(f"begin-{index}"),
            run.cpu_at(f"end-{index}") - run.cpu_at(f"begin-{index}"),
        )
        for index, name in enumerate(_WORK)
    }


def run(runs: int) -> list[Result]:
    """Speeds: the bound is a ratio to QEMU's, where more is better.

    Processor time is shown beside them, since it says more where the host is busy.
    """
    missing = "" if shutil.which(QEMU) else f"{QEMU} isn't installed"
    peer = Peer("QEMU TCG virtio-blk", "console=ttyS0 quiet", lambda *_: [], missing)
    machines = [OURS] if missing else [OURS, peer]

    def show(times: dict[str, tuple[float, float]]) -> str:
        return ", ".join(f"{name} {s:.2f} s ({cpu:.2f})" for name, (s, cpu) in times.items())

    with tempfile.TemporaryDirectory() as folder:
        measures = {one.name: partial(measure, one, Path(folder)) for one in machines}
        taken = alternate(min(runs, _RUNS), measures, show)

    def best(machine: str, name: str, index: int) -> float | None:
        """The best run's time of one operation, in us."""
        seconds = min((times[name][index] for times in taken.get(machine, ())), default=None)
        return None if seconds is None else seconds / _WORK[name][2] * 1e6

    def result(title: str, name: str, index: int, bound: float | None) -> Result:
        ours, theirs = best(OURS.name, name, index), best(peer.name, name, index)
        return Result(title, ours, "us", bound, theirs, peer.name, higher=True, note=missing)

    results = []
    for name in _WORK:
        bound = 0.8 if name.startswith("sequential") else 0.5
        results.append(result(f"disk: {name}", name, 0, bound))
        results.append(result("  its processor time", name, 1, None))
    return results
