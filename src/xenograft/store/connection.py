# SPDX-License-Identifier: GPL-2.0-or-later
"""A client's connection: its rights, watches, transactions, and the messages it's to read.

How messages travel is the business of a transport (`ring`, `server`, `client`), which takes
them with `take` when `notify` tells it to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from xenograft.abi.io.xs_wire import XENSTORE_PAYLOAD_MAX
from xenograft.store import wire
from xenograft.store.alias import Alias
from xenograft.store.perms import Who
from xenograft.store.quota import PRIVILEGED_OUTPUT_MAX
from xenograft.store.transaction import Transaction
from xenograft.store.watches import Watch


class Connection:
    """One client: a domain by its ring, or a program of the control domain.

    `notify` is called, outside of any request, when there are messages to take.  `output_max`
    is how many bytes may wait before watch events are lost (a domain's own fault) or, for
    privileged clients, before `overflowed` is set and the transport should hang up.
    """

    def __init__(
        self,
        serial: int,
        who: Who,
        mark_dirty: Callable[[Connection], None],
        output_max: int,
    ) -> None:
        self.serial = serial
        self.who = who
        self.alias: Alias | None = None
        """Under which other numbers the client may know itself."""
        self.notify: Callable[[], None] | None = None
        self.watches: dict[tuple[str, bytes], Watch] = {}
        self.transactions: dict[int, Transaction] = {}
        self.next_tx_id = 1
        self.memory = 0
        """Bytes kept for it in watches and transactions."""
        self.output_bytes = 0
        self.unread_replies = 0
        self.overflowed = False
        self.closed = False
        self._mark_dirty = mark_dirty
        self._output_max = max(output_max, PRIVILEGED_OUTPUT_MAX) if who.privileged else output_max
        self._output: deque[tuple[bytes, bytes | None]] = deque()
        self._pending_events: set[bytes] = set()

    def __repr__(self) -> str:
        return f"<Connection {self.serial} domid={self.who.domid}>"

    @property
    def domid(self) -> int:
        """The domain that it speaks for."""
        return self.who.domid

    def understood(self, raw: bytes) -> bytes:
        """A path of the client's, in the store's numbers."""
        return raw if self.alias is None else self.alias.inward(raw)

    # -- messages to the client ---------------------------------------------------------------
    @property
    def has_output(self) -> bool:
        return bool(self._output)

    def send_reply(self, message: bytes) -> None:
        """Queue a reply, whole."""
        if self.closed:
            return
        self.unread_replies += 1
        self._queue(message, None)

    def send_event(self, watch: Watch, path: str, distinct: bool = False) -> None:
        """Queue a watch event, unless the same one is still unread (and it isn't `distinct`).

        Events too long for the protocol aren't sent.
        """
        payload = watch.event(path)
        if self.closed or len(payload) > XENSTORE_PAYLOAD_MAX:
            return
        if payload in self._pending_events and not distinct:
            return
        if self.output_bytes + len(payload) > self._output_max:
            self.overflowed = True
            if not self.who.privileged:
                return
        self._pending_events.add(payload)
        self._queue(wire.pack_event(payload), payload)

    def _queue(self, message: bytes, event: bytes | None) -> None:
        self._output.append((message, event))
        self.output_bytes += len(message)
        self._mark_dirty(self)

    def take(self) -> bytes | None:
        """The next message to deliver, or None."""
        if not self._output:
            return None
        message, event = self._output.popleft()
        self.output_bytes -= len(message)
        if event is None:
            self.unread_replies -= 1
        else:
            self._pending_events.discard(event)
        return message

    def drop_output(self) -> None:
        """Forget what hasn't been taken."""
        self._output.clear()
        self._pending_events.clear()
        self.output_bytes = self.unread_replies = 0
        self.overflowed = False

    def pending_output(self) -> tuple[tuple[bytes, bool], ...]:
        """The messages not yet taken, in order, each with whether it's a watch event."""
        return tuple((message, event is not None) for message, event in self._output)

    def restore_output(self, message: bytes, is_event: bool) -> None:
        """Queue a message of `pending_output` again."""
        if is_event:
            event = message[wire.HEADER_SIZE :]
            self._pending_events.add(event)
            self._queue(message, event)
        else:
            self.send_reply(message)
