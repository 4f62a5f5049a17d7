# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg run` from end to end, with the tiny guest that comes with the package."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from xenograft.cli.status import CRASHED, FAULT, OK, REBOOTED, TIMED_OUT, USAGE

SOURCE = Path(__file__).parents[2] / "src"
PROMPT = b"xenograft> "
Guest = Callable[[str], Path]


def command(*argv: str) -> list[str]:
    return [sys.executable, "-c", "from xenograft.cli.main import main; main()", *argv]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SOURCE), "XG_DEBUG": "1"}


def xg(*argv: str, typed: bytes | int = b"") -> subprocess.CompletedProcess[bytes]:
    """Run `xg` with this standard input (bytes through a pipe, or a descriptor)."""
    kind = {"input": typed} if isinstance(typed, bytes) else {"stdin": typed}
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command(*argv), capture_output=True, check=False, env=environment(), timeout=120, **kind
    )


@pytest.fixture
def tiny(guest: Guest) -> list[str]:
    """The arguments that run the tiny guest."""
    return ["run", "--kernel", str(guest("demo-64")), "--memory", "32M", "--timeout", "100"]


@pytest.mark.parametrize(
    ("typed", "status", "said"),
    [
        (b"halt\n", OK, b""),
        (b"", OK, b""),
        (b"time\n", OK, b""),
        (b"reboot\n", REBOOTED, b"asked for a reboot"),
        (b"crash\n", CRASHED, b"the guest crashed (crash)"),
    ],
)
def test_how_a_guest_ends(tiny: list[str], typed: bytes, status: int, said: bytes) -> None:
    done = xg(*tiny, typed=typed)
    assert done.returncode == status, done.stderr
    assert PROMPT in done.stdout
    assert said in done.stderr
    if status == OK:
        assert done.stderr == b""


def test_input_from_nowhere(tiny: list[str]) -> None:
    with Path("/dev/null").open("rb") as null:
        done = xg(*tiny, typed=null.fileno())
    assert (done.returncode, done.stderr) == (OK, b"")
    assert b"Powering off." in done.stdout


def test_the_command_line_is_the_guests(tiny: list[str]) -> None:
    done = xg(*tiny, "--cmdline", "noprompt one=1")
    assert done.returncode == OK
    assert b'command line  "noprompt one=1"' in done.stdout
    assert PROMPT not in done.stdout


def test_without_one_linux_is_told_its_console(tiny: list[str]) -> None:
    assert b'"console=hvc0"' in xg(*tiny).stdout


@pytest.mark.parametrize("clock", ["real", "virtual"])
def test_both_clocks(tiny: list[str], clock: str) -> None:
    done = xg(*tiny, "--clock", clock, typed=b"time\nhalt\n")
    assert done.returncode == OK
    assert b"up 0." in done.stdout


def test_virtual_runs_are_the_same_to_the_byte(tiny: list[str]) -> None:
    runs = [xg(*tiny, "--clock", "virtual", typed=b"time\ninfo\nhalt\n") for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout
    assert runs[0].returncode == OK


def test_a_reboot_starts_it_again(tiny: list[str]) -> None:
    done = xg(*tiny, "--on-reboot", "restart", typed=b"reboot\nhalt\n")
    assert done.returncode == OK
    assert done.stdout.count(b"start_info") == 2
    assert b"the guest reboots" in done.stderr


@pytest.mark.parametrize("clock", ["real", "virtual"])
def test_a_time_out(guest: Guest, clock: str) -> None:
    reader, writer = os.pipe()
    try:
        kernel = str(guest("demo-64"))
        done = xg("run", "--kernel", kernel, "--timeout", "0.5", "--clock", clock, typed=reader)
    finally:
        os.close(reader)
        os.close(writer)
    assert done.returncode == TIMED_OUT
    assert done.stderr == b"xg: the guest was still running after 0.5 s\n"


def test_output_that_nobody_reads(tiny: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command(*tiny),
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
        env=environment(),
        timeout=120,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (FAULT, b"")


def test_a_configuration_file(guest: Guest, tmp_path: Path) -> None:
    file = tmp_path / "guest.cfg"
    file.write_text(
        f'name = "tiny"\ntype = "pvh"\nkernel = "{guest("demo-64")}"\nmemory = 32\nextra = "x=1"\n'
    )
    done = xg("run", str(file), typed=b"halt\n")
    assert done.returncode == OK, done.stderr
    assert b'command line  "x=1"' in done.stdout
    done = xg("run", str(file), "--memory", "48M", "--cmdline", "noprompt")
    assert b"49152 KiB of RAM" in done.stdout


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--kernel", "nosuch"], b"nosuch"),
        (["nosuch.cfg"], b"nosuch.cfg"),
        (["--kernel", "/dev/null"], b"/dev/null"),
        (["--type", "pvhh"], b"did you mean pvh?"),
        (["--clock", "virtul"], b"did you mean virtual?"),
        (["--on-reboot", "restrt"], b"did you mean restart?"),
        (["--vcpus", "0"], b"vcpus"),
        (["--vcpus", "33"], b"vcpus"),
        (["--memory", "lots"], b"'lots'"),
        (["--memory", "1M"], b"memory"),
        (["--timeout", "0"], b"--timeout"),
        (["--cpuid", "frob=1"], b"cpuid"),
        (["--kernal", "x"], b"--kernel"),
        (["--ramdisk", "/nonexistent"], b"/nonexistent"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    guest: Guest, argv: list[str], said: bytes, tmp_path: Path
) -> None:
    if "--kernel" not in argv and "nosuch.cfg" not in argv:
        argv = ["--kernel", str(guest("demo-64")), *argv]
    done = xg("run", *argv)
    assert done.returncode == USAGE, done.stderr
    assert said in done.stderr
    assert done.stderr.startswith(b"xg: ")
    assert done.stderr.count(b"\n") == 1
    assert done.stdout == b""


class Screen:
    """`xg` on a pseudo terminal."""

    def __init__(self, argv: list[str]) -> None:
        self.controller, self.end = pty.openpty()
        self.before = termios.tcgetattr(self.end)
        self.process = subprocess.Popen(
            command(*argv),
            stdin=self.end,
            stdout=self.end,
            stderr=subprocess.PIPE,
            env=environment(),
            start_new_session=True,
        )
        self.shown = b""

    def wait_for(self, text: bytes) -> None:
        limit = time.monotonic() + 60
        while text not in self.shown:
            assert time.monotonic() < limit, self.shown
            if select.select([self.controller], [], [], 0.2)[0]:
                self.shown += os.read(self.controller, 4096)

    def shows(self, text: bytes, seconds: float) -> bool:
        """Whether the text comes in this time."""
        limit = time.monotonic() + seconds
        while text not in self.shown and time.monotonic() < limit:
            if select.select([self.controller], [], [], 0.1)[0]:
                self.shown += os.read(self.controller, 4096)
        return text in self.shown

    def type(self, text: bytes) -> None:
        os.write(self.controller, text)

    def close(self) -> tuple[int, bytes]:
        """(exit status, standard error); checks that the terminal is as it was."""
        stderr = self.process.communicate(timeout=60)[1]
        assert termios.tcgetattr(self.end) == self.before
        return self.process.returncode, stderr

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        os.close(self.controller)
        os.close(self.end)


def test_a_terminal(tiny: list[str]) -> None:
    with Screen(tiny) as screen:
        screen.wait_for(PROMPT)
        screen.type(b"time\r")
        screen.wait_for(b"upcalls")
        screen.type(b"halt\r")
        screen.wait_for(b"Powering off.")
        assert screen.close() == (OK, b"")


def test_ctrl_bracket_leaves(tiny: list[str]) -> None:
    with Screen(tiny) as screen:
        screen.wait_for(PROMPT)
        screen.type(b"\x1d")
        assert screen.close() == (OK, b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_end_it_and_restore_the_terminal(tiny: list[str], number: signal.Signals) -> None:
    with Screen(tiny) as screen:
        screen.wait_for(PROMPT)
        screen.process.send_signal(number)
        status, stderr = screen.close()
        assert (status, stderr.strip()) == (128 + number, b"")


def test_demo_falls_back_to_the_tiny_guest(guest: Guest, tmp_path: Path) -> None:
    guest("demo-64")
    tools = tmp_path / "empty"
    tools.mkdir()
    done = subprocess.run(
        command("demo"),
        input=b"halt\n",
        capture_output=True,
        check=False,
        env={**environment(), "XDG_CACHE_HOME": str(tmp_path), "PATH": str(tools)},
        timeout=120,
    )
    assert done.returncode == OK, done.stderr
    assert b"no Linux for the demonstration" in done.stderr
    assert b"Powering off." in done.stdout


def test_demo_tiny(guest: Guest) -> None:
    guest("demo-64")
    done = xg("demo", "--tiny", typed=b"halt\n")
    assert done.returncode == OK
    assert PROMPT in done.stdout


def test_a_capture_and_a_bridge(tiny: list[str], tmp_path: Path) -> None:
    path = tmp_path / "net.pcap"
    done = xg(
        *tiny,
        *("--bridge", "lan,mtu=9000", "--vif", "bridge=lan", "--pcap", f"0={path}"),
        typed=b"halt\n",
    )
    assert (done.returncode, done.stderr) == (OK, b"")
    assert path.read_bytes()[:4] == b"\x4d\x3c\xb2\xa1"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bridge", "lan,mtu=9k"], b"bridge lan: '9k' isn't an MTU"),
        (["--vif", "bridge=lan"], b"vif 0: there's no bridge 'lan'; there is user, xenbr0"),
        (["--vif", "mac=00:16:3e"], b"'00:16:3e' isn't a MAC address"),
        (["--vif", "forward=22"], b"'22' isn't a port forward; write it as tcp:2222:22"),
        (["--vif", "", "--pcap", "1=/dev/null"], b"guest has no network interface 1"),
        (["--pcap", "x", "--pcap", "1=./x"], b"one file holds the packets of one interface"),
        (["--vif", "", "--pcap", "/nonexistent/x"], b"can't write /nonexistent/x: No such file"),
    ],
)
def test_networks_that_cannot_be_had(tiny: list[str], options: list[str], said: bytes) -> None:
    done = xg(*tiny, *options)
    assert done.returncode == USAGE
    assert said in done.stderr
    assert done.stderr.count(b"\n") == 1
