# SPDX-License-Identifier: GPL-2.0-or-later
"""The frames that a guest registers for the FIFO ABI: found in its p2m, held by references."""

from __future__ import annotations

from xenograft.abi.errno import Errno, XenError
from xenograft.hypervisor.events.protocols import EventDomain


class P2mFrames:
    """Pages of a domain that the hypervisor writes to, each with a reference and a writable
    use (Xen's map_guest_page of event_fifo.c)."""

    def __init__(self, domain: EventDomain) -> None:
        self._domain = domain

    def get_writable(self, gfn: int) -> int:
        p2m = self._domain.p2m
        found = p2m.get_page(gfn)
        if found is None:
            raise XenError(Errno.EINVAL)
        mfn = found[0]
        if not p2m.frames.get_writable(mfn):
            p2m.frames.put_page(mfn)
            raise XenError(Errno.EINVAL)
        return mfn

    def put(self, mfn: int) -> None:
        frames = self._domain.p2m.frames
        frames.put_writable(mfn)
        frames.put_page(mfn)
