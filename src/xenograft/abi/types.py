# SPDX-License-Identifier: GPL-2.0-or-later
"""Distinct types for the numbers that guests hand around.

They're plain integers when the program runs; the type checker keeps a guest frame number from
being taken for a machine frame number, and a port for a grant reference.
"""

from __future__ import annotations

from typing import NewType

DomId = NewType("DomId", int)
"""public/xen.h: domid_t, 16 bits."""
VcpuId = NewType("VcpuId", int)
"""A vCPU of one domain, from 0."""
EvtchnPort = NewType("EvtchnPort", int)
"""public/event_channel.h: evtchn_port_t, 32 bits."""
GrantRef = NewType("GrantRef", int)
"""public/grant_table.h: grant_ref_t, 32 bits."""
Gfn = NewType("Gfn", int)
"""A guest frame number: a page of a guest's own physical space."""
Mfn = NewType("Mfn", int)
"""A machine frame number: a page of the machine."""
Gpa = NewType("Gpa", int)
"""A guest-physical byte address."""
Gva = NewType("Gva", int)
"""A guest-virtual byte address."""
Maddr = NewType("Maddr", int)
"""A machine byte address: ``mfn << 12 | offset``."""
