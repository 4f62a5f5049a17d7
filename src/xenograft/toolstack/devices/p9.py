# SPDX-License-Identifier: GPL-2.0-or-later
"""`p9=`: a shared folder as nodes of the store (libxl's device_9pfs_add of Xen 4.17)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from xenograft.toolstack.devices.record import DeviceRecord
from xenograft.toolstack.errors import UserError

if TYPE_CHECKING:
    from xenograft.toolstack.config.p9 import P9


def p9_record(p9: P9, devid: int, domid: int, backend_domid: int = 0) -> DeviceRecord:
    """The nodes of a folder for domain `domid`."""
    path = p9.path
    backend = {"path": path, "security_model": p9.security_model}
    if p9.readonly:
        backend["readonly"] = "1"
    return DeviceRecord(
        kind="9pfs",
        devid=devid,
        domid=domid,
        backend_domid=backend_domid,
        backend=backend,
        frontend={"tag": p9.tag},
    )


def check_folder(p9: P9) -> None:
    """Raises UserError, one line, unless the folder is there and may be read."""
    what, path = f"p9 {p9.tag}", Path(p9.path)
    if not path.is_absolute():
        raise UserError(f"{what}: {p9.path[:80]!r} isn't an absolute path; write it in full")
    try:
        if not path.is_dir():
            why = "isn't a folder" if path.exists() else "doesn't exist; make it first"
            raise UserError(f"{what}: {p9.path} {why}")
    except OSError as error:
        raise UserError(f"{what}: {p9.path}: {error.strerror or error}") from None
    if not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"{what}: {p9.path}: you may not read this folder")
