# SPDX-License-Identifier: GPL-2.0-or-later
"""Physical interrupts as event channels see them.

For HVM-type guests (PVH too) binding a PIRQ asks nothing of the interrupt controllers: the
port exists and stays silent until a device behind that PIRQ is emulated.  A PV domain must
have been given the PIRQ, and the line is taken from the controller.
"""

from __future__ import annotations

from typing import Protocol

from xenograft.abi.errno import Errno, XenError

DEFAULT_NR_PIRQS = 56
"""24 GSIs of one I/O APIC and Xen's default of 32 more for a domain (extra_guest_irqs)."""


class Pirqs(Protocol):
    """A domain's physical interrupts."""

    @property
    def nr_pirqs(self) -> int: ...

    def bind(self, vcpu_id: int, pirq: int, will_share: bool) -> None:
        """Take the line (Xen's pirq_guest_bind); raises XenError."""
        ...

    def check_access(self, pirq: int) -> None:
        """Raises XenError(EPERM) if the domain may not use `pirq`."""
        ...

    def unbind(self, pirq: int) -> None: ...
    def set_affinity(self, pirq: int, vcpu_id: int) -> None: ...


class VirtualPirqs:
    """PIRQs with no line behind them: those of HVM-type guests without passed-through devices."""

    def __init__(self, nr_pirqs: int = DEFAULT_NR_PIRQS) -> None:
        self.nr_pirqs = nr_pirqs

    def check_access(self, pirq: int) -> None:
        return

    def bind(self, vcpu_id: int, pirq: int, will_share: bool) -> None:
        return

    def unbind(self, pirq: int) -> None:
        return

    def set_affinity(self, pirq: int, vcpu_id: int) -> None:
        return


class NoPirqs(VirtualPirqs):
    """PIRQs of a PV domain that was given none."""

    def check_access(self, pirq: int) -> None:
        raise XenError(Errno.EPERM)
