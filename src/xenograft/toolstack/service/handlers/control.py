# SPDX-License-Identifier: GPL-2.0-or-later
"""What is done to a guest from outside: triggers, SysRq, core dumps."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from xenograft.hypervisor.kinds import GuestKind
from xenograft.toolstack.service import messages
from xenograft.toolstack.service.messages import Failure
from xenograft.toolstack.service.table import on_loop, on_machine

if TYPE_CHECKING:
    from xenograft.toolstack.service.host import Guest, Host
    from xenograft.toolstack.service.service import Service

TRIGGERS = ("nmi", "reset", "init", "power", "sleep", "s3resume")


@on_machine(messages.Trigger)
def trigger(host: Host, request: messages.Trigger) -> None:
    """XEN_DOMCTL_sendtrigger: of x86 Xen 4.17 it knows NMI, power and sleep."""
    guest = host.guest(request.domain)
    xen, name = guest.domain.xen, request.trigger
    if name not in TRIGGERS:
        raise Failure(f'Invalid trigger "{name[:40]}"')
    failed = f"Domain {guest.domid}:Send trigger '{name}' failed"
    if not 0 <= request.vcpu < len(xen.vcpus):
        raise Failure(f"{failed}: No such process", 0)
    if name == "nmi":
        xen.vcpus[request.vcpu].send_nmi()
    elif name in ("reset", "init"):
        raise Failure(f"{failed}: Function not implemented", 0)
    elif xen.kind is GuestKind.PV:
        raise Failure(f"{failed}: Invalid argument", 0)
    elif xen.kind is GuestKind.PVH:
        raise Failure(f"{failed}: a PVH guest has no ACPI buttons (use xg shutdown)", 0)
    else:
        raise Failure(f"{failed}: no ACPI buttons are emulated", 0)


@on_machine(messages.Sysrq)
def sysrq(host: Host, request: messages.Sysrq) -> None:
    """libxl_send_sysrq: the guest's kernel watches control/sysrq."""
    guest = host.guest(request.domain)
    if len(request.key) != 1 or not request.key.isascii() or not request.key.isprintable():
        raise Failure("Invalid sysrq.")
    host.store.write(f"/local/domain/{guest.domid}/control/sysrq", request.key)


@on_machine(messages.DebugKeys)
def debug_keys(host: Host, request: messages.DebugKeys) -> None:
    from xenograft.hypervisor.keyhandler import press

    for key in request.keys:
        press(host.hypervisor, key)


async def dump_to(service: Service, guest: Guest, path: str) -> None:
    """Write a guest's core dump; it stands still meanwhile.  Raises Failure and OSError.

    The machine's thread reads a piece at a time, so that the other guests go on.
    """
    from xenograft.toolstack.dump.core import CoreDump

    thread = service.thread

    def begin() -> CoreDump:
        if guest.destroyed:
            raise Failure(f"domain {guest.domid} has gone")
        guest.domain.pause()
        return CoreDump(guest.domain.xen)

    def next_piece() -> bytes | None:
        if guest.destroyed:
            raise Failure(f"domain {guest.domid} has gone")
        return next(pieces, None)

    def end() -> None:
        if not guest.destroyed:
            guest.domain.unpause()

    new = Path(f"{path}.new")
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        dump = await thread.call(begin)
        pieces = dump.pieces()
        try:
            while (piece := await thread.call(next_piece)) is not None:
                await asyncio.to_thread(_write, handle, piece)
        finally:
            await thread.call(end)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def _write(handle: int, piece: bytes) -> None:
    """Write all of it; pages of zeros become holes."""
    if piece.count(0) == len(piece):
        os.ftruncate(handle, os.lseek(handle, len(piece), os.SEEK_CUR))
        return
    view = memoryview(piece)
    while view:
        view = view[os.write(handle, view) :]


@on_loop(messages.DumpCore)
async def dump_core(service: Service, request: messages.DumpCore) -> None:
    host = service.host
    guest = await service.thread.call(lambda: host.guest(request.domain))
    try:
        await dump_to(service, guest, request.path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise Failure(f"dump to {request.path} failed: {reason}") from None
