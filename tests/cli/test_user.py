# SPDX-License-Identifier: GPL-2.0-or-later
"""What a user does with `xg run`, on Debian's kernel: crashes, instruments, pipes, bad input."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_play import Screen, command, environment, xg
from tests.observe.test_trace import Read
from xenograft.cli.status import CRASHED, OK, USAGE

Image = Callable[[str], Path]
Guest = Callable[[str], Path]


@pytest.fixture(scope="module")
def linux(image: Image) -> list[str]:
    """Arguments that boot Debian to the busybox shell."""
    return [
        *("run", "--kernel", str(image("debian-cloud")), "--ramdisk", str(image("demo-initrd"))),
        *("--cmdline", "console=hvc0 quiet", "--clock", "virtual", "--timeout", "250"),
    ]


def test_a_panic_is_reported_with_symbols(linux: list[str]) -> None:
    done = xg(*linux, typed=b"echo c > /proc/sysrq-trigger\n")
    report = done.stderr.decode()
    assert done.returncode == CRASHED, report
    assert b"Kernel panic - not syncing: sysrq triggered crash" in done.stdout
    assert report.startswith("guest (domain 1) went down: SHUTDOWN_crash\n")
    for part in (
        r"^  rip 0010:ffffffff8\w+ xen_hypercall_\w+  \(64-bit, CPL 0\)$",  # a symbol
        r"^  => ffffffff8\w+  0f 01 (c1|d9) +vmm?call$",  # the code around RIP
        r"^Page walk of CR2",
        r"^  L1e @ 0x\w+ = \w+ +P",
        r"sysrq_handle_crash\+0x",  # the call trace
        r"sched_op\(SCHEDOP_shutdown, \{reason=SHUTDOWN_crash\}\)",  # the last hypercall
        r"\nxg: the guest crashed \(crash\)\n\Z",
    ):
        assert re.search(part, report, re.MULTILINE), f"no {part} in:\n{report}"


def test_the_instruments_of_a_boot_agree(linux: list[str], tmp_path: Path) -> None:
    """The trace, the log and the statistics tell of the same hypercalls."""
    path = tmp_path / "boot.perfetto"
    done = xg(*linux, "--trace", str(path), "--log", "hypercalls", "--stats", "--vcpus", "2")
    text = done.stderr.decode()
    assert done.returncode == OK, text[-2000:]
    logged = re.findall(r"^ *\d+\.\d+ d1v\d (\w+)", text, re.MULTILINE)
    trace = Read(path.read_bytes())
    trace.check_slices()
    traced = [event for event in trace.events if "hypercall" in event["categories"]]
    assert len(traced) == len(logged) > 500
    for name in ("vcpu_op", "event_channel_op", "hvm_op", "memory_op", "xen_version"):
        assert name in logged
    counted = re.findall(r"^event_channel_op\.EVTCHNOP_send +(\d+)", text, re.MULTILINE)
    sends = text.count("event_channel_op(EVTCHNOP_send")
    assert [int(number) for number in counted] == [sends]


def test_a_pipe_is_typed_and_its_end_is_the_end(linux: list[str]) -> None:
    """echo 'uname -a' | xg run …"""
    line = " ".join(["echo 'uname -a' |", *map(_quoted, command(*linux))])
    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, check=False, env=environment(), timeout=120
    )
    assert done.returncode == OK, done.stderr
    assert re.search(rb"\nLinux \(none\) 6\.1\.\S+-cloud-amd64 #1 SMP", done.stdout)
    assert done.stderr == b""


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def test_a_terminal_with_a_shell(linux: list[str]) -> None:
    """Ctrl-C goes to the guest's own foreground process, and Ctrl-] leaves."""
    real = ["real" if word == "virtual" else word for word in linux]
    with Screen(real) as screen:
        screen.wait_for(b"guest:~# ")
        screen.type(b"sleep 1000\r")
        screen.wait_for(b"sleep 1000")
        while not screen.shows(b"^C", 0.5):
            screen.type(b"\x03")  # again, since a shell that sets its terminal up drops input
        screen.type(b"echo still $((6 * 7))\r")
        screen.wait_for(b"still 42")
        screen.type(b"\x1d")
        assert screen.close() == (OK, b"")


def test_the_hosts_own_kernel(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: object
) -> None:
    """Where there's no apt, and no kernel is named: the newest /boot/vmlinuz-* that is readable."""
    from xenograft.toolstack.images import cache

    boot = tmp_path / "boot"
    boot.mkdir()
    (boot / "vmlinuz-5.10.0-9-amd64").write_bytes(b"an older one")
    newest = boot / "vmlinuz-6.1.0-10-cloud-amd64"
    newest.symlink_to(image("debian-cloud"))
    monkeypatch.setattr(cache, "have_apt", lambda: False)
    found = cache.host_kernels(boot)
    assert found[-1] == newest
    real = cache.host_kernels
    monkeypatch.setattr(cache, "host_kernels", lambda: real(boot))
    assert cache.default_kernel(cache.ImageCache(tmp_path / "cache")) == newest


FILES = {
    "empty": b"",
    "text": b"hello\n",
    "noise": bytes(range(256)) * 64,
    "elf": b"\x7fELF\x02\x01\x01" + bytes(57),
    "bad.cfg": b'name = "x"\nkernle = "y"\n',
    "open.cfg": b'name = "x"\nkernel = [\n',
    "nothing.cfg": b"",
    "number.cfg": b'name = "x"\nkernel = "y"\nmemory = "lots"\n',
    "vcpus.cfg": b'name = "x"\nkernel = "y"\nvcpus = 33\n',
    "type.cfg": b'name = "x"\nkernel = "y"\ntype = "pvhh"\n',
}
K = "--kernel={kernel}"
BAD: list[tuple[str, str]] = [
    ("--kernel=missing", "no such file"),
    ("--kernel=empty", "is empty"),
    ("--kernel=text", "not a kernel"),
    ("--kernel=noise", "not a kernel"),
    ("--kernel=elf", "kernel elf: "),
    ("--kernel=short", "truncated"),
    ("--kernel=damaged", "damaged"),
    ("--kernel=.", "is a directory"),
    ("--kernel=/bin/sh", "no PVH entry"),
    (f"{K} --ramdisk=missing", "ramdisk missing: no such file"),
    (f"{K} --ramdisk=.", "ramdisk .: is a directory"),
    (f"{K} --ramdisk=large", "don't fit"),
    (f"{K} --memory=16M", "too little"),
    (f"{K} --memory=0", "memory: 0 MiB"),
    (f"{K} --memory=9G", "8192"),
    (f"{K} --memory=-1", "isn't a size"),
    (f"{K} --type=pvhh", "did you mean pvh?"),
    (f"{K} --vcpus=0", "1 to 32"),
    (f"{K} --vcpus=33", "1 to 32"),
    (f"{K} --vcpus=many", "--vcpus"),
    (f"{K} --cpuid=zork", "cpuid"),
    (f"{K} --disk=zork", "disk"),
    (f"{K} --vif=zork=1", "zork"),
    (f"{K} --name=a/b", "name"),
    (f"{K} --log=hypercals", "hypercalls"),
    (f"{K} --trace=missing/trace", "missing/trace"),
    (f"{K} --timout=1", "--timeout"),
    ("bad.cfg", "did you mean kernel?"),
    ("open.cfg", "open.cfg:3"),
    ("nothing.cfg", "name"),
    ("number.cfg", "number.cfg:3"),
    ("vcpus.cfg", "1 to 32"),
    ("type.cfg", "did you mean"),
    ("missing.cfg", "no such file"),
    (".", "is a directory"),
]


@pytest.mark.parametrize(("line", "said"), BAD, ids=[line for line, _ in BAD])
def test_bad_input(image: Image, tmp_path: Path, line: str, said: str) -> None:
    """One line that says what's wrong, exit status 2, nothing left behind."""
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    kernel = image("debian-cloud")
    if "short" in line or "damaged" in line:
        data = bytearray(kernel.read_bytes())
        (tmp_path / "short").write_bytes(data[: len(data) // 3])
        data[3_000_000:3_000_400] = b"\xff" * 400
        (tmp_path / "damaged").write_bytes(data)
    with (tmp_path / "large").open("wb") as large:
        large.truncate(300 << 20)
    before = sorted(tmp_path.iterdir())
    done = subprocess.run(
        command("run", *line.format(kernel=kernel).split()),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        env={k: v for k, v in environment().items() if k != "XG_DEBUG"},
        cwd=tmp_path,
        timeout=100,
    )
    error = done.stderr.decode()
    assert done.returncode == USAGE, error
    assert re.fullmatch(r"xg: [^\n]+\n", error), error
    assert said in error
    assert done.stdout == b""
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(guest: Guest, tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(b"x")
    path.chmod(0)
    done = xg("run", "--kernel", str(guest("demo-64")), "--ramdisk", str(path))
    assert done.returncode == USAGE
    assert b"ermission" in done.stderr
