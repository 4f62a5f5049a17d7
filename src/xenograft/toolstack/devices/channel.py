# SPDX-License-Identifier: GPL-2.0-or-later
"""`channel=`: a named console as nodes of the store (libxl's device_console_add of Xen 4.17)."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from xenograft.toolstack.devices.record import DeviceRecord
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.layout import CONSOLE_LIMIT

if TYPE_CHECKING:
    from xenograft.toolstack.config.channel import Channel

SUN_PATH_MAX = 107


def channel_record(
    channel: Channel, devid: int, domid: int, backend_domid: int = 0
) -> DeviceRecord:
    """The nodes of a channel for domain `domid`; numbers begin at 1."""
    backend = {
        "protocol": "vt100",
        "name": channel.name,
        "connection": channel.connection,
    }
    if channel.path:
        backend["path"] = channel.path
    return DeviceRecord(
        kind="console",
        devid=devid,
        domid=domid,
        backend_domid=backend_domid,
        backend=backend,
        frontend={"protocol": "vt100"},
        readonly={
            "limit": str(CONSOLE_LIMIT),
            "type": "ioemu",
            "output": "pty" if channel.connection == "pty" else f"chardev:libxl-channel{devid}",
            "tty": "",
            "name": channel.name,
        },
    )


def check_channel(channel: Channel) -> None:
    """Raises UserError, one line, if its socket can't be made."""
    if channel.connection != "socket":
        return
    what, path = f"channel {channel.name}", Path(channel.path)
    if not path.is_absolute():
        raise UserError(f"{what}: {channel.path[:80]!r} isn't an absolute path; write it in full")
    if len(str(path).encode()) > SUN_PATH_MAX:
        raise UserError(f"{what}: a socket's path has at most {SUN_PATH_MAX} bytes; use another")
    try:
        if not path.parent.is_dir():
            raise UserError(f"{what}: {path.parent} isn't a folder; make it first")
        if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
            raise UserError(f"{what}: {path} is there already, and no socket; remove it first")
    except OSError as error:
        raise UserError(f"{what}: {path}: {error.strerror or error}") from None
