# SPDX-License-Identifier: GPL-2.0-or-later
"""Hypercalls for people: names, sub-operations, arguments with the structures behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xenograft.abi.errno import XenError
from xenograft.abi.struct import Struct
from xenograft.abi.xen import CONSOLEIO_write
from xenograft.observe import show
from xenograft.observe.families import Family, families

if TYPE_CHECKING:
    from xenograft.hypervisor.hypercalls.table import Hypercall
    from xenograft.hypervisor.hypervisor import Hypervisor

Read = Callable[[int, int], bytes | None]
"""`read(address, size)` of the caller's memory; None where there is none."""

MAX_STRUCTS = 4
"""How many structures of an array are read."""
MAX_TEXT = 64
"""How many bytes of console output are shown."""


@dataclass(slots=True)
class Decoded:
    """A hypercall: its name, its sub-operation's, its arguments as (name, text)."""

    name: str
    op: str | None = None
    arguments: list[tuple[str, str]] = field(default_factory=list)
    structs: list[Struct] = field(default_factory=list)
    """The structures that were read, in order."""

    @property
    def full_name(self) -> str:
        """``event_channel_op.EVTCHNOP_send``."""
        return self.name if self.op is None else f"{self.name}.{self.op}"

    def text(self) -> str:
        """``event_channel_op(EVTCHNOP_send, {port=3})``."""
        return f"{self.name}({', '.join(text for _, text in self.arguments)})"


def nothing(address: int, size: int) -> bytes | None:
    """Memory of nobody."""
    return None


class Decoder:
    """Decodes hypercalls of one machine's guests."""

    def __init__(self, hypervisor: Hypervisor | None = None) -> None:
        from xenograft.hypervisor.hypercalls.table import HYPERCALLS

        self._rows: dict[int, Hypercall] = HYPERCALLS
        self._families = {
            number: families()[row.name]
            for number, row in HYPERCALLS.items()
            if row.name in families()
        }
        self._hypervisor = hypervisor
        self._names: dict[tuple[int, int], tuple[str, str | None]] = {}

    # -- names alone: no memory is read ------------------------------------------------------
    def names(self, number: int, args: tuple[int, ...]) -> tuple[str, str | None]:
        """(hypercall, sub-operation or None)."""
        family = self._families.get(number)
        if family is None or family.cmd is None:
            row = self._rows.get(number)
            return (f"hypercall_{number}" if row is None else row.name), None
        key = (number, args[family.cmd] & family.mask)
        found = self._names.get(key)
        if found is None:
            found = self._rows[number].name, self._op_name(family, key[1])
            # A guest may try any number: what isn't an operation is not worth keeping.
            if key[1] in family.operations:
                self._names[key] = found
        return found

    def full_name(self, number: int, args: tuple[int, ...]) -> str:
        """``event_channel_op.EVTCHNOP_send``; there are finitely many: what's unknown is "?"."""
        if number not in self._rows:
            return "?"
        name, op = self.names(number, args)
        if op is None:
            return name
        return f"{name}.{op}" if op[0].isalpha() else f"{name}.?"

    @staticmethod
    def _op_name(family: Family, cmd: int) -> str:
        operation = family.operations.get(cmd)
        return show.word("uint", cmd) if operation is None else operation.name

    # -- all of it -----------------------------------------------------------------------------
    def reader(self, domid: int, vcpu: int) -> Read:
        """The memory of a vCPU as its own pointers reach it."""
        hypervisor = self._hypervisor
        domain = None if hypervisor is None else hypervisor.domains.get(domid)
        if domain is None or not 0 <= vcpu < len(domain.vcpus):
            return nothing
        call = domain.vcpus[vcpu].call
        if call is None or domain.vcpus[vcpu].cpu is None:
            return nothing
        memory = call.memory

        def read(address: int, size: int) -> bytes | None:
            try:
                return memory.read(address, size)
            except XenError:
                return None

        return read

    def decode(self, number: int, args: tuple[int, ...], bits: int, read: Read) -> Decoded:
        """Everything that can be said about a call. Never raises for what a guest says."""
        row = self._rows.get(number)
        if row is None:
            words = [(f"arg{i + 1}", show.word("ulong", word)) for i, word in enumerate(args[:5])]
            return Decoded(f"hypercall_{number}", None, words)
        declared = row.args32 if bits == 32 and row.args32 is not None else row.args
        decoded = Decoded(row.name)
        family = self._families.get(number)
        for index, declaration in enumerate(declared):
            name, _, kind = declaration.partition(":")
            if family is None:
                decoded.arguments.append((name, show.word(kind, args[index], bits)))
            else:
                self._argument(decoded, family, index, name, kind, args, bits, read)
        return decoded

    def _argument(
        self,
        decoded: Decoded,
        family: Family,
        index: int,
        name: str,
        kind: str,
        args: tuple[int, ...],
        bits: int,
        read: Read,
    ) -> None:
        word = args[index] & (1 << bits) - 1
        out = decoded.arguments
        if index == family.cmd:
            decoded.op = self._op_name(family, word & family.mask)
            out.append((name, decoded.op))
            return
        operation = None
        if family.cmd is not None:
            operation = family.operations.get(args[family.cmd] & family.mask)
        if index == family.arg:
            argument = family.argument if operation is None else operation.argument
            if argument is None:
                # An operation that takes nothing: what is in the register has no meaning.
                if operation is None:
                    out.append((name, show.word(kind, word, bits)))
                return
            count = None if family.length is None else args[family.length] & 0xFFFFFFFF
            text = self._pointer(decoded, argument, word, count, bits, read)
            if family.tag is not None and decoded.structs:
                tag: int = getattr(decoded.structs[0], family.tag)
                decoded.op = self._op_name(family, tag)
                out.append((family.tag, decoded.op))
            out.append((name, text))
            return
        if decoded.name == "console_io" and name == "buffer":
            out.append((name, self._text(args, word, read)))
            return
        out.append((name, show.word(kind, word, bits)))

    @staticmethod
    def _pointer(
        decoded: Decoded, cls: type[Struct], address: int, count: int | None, bits: int, read: Read
    ) -> str:
        if address == 0:
            return "NULL"
        size = cls.sizeof(bits)
        wanted = 1 if count is None else min(count, MAX_STRUCTS)
        shown: list[str] = []
        for index in range(wanted):
            data = read(address + index * size, size)
            if data is None or len(data) < size:
                break
            value = cls.unpack(data, bits)
            decoded.structs.append(value)
            shown.append(show.braces(value))
        if len(shown) < wanted:
            return show.word("handle", address, bits)
        if count is None:
            return shown[0]
        if count > wanted:
            shown.append(f"... {count}")
        return "[" + ", ".join(shown) + "]"

    @staticmethod
    def _text(args: tuple[int, ...], address: int, read: Read) -> str:
        if args[0] & 0xFFFFFFFF != CONSOLEIO_write:
            return show.word("handle", address)
        length = args[1] & 0xFFFFFFFF
        data = read(address, min(length, MAX_TEXT))
        if data is None:
            return show.word("handle", address)
        text = data.decode("utf-8", "backslashreplace")
        quoted = text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
        return f'"{quoted}"' + ("..." if length > MAX_TEXT else "")


@dataclass(slots=True)
class OpenCall:
    """A hypercall that has begun."""

    time: int
    bits: int
    number: int
    args: tuple[int, ...]
    data: Any = None
    """Of the listener."""


_MULTICALL = 13


class CallTracker:
    """Pairs the begin and end of hypercalls, also nested (multicall) and continued ones.

    A call that is continued begins several times and ends once: its earlier beginnings are
    reported to `call_continued`.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], list[OpenCall]] = {}

    def hypercall_enter(
        self, time: int, domid: int, vcpu: int, bits: int, number: int, args: tuple[int, ...]
    ) -> None:
        stack = self._open.setdefault((domid, vcpu), [])
        # Only a multicall holds another call; anything else that didn't end is continued.
        while stack and (stack[-1].number != _MULTICALL or number == _MULTICALL):
            self.call_continued(time, domid, vcpu, stack.pop())
        call = OpenCall(time, bits, number, args)
        stack.append(call)
        self.call_begins(time, domid, vcpu, call)

    def hypercall_exit(
        self, time: int, domid: int, vcpu: int, number: int, args: tuple[int, ...], result: int
    ) -> None:
        stack = self._open.get((domid, vcpu), [])
        while stack:
            call = stack.pop()
            if call.number == number:
                self.call_ends(time, domid, vcpu, call, result)
                return
            self.call_continued(time, domid, vcpu, call)
        # It began before anybody listened.
        self.call_ends(time, domid, vcpu, OpenCall(time, 64, number, args), result)

    def call_begins(self, time: int, domid: int, vcpu: int, call: OpenCall) -> None:
        """A call begins; keep what is wanted later in `call.data`."""

    def call_continued(self, time: int, domid: int, vcpu: int, call: OpenCall) -> None:
        """A call made way and goes on (or went on) as another one."""

    def call_ends(self, time: int, domid: int, vcpu: int, call: OpenCall, result: int) -> None:
        """A call ends."""
