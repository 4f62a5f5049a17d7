# SPDX-License-Identifier: GPL-2.0-or-later
"""The store's state as plain data, apart from its transports.

Kept are the tree, the introduced domains with their watches, transactions and unread messages,
and the accounts of fairness.  Not kept are the connections of programs: they have to come
again, as after a restart of the daemon; the rings' own part is `ring.RingRecord`.
"""

from __future__ import annotations

import msgspec

from xenograft.abi.errno import Errno, XenError
from xenograft.store import tree
from xenograft.store.alias import Alias, renumbered
from xenograft.store.connection import Connection
from xenograft.store.operations import OPERATIONS, Request
from xenograft.store.path import base_path, split
from xenograft.store.perms import Perms, Who
from xenograft.store.quota import Quota
from xenograft.store.service import Xenstore
from xenograft.store.transaction import Transaction
from xenograft.store.tree import Node
from xenograft.store.watches import Watch
from xenograft.store.workspace import State


class NodeRecord(msgspec.Struct, frozen=True, array_like=True):
    """A node; `perms` as (domid, access) entries, the owner's first."""

    path: str
    value: bytes
    perms: tuple[tuple[int, int], ...]
    generation: int


class WatchRecord(msgspec.Struct, frozen=True, array_like=True):
    """A watch, as `watches.Watch`."""

    path: str
    token: bytes
    base: str
    depth: int | None
    shown: str | None = None


class TransactionRecord(msgspec.Struct, frozen=True, array_like=True):
    """An open transaction: its requests, as (operation, payload).

    It is done again on the state that is restored.  If that is answered differently, because
    others had changed the store meanwhile, the transaction is `lost`: it'll meet a conflict.
    """

    tx_id: int
    requests: tuple[tuple[int, bytes], ...]
    lost: bool


class DomainRecord(msgspec.Struct, frozen=True):
    """An introduced domain and its connection."""

    domid: int
    gfn: int
    port: int
    shutdown: bool
    target: int | None
    next_tx_id: int
    watches: tuple[WatchRecord, ...]
    transactions: tuple[TransactionRecord, ...]
    unread: tuple[tuple[bytes, bool], ...]
    alias: Alias | None = None


class StoreRecord(msgspec.Struct, frozen=True):
    """The whole store."""

    nodes: tuple[NodeRecord, ...]
    generation: int
    quota: Quota
    domains: tuple[DomainRecord, ...]
    credit: tuple[tuple[int, int], ...]


def save(store: Xenstore) -> StoreRecord:
    """The state of a store that is at rest (no request under way)."""
    return StoreRecord(
        nodes=tuple(_save_node(parts, node) for parts, node in tree.walk(store.state.root)),
        generation=store.state.generation,
        quota=msgspec.structs.replace(store.quota),
        domains=tuple(save_domain(store, domid) for domid in sorted(store.domains)),
        credit=store.credit.save(),
    )


def restore(store: Xenstore, record: StoreRecord) -> None:
    """Make a fresh store what `record` says.

    Transports are made by the store's connector; their own state is restored by their owner.
    Raises ValueError for a store that has been used, XenError as the connector does.
    """
    if store.domains or store.state.generation or store.connections:
        raise ValueError("only a fresh store can be restored")
    store.state = _restore_tree(record)
    for field in Quota.__struct_fields__:
        setattr(store.quota, field, getattr(record.quota, field))
    for domain in record.domains:
        store.introduce(domain.domid, domain.gfn, domain.port)
    for domain in record.domains:
        restore_domain(store, domain)
    store.credit.restore(record.credit)


def _save_node(parts: tuple[str, ...], node: Node) -> NodeRecord:
    return NodeRecord("/" + "/".join(parts), node.value, node.perms.entries(), node.generation)


def _restore_tree(record: StoreRecord) -> State:
    """Rebuild the tree; a parent is listed before its children."""
    root: Node | None = None
    owned: dict[int, int] = {}
    for saved in record.nodes:
        (owner, other), *acl = saved.perms
        node = Node(saved.value, Perms(owner, other, tuple(acl)), generation=saved.generation)
        root = node if root is None else tree.put(root, split(saved.path), node)
        owned[owner] = owned.get(owner, 0) + 1
    if root is None:
        raise ValueError("a store has a root")
    return State(root, owned, record.generation)


def save_domain(store: Xenstore, domid: int) -> DomainRecord:
    """What there is of one introduced domain's, beside its nodes."""
    domain = store.domains[domid]
    connection = domain.connection
    return DomainRecord(
        domid=domid,
        gfn=domain.gfn,
        port=domain.port,
        shutdown=domain.shutdown,
        target=connection.who.target,
        next_tx_id=connection.next_tx_id,
        watches=tuple(
            WatchRecord(w.path, w.token, w.base, w.depth, w.shown)
            for w in connection.watches.values()
        ),
        transactions=tuple(
            _save_transaction(store, connection, tx_id, transaction)
            for tx_id, transaction in connection.transactions.items()
        ),
        unread=connection.pending_output(),
        alias=connection.alias,
    )


def _save_transaction(
    store: Xenstore, connection: Connection, tx_id: int, transaction: Transaction
) -> TransactionRecord:
    requests = tuple((logged.operation, logged.payload) for logged in transaction.log)
    lost = not store.can_commit(connection, transaction)
    return TransactionRecord(tx_id, requests, lost)


def moved(record: DomainRecord, domid: int) -> DomainRecord:
    """The record of a domain that goes on under the number `domid`, believing to have its old one.

    It has none of the rights of a target, whose number means somebody else by now, and its open
    transactions, whose changes aren't in the tree, meet a conflict.  Raises ValueError if a
    record's paths can't be.
    """
    old, home = record.domid, base_path(domid) + "/"
    alias = Alias(old, ()) if record.alias is None else record.alias

    def watch(one: WatchRecord) -> WatchRecord:
        path = renumbered(one.path, old, domid)
        shown = one.path if one.shown is None and path != one.path else one.shown
        if one.base:
            return WatchRecord(path, one.token, home, one.depth)
        return WatchRecord(path, one.token, "", one.depth, shown)

    return msgspec.structs.replace(
        record,
        domid=domid,
        target=None,
        watches=tuple(watch(one) for one in record.watches),
        transactions=tuple(msgspec.structs.replace(one, lost=True) for one in record.transactions),
        alias=alias.next(domid),
    )


def restore_domain(store: Xenstore, record: DomainRecord) -> None:
    """Give an introduced domain its watches, transactions and messages.  Raises XenError."""
    domain = store.domains[record.domid]
    connection = domain.connection
    domain.shutdown = record.shutdown
    connection.alias = record.alias
    if record.target is not None:
        connection.who = Who(record.domid, record.target)
    for saved in record.watches:
        store.add_watch(
            Watch(connection, saved.path, saved.token, saved.base, saved.depth, saved.shown)
        )
    for transaction in record.transactions:
        _restore_transaction(store, connection, transaction)
    connection.next_tx_id = record.next_tx_id
    connection.drop_output()
    for message, is_event in record.unread:
        connection.restore_output(message, is_event)


def _restore_transaction(
    store: Xenstore, connection: Connection, record: TransactionRecord
) -> None:
    if not 0 < record.tx_id < 1 << 32 or record.tx_id in connection.transactions:
        raise XenError(Errno.EINVAL)
    connection.next_tx_id = record.tx_id
    store.start_transaction(connection)
    transaction = connection.transactions[record.tx_id]
    for operation, payload in record.requests:
        if operation not in OPERATIONS or not OPERATIONS[operation].replayed:
            raise XenError(Errno.EINVAL)
        request = Request(store, connection, transaction, payload, record.tx_id)
        answer: bytes | Errno
        try:
            answer = OPERATIONS[operation].handler(request)
        except XenError as error:
            answer = error.errno
        connection.memory += transaction.remember(operation, payload, answer)
    transaction.lost = record.lost
