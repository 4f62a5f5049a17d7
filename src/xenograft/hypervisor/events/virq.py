# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtual interrupts: which are per vCPU and which global, and who gets the machine's own.

public/xen.h ("VIRTUAL INTERRUPTS").  A per-vCPU VIRQ may be bound once on each vCPU and stays
there; a global one is bound once per domain, on vCPU 0, and may be moved afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.xen import NR_VIRQS, VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENOPROF, VIRQ_XENPMU
from xenograft.hypervisor.events.protocols import EventDomain

PER_VCPU_VIRQS = frozenset((VIRQ_TIMER, VIRQ_DEBUG, VIRQ_XENOPROF, VIRQ_XENPMU))
"""The rest, the architecture's eight (on x86) and the unnamed ones included, are global."""


def virq_is_global(virq: int) -> bool:
    """Whether `virq` (below NR_VIRQS) is bound once per domain."""
    return virq not in PER_VCPU_VIRQS


class GlobalVirqHandlers:
    """Which domain the machine's global VIRQs go to: the hardware domain unless set otherwise.

    XEN_DOMCTL_set_virq_handler gives one to another domain; it falls back when that dies.
    """

    def __init__(self, domains: Mapping[int, EventDomain], hardware_domid: int = 0) -> None:
        self._domains = domains
        self._hardware_domid = hardware_domid
        self._handlers: dict[int, int] = {}

    def set_handler(self, domid: int, virq: int) -> None:
        """Send `virq` to `domid` from now on; XenError(EINVAL) if it isn't a global VIRQ."""
        if not 0 <= virq < NR_VIRQS or not virq_is_global(virq):
            raise XenError(Errno.EINVAL)
        self._handlers[virq] = domid

    def handler(self, virq: int) -> int:
        """The domid that gets `virq`."""
        return self._handlers.get(virq, self._hardware_domid)

    def send(self, virq: int) -> None:
        """Raise a global VIRQ (Xen's send_global_virq); dropped if nobody has bound it."""
        domain = self._domains.get(self.handler(virq))
        if domain is not None:
            domain.events.raise_global_virq(virq)

    def forget(self, domid: int) -> None:
        """`domid` is being destroyed: its VIRQs go to the hardware domain again."""
        self._handlers = {virq: dom for virq, dom in self._handlers.items() if dom != domid}

    def save(self) -> tuple[tuple[int, int], ...]:
        """(virq, domid) pairs, ascending."""
        return tuple(sorted(self._handlers.items()))

    def restore(self, record: tuple[tuple[int, int], ...]) -> None:
        self._handlers = dict(record)
