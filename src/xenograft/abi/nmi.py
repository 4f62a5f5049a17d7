# SPDX-License-Identifier: GPL-2.0-or-later
"""public/nmi.h: non-maskable interrupts of PV guests (HYPERVISOR_nmi_op)."""

from __future__ import annotations

from xenograft.abi.struct import Struct, ulong, xulong

# arch_shared_info.nmi_reason.
XEN_NMIREASON_io_error = 1 << 0
XEN_NMIREASON_pci_serr = 1 << 1
XEN_NMIREASON_unknown = 1 << 2

# nmi_op.
XENNMI_register_callback = 0
XENNMI_unregister_callback = 1


class xennmi_callback(Struct):
    """The NMI handler's address."""

    handler_address: xulong
    pad: ulong
