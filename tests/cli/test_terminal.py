# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's end of the console, on a pseudo terminal and on pipes."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from xenograft.cli.terminal import Terminal

SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture
def tty() -> Iterator[tuple[int, int]]:
    """(the terminal program's end, our end)"""
    controller, terminal = pty.openpty()
    yield controller, terminal
    os.close(controller)
    os.close(terminal)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:
            continue


def local_flags(descriptor: int) -> int:
    flags = termios.tcgetattr(descriptor)[3]
    assert isinstance(flags, int)
    return flags


COOKED = termios.ECHO | termios.ICANON | termios.ISIG


def test_raw_inside_and_restored_after(tty: tuple[int, int]) -> None:
    before = termios.tcgetattr(tty[1])
    with Terminal(tty[1], tty[1]) as terminal:
        assert terminal.interactive
        assert local_flags(tty[1]) & COOKED == 0
    assert termios.tcgetattr(tty[1]) == before


def test_restored_after_an_exception(tty: tuple[int, int]) -> None:
    before = termios.tcgetattr(tty[1])
    with pytest.raises(ZeroDivisionError), Terminal(tty[1], tty[1]):
        raise ZeroDivisionError
    assert termios.tcgetattr(tty[1]) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_restored_after_a_signal(tty: tuple[int, int], number: int) -> None:
    before = termios.tcgetattr(tty[1])
    program = (
        "import os, signal, sys\n"
        "from xenograft.cli.terminal import Terminal\n"
        f"with Terminal(0, 1): os.kill(os.getpid(), {int(number)}); signal.pause()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdin=tty[1],
        stdout=tty[1],
        check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        timeout=60,
    )
    assert done.returncode == 128 + number
    assert termios.tcgetattr(tty[1]) == before


def test_handlers_are_restored(tty: tuple[int, int]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Terminal(tty[1], tty[1]):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_keys_pass_through(tty: tuple[int, int]) -> None:
    with Terminal(tty[1], tty[1]) as terminal:
        os.write(tty[0], b"a\x03\x04\x1a\r\x11")
        assert terminal.read() == b"a\x03\x04\x1a\r\x11"
        assert not terminal.left


def test_the_leave_key(tty: tuple[int, int]) -> None:
    with Terminal(tty[1], tty[1]) as terminal:
        os.write(tty[0], b"ab\x1dcd")
        assert terminal.read() == b"ab"
        assert terminal.left
        assert not terminal.input_ended


def test_a_pipe_passes_the_leave_key_and_ends(pipe: tuple[int, int]) -> None:
    with Terminal(pipe[0], pipe[1]) as terminal:
        assert not terminal.interactive
        os.write(pipe[1], b"a\x1db")
        assert terminal.read() == b"a\x1db"
        os.close(pipe[1])
        assert terminal.read() == b""
        assert terminal.input_ended
        assert not terminal.left


def test_a_hung_up_terminal_is_the_end_of_input() -> None:
    controller, end = pty.openpty()
    with Terminal(end, end) as terminal:
        os.close(controller)
        assert terminal.read() == b""
        assert terminal.input_ended
    os.close(end)


def test_output_is_written_whole_even_when_non_blocking(pipe: tuple[int, int]) -> None:
    data = bytes(range(256)) * 2048
    os.set_blocking(pipe[1], False)
    program = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=pipe[0], stdout=subprocess.PIPE
    ) as copy:
        os.close(pipe[0])
        terminal = Terminal(pipe[0], pipe[1])
        terminal.write(data)
        os.close(pipe[1])
        assert copy.stdout is not None
        assert copy.stdout.read() == data
    assert not terminal.output_closed


def test_output_that_nobody_reads(pipe: tuple[int, int]) -> None:
    terminal = Terminal(pipe[0], pipe[1])
    os.close(pipe[0])
    terminal.write(b"x")
    assert terminal.output_closed
    terminal.write(b"x")


def test_size(tty: tuple[int, int], pipe: tuple[int, int]) -> None:
    fcntl.ioctl(tty[1], termios.TIOCSWINSZ, struct.pack("HHHH", 33, 120, 0, 0))
    assert Terminal(tty[1], tty[1]).size() == (33, 120)
    assert Terminal(pipe[0], pipe[1]).size() is None
