# SPDX-License-Identifier: GPL-2.0-or-later
"""CONTROL: what ``xenstore-control`` can ask and set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.store import tree
from xenograft.store.quota import QUOTA_NAMES

if TYPE_CHECKING:
    from xenograft.store.service import Xenstore

_OK = "OK"

_LISTED = 4000
"""Characters of a list: a reply has room for 4096 bytes."""


def control(store: Xenstore, command: bytes, arguments: Sequence[bytes]) -> bytes:
    """Do a control command; its answer, ended by a NUL.

    Raises EINVAL for an unknown command or bad arguments.
    """
    found = COMMANDS.get(command.decode("ascii", "replace"))
    if found is None:
        raise XenError(Errno.EINVAL)
    words = [argument.decode("ascii", "replace") for argument in arguments]
    return found[0](store, words).encode() + b"\0"


def _check(store: Xenstore, words: Sequence[str]) -> str:
    """Count all nodes' owners anew and compare."""
    counted: dict[int, int] = {}
    for _, node in tree.walk(store.state.root):
        counted[node.perms.owner] = counted.get(node.perms.owner, 0) + 1
    return _OK if counted == dict(store.state.owned) else "node counts differ"


def _log(store: Xenstore, words: Sequence[str]) -> str:
    if list(words) not in (["on"], ["off"]):
        raise XenError(Errno.EINVAL)
    store.log_requests = words[0] == "on"
    return _OK


def _memreport(store: Xenstore, words: Sequence[str]) -> str:
    if words:
        # A file of the host's, named by a client, isn't ours to write.
        raise XenError(Errno.EINVAL)
    nodes = sum(store.state.owned.values())
    lines = [
        f"nodes: {nodes}",
        f"connections: {len(store.connections)}",
        f"watches: {len(store.watches)}",
        f"transactions: {sum(len(c.transactions) for c in store.connections.values())}",
        f"unread bytes: {sum(c.output_bytes for c in store.connections.values())}",
    ]
    return "\n".join(lines) + "\n"


def _print(store: Xenstore, words: Sequence[str]) -> str:
    if len(words) != 1:
        raise XenError(Errno.EINVAL)
    store.log(words[0])
    return _OK


def _quota(store: Xenstore, words: Sequence[str]) -> str:
    match list(words):
        case []:
            values = ((name, getattr(store.quota, field)) for name, field in QUOTA_NAMES.items())
            return "Quota settings:\n" + "".join(
                f"{name:17}: {value:8}\n" for name, value in values
            )
        case ["set", name, value] if name in QUOTA_NAMES and _is_number(value):
            setattr(store.quota, QUOTA_NAMES[name], int(value))
            return _OK
        case [domid] if _is_number(domid):
            return _usage(store, int(domid))
    raise XenError(Errno.EINVAL)


def _usage(store: Xenstore, domid: int) -> str:
    own = [c for c in store.connections.values() if c.domid == domid]
    lines = {
        "nodes": store.state.owned.get(domid, 0),
        "watches": sum(len(c.watches) for c in own),
        "transactions": sum(len(c.transactions) for c in own),
        "outstanding": sum(c.unread_replies for c in own),
        "memory": sum(c.memory + c.output_bytes for c in own),
    }
    return f"Domain {domid}:\n" + "".join(f"{n:20}: {v:8}\n" for n, v in lines.items())


def _watches(store: Xenstore, words: Sequence[str]) -> str:
    text, watches = "", list(store.watches)
    for number, watch in enumerate(watches):
        token = watch.token.decode("ascii", "backslashreplace")
        line = f"watch D{watch.connection.domid}: {watch.path} {token}\n"
        if len(text) + len(line) > _LISTED:
            return f"{text}and {len(watches) - number} more\n"
        text += line
    return text


def _help(store: Xenstore, words: Sequence[str]) -> str:
    return "".join(f"{name:16}{usage}\n" for name, (_, usage) in COMMANDS.items())


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) <= 9


COMMANDS: dict[str, tuple[Callable[[Xenstore, Sequence[str]], str], str]] = {
    "check": (_check, ""),
    "log": (_log, "on|off"),
    "memreport": (_memreport, ""),
    "print": (_print, "<string>"),
    "quota": (_quota, "[set <name> <val>|<domid>]"),
    "watches": (_watches, ""),
    "help": (_help, ""),
}
"""Command to (function, usage)."""
