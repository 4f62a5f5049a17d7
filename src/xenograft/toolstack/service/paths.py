# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the service keeps its socket, locks, log and records: one private folder per user.

``$XG_SERVICE_DIR`` names it, or it's ``xenograft`` in ``$XDG_RUNTIME_DIR``, or a folder of the
user's own in the system's folder for temporary files.  Whoever could write there could speak
for the user, so a folder that isn't the user's alone is refused.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import NamedTuple

from xenograft.toolstack.errors import UserError

VARIABLE = "XG_SERVICE_DIR"
_SOCKET_PATH_MAX = 107
"""Bytes of a Unix socket's path (sun_path of unix(7), with its NUL)."""


class ServicePaths(NamedTuple):
    """The service's folder and what is in it."""

    folder: Path

    @property
    def socket(self) -> Path:
        """Where commands connect to."""
        return self.folder / "socket"

    @property
    def xenstore(self) -> Path:
        """The store's own socket, for the tools of Xen."""
        return self.folder / "xenstored"

    @property
    def lock(self) -> Path:
        """Held by the service as long as it lives; the kernel lets go of it whatever happens."""
        return self.folder / "lock"

    @property
    def starting(self) -> Path:
        """Held by a command while it starts the service."""
        return self.folder / "starting"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def running(self) -> Path:
        """Which guests the service holds, for whoever comes after a crash."""
        return self.folder / "running"

    @property
    def dumps(self) -> Path:
        """Core dumps that on_crash="coredump-…" asks for."""
        return self.folder / "dump"


def service_paths(create: bool = True) -> ServicePaths:
    """The user's service folder, made if it's missing.  Raises UserError if it can't be used."""
    return paths_of(_folder(), create)


def paths_of(folder: Path, create: bool = True) -> ServicePaths:
    """The same for a folder that is named."""
    if create:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _refuse(folder, (error.strerror or str(error)).lower()) from None
    _check(folder, create)
    paths = ServicePaths(folder)
    if len(os.fsencode(paths.xenstore)) > _SOCKET_PATH_MAX:
        raise UserError(
            f"{folder}: this path is too long for a socket in it; set {VARIABLE} to a shorter one"
        )
    return paths


def _folder() -> Path:
    if given := os.environ.get(VARIABLE):
        return Path(given).absolute()
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and _is_ours(Path(runtime)):
        return Path(runtime) / "xenograft"
    return Path(tempfile.gettempdir()) / f"xenograft-{os.getuid()}"


def _is_ours(folder: Path) -> bool:
    """Whether it's a folder that the user alone may use."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.getuid()
        and not stat.S_IMODE(status.st_mode) & 0o077
    )


def _check(folder: Path, must_exist: bool) -> None:
    try:
        status = folder.lstat()
    except FileNotFoundError:
        if must_exist:
            raise _refuse(folder, "it has gone") from None
        return
    except OSError as error:
        raise _refuse(folder, (error.strerror or str(error)).lower()) from None
    if not stat.S_ISDIR(status.st_mode):
        raise _refuse(folder, "it isn't a folder")
    if status.st_uid != os.getuid():
        raise _refuse(folder, "it belongs to somebody else")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise _refuse(folder, "others may use it (chmod 700 mends that)")


def _refuse(folder: Path, why: str) -> UserError:
    return UserError(
        f"the service's folder {folder} can't be used: {why}; {VARIABLE} names another"
    )
