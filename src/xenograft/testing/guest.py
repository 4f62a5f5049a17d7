# SPDX-License-Identifier: GPL-2.0-or-later
"""A booted guest, as a test sees it."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xenograft.abi.io.xenbus import XenbusState
from xenograft.testing.courier import VDEV, WORTH_IT, lent_disk
from xenograft.testing.shell import HOME, ConsoleShell, GuestTimeout
from xenograft.toolstack.config.disk import parse_disk
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.faults import Faults
from xenograft.toolstack.images.initrd import read_module
from xenograft.toolstack.machine import GuestEnded

if TYPE_CHECKING:
    from xenograft.toolstack.machine import Console, Domain, Machine, ShutdownReason

_LOOK_SECONDS = 0.005
"""How often devices are looked at, in the machine's time."""


@dataclass(frozen=True)
class Result:
    """How a command in a guest ended."""

    command: str
    status: int
    """Exit status: 0 for success, 128 + the signal's number if one ended it."""
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """What it wrote to its standard output, as text."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def errors(self) -> str:
        """What it wrote to its standard error, as text."""
        return self.stderr.decode("utf-8", "replace")


class CommandFailed(AssertionError):
    """A command that a test counted on ended with another status than 0 (`result`)."""

    def __init__(self, guest: str, result: Result) -> None:
        self.result = result
        lines = (result.text + result.errors).rstrip().splitlines()[-10:]
        tail = "".join(f"\n    | {line}" for line in lines)
        super().__init__(
            f"{guest}: {_short(result.command)} ended with status {result.status}{tail}"
        )


def _short(command: str) -> str:
    line = " ".join(command.split())
    return repr(line if len(line) <= 100 else f"{line[:97]}...")


class Guest:
    """A guest with a shell at its console's prompt.

    Times are in seconds of the machine's time; `timeout=None` means the guest's own
    (`default_timeout`).  Whatever waits raises GuestTimeout, or GuestEnded if the guest crashes
    or powers off meanwhile.
    """

    def __init__(self, domain: Domain, *, timeout: float = 60.0, address: str = "") -> None:
        self.domain = domain
        """The `xenograft.Domain`: devices, vCPUs, screen."""
        self.default_timeout = timeout
        self.address = address
        """Its IPv4 address, for a guest of `xen_network`."""
        self.faults = Faults(domain)
        """What can be made to go wrong."""
        self.shell = ConsoleShell(domain)
        self._has_disks: bool | None = None
        """Whether its kernel has a driver for disks."""

    def __repr__(self) -> str:
        return f"<Guest {self.domain.domid} {self.name!r}>"

    @property
    def name(self) -> str:
        return self.domain.name

    @property
    def machine(self) -> Machine:
        """The machine that it runs on."""
        return self.domain.machine

    @property
    def console(self) -> Console:
        """Its console: `output`, `send`, `expect`."""
        return self.domain.console

    def _timeout(self, timeout: float | None) -> float:
        return self.default_timeout if timeout is None else timeout

    # -- commands ----------------------------------------------------------------------------
    def run(self, command: str, *, timeout: float | None = None) -> Result:
        """Run a shell command (any number of lines) and return how it ended.

        It gets no input.  Nothing that the kernel prints meanwhile gets into its output.
        """
        __tracebackhide__ = True
        answer = self.shell.run(command.encode(), self._timeout(timeout))
        return Result(command, *answer)

    def check(self, command: str, *, timeout: float | None = None) -> str:
        """Run a command that has to succeed; returns what it wrote to its standard output.

        Raises CommandFailed for another exit status than 0.
        """
        __tracebackhide__ = True
        result = self.run(command, timeout=timeout)
        if result.status:
            raise CommandFailed(self.name, result)
        return result.text

    def expect(self, pattern: str | re.Pattern[str], timeout: float | None = None) -> re.Match[str]:
        """Run until the console shows `pattern` (`Console.expect`)."""
        __tracebackhide__ = True
        return self.console.expect(pattern, self._timeout(timeout))

    # -- files -------------------------------------------------------------------------------
    def send_file(
        self,
        source: str | Path | bytes,
        to: str,
        *,
        mode: int | None = None,
        timeout: float | None = None,
    ) -> None:
        """Write a file (by path), or bytes, to the path `to` in the guest.

        `mode`: of the new file (default: that of the host's, 0o644 for bytes).  Missing folders
        are made.  Raises UserError if the file can't be read, CommandFailed if it can't be
        written.
        """
        __tracebackhide__ = True
        if isinstance(source, bytes):
            data, found = source, 0o644
        else:
            try:
                data, found = Path(source).read_bytes(), Path(source).stat().st_mode & 0o777
            except OSError as error:
                raise UserError(f"send_file: {source}: {error.strerror}") from None
        limit = self._timeout(timeout)
        path, right = shlex.quote(to), found if mode is None else mode
        folder = shlex.quote(os.path.dirname(to) or ".")  # noqa: PTH120  # a path of the guest's

        def keep(source: str) -> None:
            self.check(
                f"mkdir -p {folder} && {source} > {path} && chmod {right:o} {path}"
                f" && [ $(wc -c < {path}) = {len(data)} ]",
                timeout=limit,
            )

        if self._by_disk(len(data)):
            with lent_disk(self.domain, len(data), data, self._await_lent, limit):
                keep(f"head -c {len(data)} /dev/{VDEV}")
            return
        self.shell.put(data, limit)
        keep(f"cat < {HOME}/put")
        self.check(f"rm {HOME}/put")

    def _by_disk(self, size: int) -> bool:
        """Whether a disk is quicker, and can be lent without getting into the way of faults."""
        if size < WORTH_IT or self.faults.armed:
            return False
        if self._has_disks is None:
            self._has_disks = self.run("[ -d /sys/bus/xen/drivers/vbd ]").status == 0
        return self._has_disks

    def _await_lent(self) -> None:
        self.await_devices()
        self.check(f"while ! [ -b /dev/{VDEV} ]; do sleep 0.01; done")

    def fetch_file(
        self, path: str, to: str | Path | None = None, *, timeout: float | None = None
    ) -> bytes:
        """The bytes of a file in the guest; written to the host's file `to` as well."""
        __tracebackhide__ = True
        quoted, limit = shlex.quote(path), self._timeout(timeout)
        size = int(self.check(f"wc -c < {quoted}", timeout=limit))
        if self._by_disk(size):
            with lent_disk(self.domain, size, b"", self._await_lent, limit) as image:
                self.check(f"cat < {quoted} > /dev/{VDEV} && sync", timeout=limit)
                data = image.read_bytes()[:size]
        else:
            result = self.run(f"cat < {quoted}", timeout=limit)
            if result.status:
                raise CommandFailed(self.name, result)
            data = result.stdout
        if to is not None:
            Path(to).write_bytes(data)
        return data

    # -- the kernel --------------------------------------------------------------------------
    def insmod(
        self, module: str | Path, *, timeout: float | None = None, **parameters: str
    ) -> None:
        """Load a kernel module of the host's (``.ko``, or compressed) with its parameters."""
        __tracebackhide__ = True
        path = Path(module)
        try:
            data = read_module(path)
        except OSError as error:
            raise UserError(f"insmod: {path}: {error.strerror or error}") from None
        name = f"{HOME}/{path.name.partition('.')[0]}.ko"
        self.send_file(data, name, timeout=timeout)
        words = "".join(f" {key}={shlex.quote(value)}" for key, value in parameters.items())
        self.check(f"insmod {shlex.quote(name)}{words}; s=$?; rm {shlex.quote(name)}; exit $s")

    def kernel_log(self) -> str:
        """What the kernel has logged (dmesg)."""
        __tracebackhide__ = True
        return self.check("dmesg")

    def await_devices(self, timeout: float | None = None) -> None:
        """Run until the guest has connected all devices that it was given."""
        __tracebackhide__ = True
        devices, limit = self.domain.devices, self._timeout(timeout)

        def waiting() -> list[str]:
            return [
                f"{one.kind} {one.devid}"
                for one in devices.all()
                if one.frontend_state is not XenbusState.Connected
            ]

        deadline = self.machine.now + limit
        while (missing := waiting()) and not self.domain.ended:
            if self.machine.now >= deadline:
                raise GuestTimeout(
                    f"{limit:g} s of the machine's time went by before {self.name} had"
                    f" connected {', '.join(missing)}"
                )
            self.machine.run(_LOOK_SECONDS, lambda: False)
        if self.domain.ended:
            raise GuestEnded(self.domain, "its devices were connected")

    def attach_disk(
        self,
        image: str | Path,
        vdev: str = "xvda",
        *,
        format: str = "raw",
        readonly: bool = False,
    ) -> None:
        """Plug in a disk, and wait until the guest has it: ``/dev/xvda``.  Raises UserError."""
        __tracebackhide__ = True
        access = "ro" if readonly else "rw"
        spec = f"format={format},vdev={vdev},access={access},target={image}"
        self.domain.devices.attach_disk(parse_disk(spec))
        self.await_devices()
        self.check(f"while ! [ -b /dev/{vdev} ]; do sleep 0.01; done")

    # -- life --------------------------------------------------------------------------------
    def wait(self, timeout: float | None = None) -> ShutdownReason:
        """Run until it has shut down by itself; returns why."""
        __tracebackhide__ = True
        return self.domain.wait(self._timeout(timeout))

    def pass_time(self, seconds: float) -> None:
        """Let the machine run for so many seconds of its time."""
        __tracebackhide__ = True
        self.machine.run(seconds, lambda: False)

    def kill(self) -> None:
        """End it at once, as `xl destroy` does."""
        self.domain.destroy()
