# SPDX-License-Identifier: GPL-2.0-or-later
"""A 9pfs device's state as plain data, apart from the folder and the front end's pages."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from xenograft.backends.xen_9pfs.fids import Fid, OpenFile
from xenograft.backends.xen_9pfs.locks import END, FileKey, Held, Owner, TooManyLocks
from xenograft.backends.xen_9pfs.protocol import LOCK_TYPE_RDLCK, LOCK_TYPE_WRLCK
from xenograft.backends.xen_9pfs.ring import FlexRingState

if TYPE_CHECKING:
    from xenograft.backends.xen_9pfs.server import Server


class FidState(msgspec.Struct, frozen=True):
    """One fid; `flags` are those of its Tlopen or Tlcreate, None if it isn't open."""

    number: int
    path: bytes
    root: bytes
    uid: int
    flags: int | None


class LockState(msgspec.Struct, frozen=True, array_like=True):
    """A lock on a file that one of the fids has open, `fid`."""

    fid: int
    client: bytes
    process: int
    type: int
    start: int
    end: int | None
    """Exclusive; None stands for the end of every file, which has more than 64 bits."""


class ServerState(msgspec.Struct, frozen=True):
    """One connection: what was agreed upon, its fids, and its locks."""

    version: str
    msize: int
    fids: tuple[FidState, ...]
    locks: tuple[LockState, ...] = ()


class P9State(msgspec.Struct, frozen=True):
    """One device. `state` is a XenbusState."""

    path: str
    domid: int
    devid: int
    state: int
    server: ServerState
    rings: tuple[FlexRingState, ...]
    answers: tuple[tuple[bytes, ...], ...] = ()
    """Of each ring, those that wait for room."""


def save_server(server: Server) -> ServerState:
    """A connection's state; nothing may be under way.

    Attributes that are being read or written aren't kept: the client gets an error and asks anew.
    """
    fids = [
        FidState(number, fid.path, fid.root, fid.uid, fid.file.flags if fid.file else None)
        for number, fid in server.fids.items()
        if fid.xattr is None
    ]
    return ServerState(
        server.agreed.version, server.agreed.msize, tuple(fids), tuple(_save_locks(server))
    )


def _save_locks(server: Server) -> Iterator[LockState]:
    homes = {
        _key(fid.file.descriptor): number
        for number, fid in server.fids.items()
        if fid.file is not None
    }
    for key, held in server.locks.of(server.session):
        if key in homes:
            owner, end = held.owner, None if held.end >= END else held.end
            yield LockState(homes[key], owner.client, owner.process, held.type, held.start, end)


def _key(descriptor: int) -> FileKey:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _restore_locks(server: Server, locks: tuple[LockState, ...]) -> list[str]:
    """Take the locks again; those that somebody else has by now are lost."""
    open_files = {
        number: fid.file.descriptor for number, fid in server.fids.items() if fid.file is not None
    }
    lost = []
    for one in locks:
        if one.fid not in open_files or one.type not in (LOCK_TYPE_RDLCK, LOCK_TYPE_WRLCK):
            continue
        end = END if one.end is None else one.end
        if not 0 <= one.start < end <= END:
            continue
        held = Held(Owner(server.session, one.client, one.process), one.type, one.start, end)
        try:
            done = server.locks.set(_key(open_files[one.fid]), held)
        except TooManyLocks:
            done = False
        if not done:
            lost.append(f"a lock of fid {one.fid}: EAGAIN")
    return lost


def restore_server(server: Server, state: ServerState) -> list[str]:
    """Give a new server a saved one's fids; returns what couldn't be opened again.

    The client gets EBADF for these: their files are gone, or may not be opened any more.
    """
    server.agreed.version, server.agreed.msize = state.version, state.msize
    lost = []
    for one in state.fids:
        fid = Fid(one.path, one.root, one.uid)
        server.fids.add(one.number, fid)
        if one.flags is None:
            continue
        try:
            descriptor = server.folder.open(one.path, server.host_flags(one.flags) & ~os.O_TRUNC)
            directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
            server.fids.set_file(fid, OpenFile(descriptor, one.flags, directory))
        except OSError as error:
            server.fids.remove(one.number)
            why = errno.errorcode.get(error.errno or 0, "error")
            lost.append(f"{os.fsdecode(one.path)}: {why}")
    return lost + _restore_locks(server, state.locks)
