# SPDX-License-Identifier: GPL-2.0-or-later
"""Event channels: ports of a domain, bound to other domains, virtual interrupts and IPIs.

`channels.EventChannels` is a domain's table of ports, `ops.EVENT_CHANNEL_OPS` the hypercall's
rows.  How a pending port reaches its guest differs by ABI: `two_level`, `fifo`, and `host` for
the embedded control domain.
"""
