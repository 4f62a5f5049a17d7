# SPDX-License-Identifier: GPL-2.0-or-later
"""The store itself: one state, the connections that work on it, the domains it knows.

`Xenstore.process` is the one door for requests, whichever transport they came by, and the one
place where errors become replies.  What follows from a request (watch events) is queued once
its reply is; transports are told at the very end, so that whatever they do next finds the
store at rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.io.xs_wire import XENSTORE_PAYLOAD_MAX, XS_ERROR, XS_WRITE
from xenograft.store import tree, wire
from xenograft.store.connection import Connection
from xenograft.store.fairness import Commit, ConflictCredit, History, Timers
from xenograft.store.operations import OPERATIONS, Operation, Request
from xenograft.store.path import INTRODUCE_DOMAIN, RELEASE_DOMAIN, Parts, join
from xenograft.store.perms import Who
from xenograft.store.quota import Quota
from xenograft.store.transaction import Answer, Transaction
from xenograft.store.tree import Node
from xenograft.store.watches import Watch, Watches
from xenograft.store.workspace import Alter, Change, State, Workspace, initial_state


class Transport(Protocol):
    """What carries an introduced domain's messages (`ring.RingTransport`)."""

    def rebind(self, gfn: int, port: int) -> None:
        """The domain was introduced again: begin anew on another event channel.

        Raises XenError.
        """
        ...

    def resume(self) -> None:
        """The domain is listened to again: look for requests that have waited."""
        ...

    def close(self) -> None: ...


Connector = Callable[[Connection, int, int], Transport]
"""`connect(connection, gfn, port)` makes the transport of a domain.  Raises XenError."""

RequestHook = Callable[[int, int, int, bytes, int, bytes, int], None]
"""(domid, operation, tx_id, payload, type of the reply, payload of the reply, connection).

The connection's serial number tells whose transaction `tx_id` is."""


class IntroducedDomain:
    """A domain that the store talks to."""

    __slots__ = ("connection", "gfn", "port", "shutdown", "transport")

    def __init__(
        self, connection: Connection, gfn: int, port: int, transport: Transport | None
    ) -> None:
        self.connection = connection
        self.gfn = gfn
        self.port = port
        self.transport = transport
        self.shutdown = False
        """Whether @releaseDomain has told of its shutdown already."""


class Xenstore:
    """A store.

    `connector` makes the transports of domains that are introduced (none: they are only known).
    `now` and `timers` (nanoseconds; a `TimerQueue`) let the store hold back domains that keep
    others' transactions from finishing; without them it never does.
    """

    def __init__(
        self,
        *,
        connector: Connector | None = None,
        now: Callable[[], int] | None = None,
        timers: Timers | None = None,
        quota: Quota | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.state = initial_state()
        self.quota = quota if quota is not None else Quota()
        self.watches = Watches()
        self.connections: dict[int, Connection] = {}
        self.domains: dict[int, IntroducedDomain] = {}
        self.connector = connector
        self.credit = ConflictCredit(self._listen_again, now, timers)
        self.history = History()
        self.on_request: RequestHook | None = None
        self.log_requests = False
        self._log = log
        self._sequence = 0
        self._serial = 0
        self._open: dict[tuple[int, int], Transaction] = {}  # oldest first
        self._dirty: dict[Connection, None] = {}
        self._depth = 0

    # -- connections ------------------------------------------------------------------------
    def connect(self, domid: int = 0) -> Connection:
        """A new connection that speaks for `domid`."""
        self._serial += 1
        connection = Connection(self._serial, Who(domid), self._mark_dirty, self.quota.memory)
        self.connections[connection.serial] = connection
        return connection

    def disconnect(self, connection: Connection) -> None:
        """The client has gone: its watches and transactions go too."""
        if connection.closed:
            return
        connection.closed = True
        self.drop_watches_and_transactions(connection)
        connection.drop_output()
        self._dirty.pop(connection, None)
        del self.connections[connection.serial]

    def drop_watches_and_transactions(self, connection: Connection) -> None:
        """RESET_WATCHES, and the end of a connection."""
        for watch in connection.watches.values():
            self.watches.discard(watch)
        connection.watches.clear()
        for tx_id in connection.transactions:
            del self._open[connection.serial, tx_id]
        connection.transactions.clear()
        connection.memory = 0
        self._trim_history()

    def add_watch(self, watch: Watch) -> None:
        """Begin to watch.  Raises ENOMEM."""
        connection = watch.connection
        self.charge(connection, watch.size)
        connection.watches[watch.path, watch.token] = watch
        self.watches.add(watch)

    def remove_watch(self, watch: Watch) -> None:
        """Undo `add_watch`."""
        del watch.connection.watches[watch.path, watch.token]
        self.watches.discard(watch)
        watch.connection.memory -= watch.size

    def charge(self, connection: Connection, size: int) -> None:
        """Account for bytes kept for a connection.  Raises ENOMEM."""
        if not connection.who.privileged and connection.memory + size > self.quota.memory:
            raise XenError(Errno.ENOMEM)
        connection.memory += size

    # -- requests ---------------------------------------------------------------------------
    def process(self, connection: Connection, message: wire.Message) -> None:
        """Answer a request: the reply, and then what follows from it, is queued."""
        type_, req_id, tx_id, payload = message
        after: Sequence[Callable[[], None]] = ()
        self._depth += 1
        try:
            try:
                reply, after = self._execute(connection, type_, tx_id, payload)
                answer = wire.pack(type_, req_id, tx_id, reply)
            except XenError as error:
                answer = wire.pack_error(req_id, tx_id, error.errno)
            if self.on_request is not None or self.log_requests:
                self._report(connection, message, answer)
            connection.send_reply(answer)
            for follow in after:
                follow()
        finally:
            self._leave()

    def request(
        self, connection: Connection, operation: int, payload: bytes, tx_id: int = 0
    ) -> bytes:
        """Answer a request of a client in this process: returns the reply.  Raises XenError."""
        self._depth += 1
        heard = self.on_request is not None or self.log_requests
        try:
            try:
                reply, after = self._execute(connection, operation, tx_id, payload)
            except XenError as error:
                if heard:
                    message = wire.Message(operation, 0, tx_id, payload)
                    self._report(connection, message, wire.pack_error(0, tx_id, error.errno))
                raise
            if heard:
                message = wire.Message(operation, 0, tx_id, payload)
                self._report(connection, message, wire.pack(operation, 0, tx_id, reply))
            for follow in after:
                follow()
        finally:
            self._leave()
        return reply

    def _execute(
        self, connection: Connection, type_: int, tx_id: int, payload: bytes
    ) -> tuple[bytes, Sequence[Callable[[], None]]]:
        operation = OPERATIONS.get(type_)
        if operation is None:
            raise XenError(Errno.ENOSYS)
        if operation.privileged and not connection.who.privileged:
            raise XenError(Errno.EACCES)
        if len(payload) > XENSTORE_PAYLOAD_MAX:
            raise XenError(Errno.E2BIG)
        if tx_id and not operation.outside:
            reply, after = self._execute_in(connection, operation, type_, tx_id, payload)
        else:
            workspace = Workspace(self.state, self.quota)
            request = Request(self, connection, workspace, payload)
            reply, after = operation.handler(request), request.after
            if workspace.changes:
                after.append(self._commit(connection, workspace.state, workspace.changes))
        if len(reply) > XENSTORE_PAYLOAD_MAX:
            raise XenError(Errno.E2BIG)
        return reply, after

    def _execute_in(
        self, connection: Connection, operation: Operation, type_: int, tx_id: int, payload: bytes
    ) -> tuple[bytes, list[Callable[[], None]]]:
        transaction = connection.transactions.get(tx_id)
        if transaction is None:
            raise XenError(Errno.ENOENT)
        request = Request(self, connection, transaction, payload, tx_id)
        if not operation.replayed:
            return operation.handler(request), request.after
        transaction.check_room(connection.who.privileged)
        self.charge(connection, 0)
        answer: bytes | Errno = Errno.EIO
        try:
            answer = operation.handler(request)
        except XenError as error:
            answer = error.errno
            raise
        finally:
            connection.memory += transaction.remember(type_, payload, answer)
        return answer, request.after

    # -- transactions -----------------------------------------------------------------------
    def start_transaction(self, connection: Connection) -> int:
        """Open a transaction; returns its id.  Raises ENOSPC."""
        if (
            not connection.who.privileged
            # One more than the quota, as in xenstored_transaction.c.
            and len(connection.transactions) > self.quota.transactions
        ):
            raise XenError(Errno.ENOSPC)
        tx_id = connection.next_tx_id
        while tx_id in connection.transactions or not 0 < tx_id < 1 << 32:
            tx_id = tx_id + 1 if tx_id < (1 << 32) - 1 else 1
        connection.next_tx_id = tx_id + 1
        transaction = Transaction(self.state, self.quota, self._sequence)
        connection.transactions[tx_id] = transaction
        self._open[connection.serial, tx_id] = transaction
        return tx_id

    def end_transaction(
        self, connection: Connection, tx_id: int, commit: bool
    ) -> Callable[[], None]:
        """Close a transaction, and make its changes the store's if it's to `commit`.

        Returns what is to be done after the reply.  Raises ENOENT (no such transaction),
        EAGAIN (a conflict).
        """
        transaction = connection.transactions.pop(tx_id, None)
        if transaction is None:
            raise XenError(Errno.ENOENT)
        del self._open[connection.serial, tx_id]
        connection.memory -= transaction.size
        try:
            if not commit or not transaction.changes:
                return _nothing
            if self.state is transaction.base and not transaction.lost:
                return self._commit(connection, transaction.state, transaction.changes)
            replayed = self._replay(connection, transaction, self.state)
            if replayed is None:
                self._blame(connection, transaction)
                raise XenError(Errno.EAGAIN)
            return self._commit(connection, replayed.state, replayed.changes)
        finally:
            self._trim_history()

    def _replay(
        self, connection: Connection, transaction: Transaction, state: State
    ) -> Workspace | None:
        """Do a transaction's requests again; None if one is answered differently now."""
        if transaction.lost:
            return None
        workspace = Workspace(state, self.quota)
        for logged in transaction.log:
            request = Request(self, connection, workspace, logged.payload)
            answer: bytes | Errno
            try:
                answer = OPERATIONS[logged.operation].handler(request)
            except XenError as error:
                answer = error.errno
            if logged.answer != Answer(answer):
                return None
        return workspace

    def can_commit(self, connection: Connection, transaction: Transaction) -> bool:
        """Whether a transaction would be committed if it ended now."""
        if self.state is transaction.base:
            return not transaction.lost
        return self._replay(connection, transaction, self.state) is not None

    def _blame(self, connection: Connection, transaction: Transaction) -> None:
        def possible(state: State) -> bool:
            return self._replay(connection, transaction, state) is not None

        guilty = self.history.blame(
            transaction.sequence, connection.domid, len(transaction.log), possible
        )
        for domid in list(guilty):
            self.credit.punish(domid)

    def _commit(
        self, connection: Connection, state: State, changes: Sequence[Change]
    ) -> Callable[[], None]:
        before, self.state = self.state, state
        self._sequence += 1
        # Only introduced domains can be made to wait, so only they can be to blame.
        if self._open and connection.domid in self.domains:
            self.history.push(Commit(self._sequence, connection.domid, before, state))
        if not len(self.watches):
            return _nothing
        return lambda: self.watches.fire(changes, before.root, state.root)

    def graft(
        self, connection: Connection, trees: Sequence[tuple[Parts, Node]], alter: Alter
    ) -> None:
        """Write a domain's nodes that were another's, or a file's (see `Workspace.graft`)."""
        self._depth += 1
        try:
            workspace = Workspace(self.state, self.quota)
            copies = workspace.graft(trees, alter)
            if self.on_request is not None:
                # To those who follow what is written, they're writes like any other.
                for top, copy in copies:
                    for parts, node in tree.walk(copy, top):
                        payload = join(parts).encode() + b"\0" + node.value
                        message = wire.Message(XS_WRITE, 0, 0, payload)
                        self._report(connection, message, wire.pack(XS_WRITE, 0, 0, b"OK\0"))
            self._commit(connection, workspace.state, workspace.changes)()
        finally:
            self._leave()

    def _trim_history(self) -> None:
        oldest = next(iter(self._open.values()), None)
        self.history.trim(oldest.sequence if oldest is not None else None)

    # -- domains ----------------------------------------------------------------------------
    def introduce(self, domid: int, gfn: int, port: int) -> None:
        """Begin to talk to a domain, or anew with one that is known.

        Raises XenError: EINVAL for a bad port, or what the connector raises.
        """
        if port <= 0:
            raise XenError(Errno.EINVAL)
        self._depth += 1
        try:
            known = self.domains.get(domid)
            if known is not None:
                self.drop_watches_and_transactions(known.connection)
                known.connection.drop_output()
                known.gfn, known.port = gfn, port
                if known.transport is not None:
                    known.transport.rebind(gfn, port)
                return
            connection = self.connect(domid)
            try:
                transport = self.connector(connection, gfn, port) if self.connector else None
            except XenError:
                self.disconnect(connection)
                raise
            self.domains[domid] = IntroducedDomain(connection, gfn, port, transport)
            self.watches.fire_special(INTRODUCE_DOMAIN, domid, self.state.root)
        finally:
            self._leave()

    def release(self, domid: int) -> None:
        """A domain has been destroyed, or is to be forgotten: its nodes go with it."""
        domain = self.domains.pop(domid, None)
        if domain is None:
            return
        self._depth += 1
        try:
            if domain.transport is not None:
                domain.transport.close()
            self.disconnect(domain.connection)
            self.credit.forget(domid)
            for other in self.domains.values():
                # Its number may be given to somebody else.
                if other.connection.who.target == domid:
                    other.connection.who = Who(other.connection.domid)
            workspace = Workspace(self.state, self.quota)
            workspace.forget_domain(domid)
            if workspace.state is not self.state:
                self._commit(domain.connection, workspace.state, workspace.changes)()
            self.watches.fire_special(RELEASE_DOMAIN, domid, self.state.root)
        finally:
            self._leave()

    def shut_down(self, domid: int) -> None:
        """A domain has shut down or crashed: tell of it, once until `resume`."""
        domain = self.domains.get(domid)
        if domain is None or domain.shutdown:
            return
        domain.shutdown = True
        self._depth += 1
        try:
            self.watches.fire_special(RELEASE_DOMAIN, domid, self.state.root)
        finally:
            self._leave()

    def resume(self, domid: int) -> None:
        """A domain that had shut down runs again."""
        self.domains[domid].shutdown = False

    def is_introduced(self, domid: int) -> bool:
        return domid in self.domains

    def set_target(self, domid: int, target: int) -> None:
        """Give a domain the rights of another one, beside its own.  Raises ENOENT."""
        if domid not in self.domains or target not in self.domains:
            raise XenError(Errno.ENOENT)
        self.domains[domid].connection.who = Who(domid, target)

    def listens_to(self, connection: Connection) -> bool:
        """Whether the next request of a connection is to be looked at now."""
        if connection.who.privileged:
            return True
        return connection.unread_replies < self.quota.outstanding and not (
            self.credit.paused(connection.domid)
        )

    def _listen_again(self, domid: int) -> None:
        domain = self.domains.get(domid)
        if domain is not None and domain.transport is not None:
            domain.transport.resume()

    # -- telling transports -----------------------------------------------------------------
    def _mark_dirty(self, connection: Connection) -> None:
        self._dirty[connection] = None

    def _leave(self) -> None:
        """End of a request; the outermost one tells the transports of new output."""
        if self._depth == 1:
            try:
                while self._dirty:
                    connection = next(iter(self._dirty))
                    del self._dirty[connection]
                    if connection.notify is not None:
                        connection.notify()
            finally:
                self._depth -= 1
        else:
            self._depth -= 1

    def log(self, message: str) -> None:
        """A line for the store's log."""
        if self._log is not None:
            self._log(message)

    def _report(self, connection: Connection, message: wire.Message, answer: bytes) -> None:
        reply_type = wire.HEADER.unpack_from(answer)[0]
        reply = answer[wire.HEADER_SIZE :]
        if self.on_request is not None:
            self.on_request(
                connection.domid,
                message.type,
                message.tx_id,
                message.payload,
                reply_type,
                reply,
                connection.serial,
            )
        if self.log_requests:
            outcome = reply.rstrip(b"\0").decode() if reply_type == XS_ERROR else "OK"
            self.log(f"D{connection.domid} {message.type} {message.payload!r}: {outcome}")


def _nothing() -> None:
    """What follows from a change that nobody watches."""
