# SPDX-License-Identifier: GPL-2.0-or-later
"""What a domain without privilege may use up (the defaults of Xen 4.17's xenstored).

A limit of 0 isn't "none": privileged connections have no limits, others always do.
"""

from __future__ import annotations

import msgspec


class Quota(msgspec.Struct):
    """Limits per domain.  Changed while running by ``xenstore-control quota set NAME VALUE``."""

    nodes: int = 1000
    """Nodes that it may own before it can't create more (ENOSPC)."""
    watches: int = 128
    """Watches that it may have before it can't add the one after the next (E2BIG)."""
    transactions: int = 10
    """Transactions that may be open before it can't open the one after the next (ENOSPC)."""
    transaction_requests: int = 1024
    """Requests in one transaction (ENOSPC)."""
    node_size: int = 2048
    """Bytes that a node can't have any more: see `Workspace.check_size` (ENOSPC)."""
    depth: int = 64
    """Levels of a node that it creates (ENOSPC).  Ours: what a change costs grows with them."""
    permissions: int = 5
    """Permission entries of a node (ENOSPC)."""
    outstanding: int = 20
    """Replies that it may leave unread before its next request is looked at."""
    memory: int = 5 << 19
    """Bytes held for it in watches, transactions and unread messages (ENOMEM)."""


QUOTA_NAMES = {name.replace("_", "-"): name for name in Quota.__struct_fields__}
"""Names as xenstore-control knows them, to those of the fields."""

PRIVILEGED_OUTPUT_MAX = 16 << 20
"""Bytes that a privileged client may leave unread before it's disconnected."""
