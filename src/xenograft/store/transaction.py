# SPDX-License-Identifier: GPL-2.0-or-later
"""Transactions: a state of their own, and the requests that led to it.

A transaction works on the store's state at its start.  If nothing else has changed when it
ends, its state becomes the store's.  If something has, its requests are done again on the
store as it is now; only if one of them would be answered differently is it a conflict
(EAGAIN), and the client has to start over.
"""

from __future__ import annotations

from hashlib import blake2b

from xenograft.abi.errno import Errno, XenError
from xenograft.store.quota import Quota
from xenograft.store.workspace import State, Workspace

_KEPT_REPLY = 64
"""Longer replies are remembered by their digest."""

_REQUEST_OVERHEAD = 128
"""What a remembered request counts for beside its payload, in bytes."""


class Answer:
    """How a request ended: its reply, or an errno.  Long replies are only compared."""

    __slots__ = ("_key",)

    def __init__(self, reply: bytes | Errno) -> None:
        if isinstance(reply, bytes) and len(reply) > _KEPT_REPLY:
            self._key: object = (len(reply), blake2b(reply, digest_size=16).digest())
        else:
            self._key = reply

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Answer) and self._key == other._key

    __hash__ = None  # type: ignore[assignment]  # compared, never looked up


class Logged:
    """A request of a transaction, with its answer at the time."""

    __slots__ = ("answer", "operation", "payload")

    def __init__(self, operation: int, payload: bytes, answer: Answer) -> None:
        self.operation = operation
        self.payload = payload
        self.answer = answer


class Transaction(Workspace):
    """An open transaction: `base` is the store's state at its start, number `sequence`."""

    __slots__ = ("base", "log", "lost", "sequence", "size")

    def __init__(self, base: State, quota: Quota, sequence: int) -> None:
        super().__init__(base, quota)
        self.base = base
        self.sequence = sequence
        self.log: list[Logged] = []
        self.size = 0
        self.lost = False
        """Whether it can't be committed any more, whatever the store's state."""

    def check_room(self, privileged: bool) -> None:
        """Raises ENOSPC if a domain without privilege has made too many requests."""
        if not privileged and len(self.log) >= self.quota.transaction_requests:
            raise XenError(Errno.ENOSPC)

    def remember(self, operation: int, payload: bytes, reply: bytes | Errno) -> int:
        """Note a request; returns how many bytes it keeps."""
        self.log.append(Logged(operation, payload, Answer(reply)))
        size = len(payload) + _REQUEST_OVERHEAD
        self.size += size
        return size
