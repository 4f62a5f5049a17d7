# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's end of a guest's console: a terminal in raw mode, or a pipe.

On a terminal every key goes to the guest, Ctrl-C included, but for Ctrl-], which leaves.  The
terminal's settings come back whatever happens: an exception, a signal, an exit.  From a pipe
or a file bytes go to the guest as they are.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import sys
import termios
import threading
from types import FrameType, TracebackType
from typing import Any

LEAVE = b"\x1d"
"""Ctrl-]: leaves the console."""

_CHUNK = 4096
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Terminal:
    """Standard input and output as a console; a context manager.

    `interactive`: input is a terminal that this process may use.  `left`: Ctrl-] was typed.
    `input_ended`, `output_closed`: there's no more to read, nobody reads any more.
    """

    def __init__(self, input_fd: int = 0, output_fd: int = 1) -> None:
        self.input_fd = input_fd
        self.output_fd = output_fd
        self.interactive = _foreground(input_fd)
        self.left = False
        self.input_ended = False
        self.output_closed = False
        self._saved: list[Any] | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Terminal:
        if self.interactive:
            self._saved = termios.tcgetattr(self.input_fd)
            atexit.register(self.restore)
            self._catch_signals()
            termios.tcsetattr(self.input_fd, termios.TCSADRAIN, _raw(self._saved))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.restore()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def restore(self) -> None:
        """Give the terminal its settings back; harmless when that's done already."""
        if self._saved is not None:
            saved, self._saved = self._saved, None
            # A terminal that has gone away has no settings to restore.
            with contextlib.suppress(termios.error, OSError):
                termios.tcsetattr(self.input_fd, termios.TCSADRAIN, saved)
            atexit.unregister(self.restore)

    def size(self) -> tuple[int, int] | None:
        """Rows and columns of the terminal; None where there's none."""
        try:
            columns, rows = os.get_terminal_size(self.output_fd)
        except OSError:
            return None
        return (rows, columns) if rows and columns else None

    def read(self) -> bytes:
        """What the user typed and the guest should get; waits until there is something.

        Sets `left` after Ctrl-], `input_ended` at the end of input; what came before is
        returned.
        """
        try:
            data = os.read(self.input_fd, _CHUNK)
        except OSError:
            # A terminal that hangs up reads as EIO; a closed descriptor as EBADF.
            data = b""
        if not data:
            self.input_ended = True
        elif self.interactive and LEAVE in data:
            self.left = True
            return data.partition(LEAVE)[0]
        return data

    def write(self, data: bytes) -> None:
        """Write guest output, all of it. Sets `output_closed` once nobody reads it."""
        view = memoryview(data)
        while view and not self.output_closed:
            try:
                view = view[os.write(self.output_fd, view) :]
            except BlockingIOError:
                # Whoever gave us the descriptor made it non-blocking.
                select.select([], [self.output_fd], [])
            except OSError:
                self.output_closed = True

    def _catch_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            self._handlers[number] = signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    """Unwind, so that context managers restore what they hold."""
    sys.exit(128 + number)


def _foreground(descriptor: int) -> bool:
    """Whether it's a terminal, and this process is in its foreground.

    A background job that touches the settings of its terminal would be stopped.
    """
    try:
        return os.isatty(descriptor) and os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        # No controlling terminal: a terminal of another session, as under a test's pty.
        return os.isatty(descriptor)


def _raw(settings: list[Any]) -> list[Any]:
    """Settings that pass every key on: cfmakeraw(3), with output processing left on.

    The guest's own terminal sends carriage returns; lines of ours on standard error don't.
    """
    iflag, oflag, cflag, lflag, ispeed, ospeed, characters = settings
    iflag &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    cflag = (cflag & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
    characters = list(characters)
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    return [iflag, oflag, cflag, lflag, ispeed, ospeed, characters]
