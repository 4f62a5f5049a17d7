# SPDX-License-Identifier: GPL-2.0-or-later
"""What a service leaves on disk of what it runs, so that a crash can be told from a stop.

The record is replaced by a rename, so that a reader finds the old one or the new one, whenever
the service is killed.  It's no source of truth for the service itself, which never reads its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.errors import UserError


class RunningGuest(msgspec.Struct, frozen=True):
    """A guest that ran."""

    domid: int
    name: str
    uuid: str
    config: DomainConfig
    saved: str = ""
    """A file that its state was saved to."""


class Running(msgspec.Struct, frozen=True):
    """What a service ran when it last changed."""

    pid: int
    guests: list[RunningGuest]


def write_record(path: Path, guests: Iterable[RunningGuest]) -> None:
    """Replace the record."""
    data = msgspec.json.encode(Running(os.getpid(), list(guests)))
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(data)
    new.chmod(0o600)
    new.replace(path)


def read_record(path: Path) -> Running | None:
    """The record that a service has left, or keeps.

    What can't be read (a record of another version, say) is nobody's guests.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Running)
    except (OSError, msgspec.MsgspecError, UserError, ValueError):
        # A configuration checks itself (UserError), and the checks may be stricter now.
        return None


def take_record(path: Path) -> Running | None:
    """The record of an earlier service that ended without a stop; removes it."""
    record = read_record(path)
    path.unlink(missing_ok=True)
    return record
