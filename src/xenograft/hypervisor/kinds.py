# SPDX-License-Identifier: GPL-2.0-or-later
"""The kinds of guest that Xen knows on x86, and the states that a domain passes through."""

from __future__ import annotations

from enum import Enum, IntEnum


class GuestKind(Enum):
    """How a guest is virtualized. PVH and HVM are both "HVM-type" for most hypercalls."""

    PV = "pv"
    PVH = "pvh"
    HVM = "hvm"

    # Kinds are keys of the tables that each hypercall goes through; Enum's own hash is slow.
    __hash__ = object.__hash__

    @property
    def is_hvm_type(self) -> bool:
        """True for guests with hardware-style paging and traps (Xen's is_hvm_domain)."""
        return self is not GuestKind.PV


class Dying(IntEnum):
    """How far the destruction of a domain is (Xen's enum domain_dying)."""

    ALIVE = 0
    DYING = 1
    DEAD = 2
