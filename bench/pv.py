# SPDX-License-Identifier: GPL-2.0-or-later
"""PV guests: what entering the kernel and changing page tables costs, and a boot beside PVH's."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from tests.engine.pv_bench import BASE, CODE, HANDLERS, STACK, USER_STACK, PvBench

from bench.harness import XG, Result, timed
from xenograft import Machine
from xenograft.engine.protocol import ExitReason
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.images.cache import ImageCache
from xenograft.toolstack.images.initrd import MARKER

_ROUNDS = 200_000
_LIST = 256
_FORKS = 200
_END = "mov $99, %eax; syscall"


def _measure(prepare: Callable[[PvBench], None], text: str, rounds: int) -> float:
    """Microseconds of processor time of one of `rounds` in a guest's loop."""
    guest = PvBench()
    guest.cpu.pv_set("native", 1)
    guest.cpu.fast_hypercalls([(17, 0, 0x40011)])
    prepare(guest)
    guest.load(text)
    best = float("inf")
    for _ in range(3):
        guest.cpu.set("rip", CODE)
        guest.cpu.set("rsp", STACK + 0x1000)
        begin = time.process_time()
        if guest.cpu.run(1 << 40)[0] != ExitReason.HYPERCALL:
            raise RuntimeError("the PV guest went astray")
        best = min(best, time.process_time() - begin)
        guest.cpu.complete(0)
    guest.close()
    return best / rounds * 1e6


def _user(guest: PvBench) -> None:
    """A user that makes system calls, and a kernel that goes back by IRET at once."""
    guest.cpu.pv_set("syscall", HANDLERS)
    guest.load(
        "pop %rcx; pop %r11; test %ebx, %ebx; je 2f; push $0x100; push %rcx; push %r11; push %rax\n"
        f"mov $23, %eax; syscall; 2: {_END}",
        HANDLERS,
    )
    guest.load("1: dec %ebx; syscall; jmp 1b", CODE + 0x800)
    frame = (0, 0, 0, 0x100, CODE + 0x800, 0xE033, 0x202, USER_STACK + 0x1000, 0xE02B)
    for index, word in enumerate(frame):
        guest.memory.write_u64((guest.data[2] << 12) + 0x800 + 8 * index, word)


def _updates(guest: PvBench) -> None:
    """A list that maps a page and takes it away again, over and over."""
    slot = (guest.l1 << 12) + 40 * 8
    pair = (slot, guest.data[9] << 12 | 5, slot, 0)
    data = b"".join(word.to_bytes(8, "little") for word in pair)
    guest.memory.write(guest.data[5] << 12, data * (_LIST // 2))


def _boot(kind: str) -> float:
    """Processor time in seconds of a boot to user space."""
    cache = ImageCache()
    images = [str(cache.get(name).path) for name in ("debian-cloud", "demo-initrd")]
    command = [XG, "run", "--type", kind, "--kernel", images[0], "--ramdisk", images[1]]
    return timed(command, MARKER, MARKER, 180).cpu


def _forks(kind: str) -> float:
    """Milliseconds of processor time of a fork, exec, exit and wait in a shell of the guest."""
    cache = ImageCache()
    kernel, ramdisk = (str(cache.get(name).path) for name in ("debian-cloud", "demo-initrd"))
    config = from_options(
        type=kind, kernel=kernel, ramdisk=ramdisk, cmdline="console=hvc0 quiet", memory="256M"
    )
    loop = f"i=0; while [ $i -lt {_FORKS} ]; do /bin/busybox true; i=$((i+1)); done"
    with Machine() as machine:
        guest = machine.create(config)
        guest.console.expect("guest:~# ", 180)
        times = []
        for _ in range(3):
            begin = time.process_time()
            guest.console.send(f"{loop}; echo do''ne.\n")
            guest.console.expect(r"\ndone\.", 180)
            times.append(time.process_time() - begin)
    return min(times) / _FORKS * 1e3


def run(runs: int) -> list[Result]:
    """The costs, with their promises; processor time, since the host may be busy."""
    lists = 2000
    null = _measure(
        lambda _guest: None,
        f"mov ${_ROUNDS}, %ebx; 1: mov $17, %eax; xor %edi, %edi; syscall; dec %ebx; jnz 1b\n"
        f"{_END}",
        _ROUNDS,
    )
    user = _measure(
        _user, f"mov ${_ROUNDS}, %ebx; mov ${STACK + 0x800}, %rsp; mov $23, %eax; syscall", _ROUNDS
    )
    update = _measure(
        _updates,
        f"mov ${lists}, %ebx; 1: mov $1, %eax; mov ${BASE + 0x5000}, %edi; mov ${_LIST}, %esi\n"
        f"xor %edx, %edx; mov $0x7ff0, %r10d; syscall; dec %ebx; jnz 1b; {_END}",
        lists * _LIST,
    )
    forks = {kind: _forks(kind) for kind in ("pvh", "pv")}
    boots = {kind: median(_boot(kind) for _ in range(runs)) for kind in ("pvh", "pv")}
    return [
        Result("PV hypercall", null, "us", 0.2, note="answered natively"),
        Result("PV system call and IRET", user, "us", 3.0),
        Result("mmu_update, an entry", update, "us", 1.0, note="with validation, in lists"),
        Result("PV fork and exec", forks["pv"], "ms", 3.0, forks["pvh"], "PVH"),
        Result(
            "PV boot, processor time", boots["pv"], "s", 2.0, boots["pvh"], "PVH", note="goal 1.5"
        ),
    ]
