# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory: a guest's target and its limit (libxl_set_memory_target, libxl_domain_setmaxmem)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from xenograft.abi.errno import XenError
from xenograft.toolstack.create import MAXMEM_CONSTANT_PAGES, SPECIAL_PAGES_ROOM
from xenograft.toolstack.service import messages
from xenograft.toolstack.service.messages import Failure
from xenograft.toolstack.service.table import on_machine

if TYPE_CHECKING:
    from xenograft.toolstack.service.host import Guest, Host

_KIB_PER_PAGE = 4
_LEAST_KIB = 1 << 10


def _number(host: Host, guest: Guest, name: str, default: int) -> int:
    text = host.store.get(f"/local/domain/{guest.domid}/memory/{name}") or ""
    return int(text) if text.isascii() and text.isdigit() else default


@on_machine(messages.SetMemory)
def set_memory(host: Host, request: messages.SetMemory) -> None:
    """Write memory/target; the guest's balloon driver does the rest.

    The domain's limit follows, so that a guest that doesn't give memory back gets no more.
    """
    guest = host.guest(request.domain)
    pool = guest.domain.xen.pool
    static_max = _number(host, guest, "static-max", pool.max_pages * _KIB_PER_PAGE)
    if request.kib > static_max:
        raise Failure(
            f"Domain {guest.domid}:memory_dynamic_max must be less than or equal to"
            f" memory_static_max ({static_max} KiB; maxmem= in its configuration sets it)"
        )
    if request.kib < _LEAST_KIB:
        raise Failure(f"Domain {guest.domid}:a guest needs 1 MiB of memory at least")
    pages = request.kib // _KIB_PER_PAGE
    pool.max_pages = pages + MAXMEM_CONSTANT_PAGES
    if (pod := guest.domain.xen.p2m.pod) is not None:
        try:
            pod.set_target(pages + SPECIAL_PAGES_ROOM)
        except XenError:
            raise Failure("the machine has too little memory left") from None
    host.store.write(f"/local/domain/{guest.domid}/memory/target", request.kib)
    if not request.kib % 1024:
        config = guest.config
        guest.config = msgspec.structs.replace(
            config, memory=request.kib >> 10, maxmem=max(static_max >> 10, request.kib >> 10)
        )
        host.changed()


@on_machine(messages.SetMaxMemory)
def set_max_memory(host: Host, request: messages.SetMaxMemory) -> None:
    """Limit how much memory the domain may have."""
    guest = host.guest(request.domain)
    pool = guest.domain.xen.pool
    target = _number(host, guest, "target", 0)
    if request.kib < target:
        raise Failure(
            f"Domain {guest.domid}:memory_static_max must be greater than or equal to"
            f" memory_dynamic_max ({target} KiB)"
        )
    pool.max_pages = request.kib // _KIB_PER_PAGE + MAXMEM_CONSTANT_PAGES
