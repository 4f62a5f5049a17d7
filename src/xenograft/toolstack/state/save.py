# SPDX-License-Identifier: GPL-2.0-or-later
"""Saving to a file: all of it, or nothing and the guest goes on."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from xenograft.toolstack.errors import UserError
from xenograft.toolstack.state import suspend
from xenograft.toolstack.state.guest import check_can_save, write_guest

if TYPE_CHECKING:
    from xenograft.toolstack.config.domain import DomainConfig
    from xenograft.toolstack.machine import After, Domain, SaveMode


def save_guest(domain: Domain, path: Path, mode: SaveMode, after: After) -> None:
    """`Domain.save`."""
    check_can_save(domain, mode)
    with new_file(path) as file:
        # A place where nothing can be written to is found before the guest is asked.
        if mode != "snapshot" and not suspend.is_suspended(domain.xen):
            asked = domain.suspend()
            if not asked and mode == "suspend":
                raise UserError(f"{domain.name} doesn't suspend itself")
        save_still(domain, domain.config, file, after)


def save_still(
    domain: Domain,
    config: DomainConfig,
    file: NewFile,
    after: After,
    end: Callable[[], None] | None = None,
) -> None:
    """Write the state of a guest as it is now, and do with it what is to come `after`.

    `end` destroys the guest.  Raises UserError; then the guest goes on.
    """
    suspended = suspend.is_suspended(domain.xen)
    domain.pause()
    try:
        try:
            write_guest(domain, config, file.file)
            file.finish()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UserError(f"{file.path}: {reason}") from None
    except BaseException:
        if suspended:
            suspend.resume(domain.machine.services, domain.xen)
        domain.unpause()
        raise
    if after == "destroy":
        (end or domain.destroy)()
        return
    if suspended:
        suspend.resume(domain.machine.services, domain.xen)
    if after == "run":
        domain.unpause()


class NewFile:
    """A file that is there once it's complete, and not before, whatever happens to us.

    It has no name until `finish`; where a file system can't do that, it has another one.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self.path = path
        self._other = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.new")
        flags = os.O_WRONLY | os.O_CLOEXEC
        self._nameless = True
        try:
            handle = os.open(path.parent, flags | os.O_TMPFILE, 0o600)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
            self._nameless = False
            handle = os.open(self._other, flags | os.O_CREAT | os.O_EXCL, 0o600)
        self.file: BinaryIO = os.fdopen(handle, "wb")

    def finish(self) -> None:
        """Give it its name.  Raises OSError."""
        self.file.flush()
        if self._nameless:
            # A name can be given to it, but not taken from another file: that takes two steps.
            # (Without a directory, Python calls link(2), which doesn't follow symbolic links.)
            handle = self.file.fileno()
            os.link(f"/proc/self/fd/{handle}", self._other, src_dir_fd=handle, follow_symlinks=True)
        self._other.replace(self.path)

    def close(self) -> None:
        """Without `finish`, nothing is left of it."""
        with contextlib.suppress(OSError):
            self.file.close()
        with contextlib.suppress(OSError):
            self._other.unlink()


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[NewFile]:
    """A file that becomes `path`; gone at the end if it hasn't.  Raises UserError."""
    try:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(path.stat().st_mode):
                raise UserError(f"{path} isn't a file; name another place")
        file = NewFile(path)
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    try:
        yield file
    finally:
        file.close()
