# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands and files by a guest's console, whatever else is printed there.

All that's needed is a prompt of a POSIX shell, with `stty`, `head`, `base64` and `sha256sum`
(busybox or coreutils).  A helper is put into the guest once; each command then goes as base64,
and its output comes back as it is, behind its size and hash (`guest_shell.sh`).

Nothing here is random: the marks that begin and end an answer are derived from the guest's name
and a counter, so that a run on the virtual clock stays the same.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

from xenograft.testing.limits import HostTimeout
from xenograft.toolstack.machine import GuestEnded

if TYPE_CHECKING:
    from collections.abc import Callable

    from xenograft.toolstack.machine import Domain

HOME = "/tmp/.xenograft"
"""Where the helper and the last command's output lie in the guest."""

_NEEDED = ("stty", "head", "base64", "sha256sum", "wc")
_SETTLE = 2.0
"""Seconds of the machine's time after which a sign that got lost is done without."""

_AHEAD = 64 << 10
"""Bytes of input that are queued ahead of the guest."""


class Answer(NamedTuple):
    """How a script ended, and what it wrote."""

    status: int
    stdout: bytes
    stderr: bytes


class GuestTimeout(TimeoutError):
    """The machine's time for something in a guest is over: one line, and the console's last."""


class ShellError(Exception):
    """The guest's shell can't be used: one line."""


class ConsoleShell:
    """Scripts by the console of `domain`, where a shell waits at its prompt."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._backend = domain.console.backend
        self._heard = bytearray()
        self._to_send = b""
        self._installed = False
        self._count = 0
        self._backend.listeners.append(self._hear)
        self._backend.served.append(self._feed)

    @property
    def installed(self) -> bool:
        """Whether the helper is in the guest."""
        return self._installed

    def adopt(self, count: int) -> None:
        """The guest was copied from one that has the helper, and was given `count` scripts."""
        self._installed, self._count = True, count

    @property
    def count(self) -> int:
        """How many marks were used up."""
        return self._count

    # -- the console -------------------------------------------------------------------------
    def _hear(self, data: bytes) -> None:
        self._heard += data

    def _feed(self) -> None:
        if self._to_send and self._backend.waiting < _AHEAD // 2:
            part, self._to_send = self._to_send[:_AHEAD], self._to_send[_AHEAD:]
            self._backend.send(part)

    def _token(self) -> str:
        self._count += 1
        text = f"{self._domain.name} {self._count}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _wait(self, done: Callable[[], bool], seconds: float) -> bool:
        """Run the machine until `done`; False if the time was up.  Raises GuestEnded."""
        __tracebackhide__ = True
        domain = self._domain
        try:
            domain.machine.run(seconds, lambda: done() or domain.ended)
        except HostTimeout as error:
            # Where the machine was at that moment tells nobody anything.
            raise error.with_traceback(None) from None
        if done():
            return True
        if domain.ended:
            raise GuestEnded(domain, "a command in it was over")
        return False

    def _await(self, text: str, seconds: float) -> bool:
        """Run until the console shows `text`, and forget what came before its end."""
        __tracebackhide__ = True
        pattern = text.encode()

        def done() -> bool:
            return pattern in self._heard

        found = self._wait(done, seconds)
        if found:
            del self._heard[: self._heard.index(pattern) + len(pattern)]
        return found

    # -- the helper --------------------------------------------------------------------------
    def install(self, timeout: float) -> None:
        """Put the helper into the guest.  Raises GuestTimeout, GuestEnded, ShellError."""
        __tracebackhide__ = True
        token = self._token()
        helper = base64.b64encode(
            resources.files(__package__).joinpath("guest_shell.sh").read_bytes()
        )
        self._heard.clear()
        needed = " ".join(_NEEDED)
        # The marks are broken up, so that the echo of this line isn't taken for them.
        self._domain.console.send(
            f"mkdir -p {HOME};for x in {needed};do command -v $x>/dev/null||echo '['{token} no $x];"
            f"done;s=$(stty -g);stty raw -echo;echo '['{token} go];"
            f"head -c {len(helper)}|base64 -d>{HOME}/shell;stty $s;echo '['{token} done]\n"
        )
        self._start(f"[{token} go]", helper, timeout)
        if not self._await(f"[{token} done]", timeout):
            raise self._late("its shell was ready", timeout)
        self._installed = True

    def _start(self, go: str, data: bytes, timeout: float) -> None:
        """Send data when the guest is ready for it."""
        __tracebackhide__ = True
        if not self._await(go, timeout):
            missing = re.search(rb"\[[0-9a-f]{16} no (\w+)\]", self._heard)
            if missing:
                raise ShellError(
                    f"{self._domain.name} has no {missing[1].decode()}: commands can't be run in it"
                )
            raise self._late("its shell took a command", timeout)
        self._to_send = data
        self._feed()

    def _late(self, waited_for: str, seconds: float) -> GuestTimeout:
        lines = self._domain.console.output.rstrip().splitlines()[-5:]
        tail = "".join(f"\n    | {line}" for line in lines)
        return GuestTimeout(
            f"{seconds:g} s of the machine's time went by before {self._domain.name}:"
            f" {waited_for}{tail}"
        )

    # -- what it is for ----------------------------------------------------------------------
    def put(self, data: bytes, timeout: float) -> None:
        """Write the file ``put`` of the helper's folder.  Raises as `run`."""
        __tracebackhide__ = True
        token = self._begin("put", data, timeout)
        if not self._await(f"[{token} done]", timeout):
            raise self._late(f"it took {len(data)} bytes", timeout)

    def _begin(self, operation: str, data: bytes, timeout: float) -> str:
        __tracebackhide__ = True
        if not self._installed:
            self.install(timeout)
        token = self._token()
        encoded = base64.b64encode(data)
        self._heard.clear()
        self._domain.console.send(f"sh {HOME}/shell {operation} {token} {len(encoded)}\n")
        self._start(f"[{token} go]", encoded, timeout)
        return token

    def run(self, script: bytes, timeout: float) -> Answer:
        """Run a script; raises GuestTimeout (the script is interrupted), GuestEnded."""
        __tracebackhide__ = True
        token = self._begin("run", script, timeout)
        answers = _Answers(token, self._heard)
        if not self._wait(answers.complete, timeout):
            self._to_send = b""
            self._domain.console.send("\x03")
            self._wait(lambda: False, 0.1)
            raise self._late("the command was over", timeout)
        assert answers.found is not None  # that's what was waited for
        self._domain.console.send("k")
        self._await(f"[{token} done]", _SETTLE)
        return answers.found


_HEADER_MAX = 200


class _Answers:
    """Looks for an answer that is whole in what a console prints."""

    def __init__(self, token: str, heard: bytearray) -> None:
        self.found: Answer | None = None
        self._heard = heard
        self._header = re.compile(rb"\[%s (\d+) (\d+) (\d+) ([0-9a-f]{64})\]\n" % token.encode())
        self._from = 0
        self._again = 0
        """Up to where the next header isn't, while the answer of one is incomplete."""

    def complete(self) -> bool:
        heard = self._heard
        while self.found is None:
            header = self._header.search(heard, self._from)
            if header is None:
                # One may be cut off at the end of what is there so far.
                self._from = max(len(heard) - _HEADER_MAX, self._from)
                return False
            status, out, err = (int(number) for number in header.groups()[:3])
            end = header.end() + out + err
            if end > len(heard):
                # More is to come; or, if something came in between, it's all sent again.
                if self._header.search(heard, max(header.end(), self._again)) is None:
                    self._from = header.start()
                    self._again = len(heard) - _HEADER_MAX
                    return False
            else:
                data = bytes(heard[header.end() : end])
                if hashlib.sha256(data).hexdigest().encode() == header[4]:
                    self.found = Answer(status, data[:out], data[out:])
                    return True
            self._from = header.end()
        return True
