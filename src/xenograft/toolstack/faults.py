# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults that a test injects into a guest's world: grants, events, disks, networks, life.

Everything is counted in requests, events and the machine's time, never in the host's, so that a
fault on the virtual clock strikes at the same place each time.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Container
from contextlib import AbstractContextManager, suppress
from itertools import count as counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from xenograft.abi.errno import XenError
from xenograft.abi.grant_table import GNTST_NAMES, GNTST_okay
from xenograft.toolstack.config.disk import device_number
from xenograft.toolstack.errors import UserError, unknown

if TYPE_CHECKING:
    from xenograft.backends.block.device import BlockDevice
    from xenograft.backends.net.packet import Packet
    from xenograft.backends.net.vif import VifDevice
    from xenograft.backends.xenbus.device import XenbusDevice
    from xenograft.toolstack.machine import Domain

SECTOR = 512

Direction = Literal["to", "from", "both"]
"""Seen from the guest."""


class Fault(AbstractContextManager["Fault"]):
    """A fault that is armed until `cancel`; as a context manager, until the block's end."""

    def __init__(self, what: str, nth: int, count: int | None) -> None:
        if nth < 1 or (count is not None and count < 1):
            raise UserError(f"{what}: nth and count begin at 1")
        self.what = what
        self.seen = 0
        """How often it was asked: requests, events or maps that it is about."""
        self.hits = 0
        """How often it has struck."""
        self.lost: list[Callable[[], None]] = []
        """What `deliver` does to make up for it."""
        self._first = nth
        self._count = count
        self._undo: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<Fault {self.what}: {self.hits} of {self.seen}>"

    def strikes(self) -> bool:
        """Count one more; whether it is one that goes wrong."""
        self.seen += 1
        hit = self.seen >= self._first and (
            self._count is None or self.seen < self._first + self._count
        )
        self.hits += hit
        return hit

    @property
    def is_armed(self) -> bool:
        return self._undo is not None

    def arm(self, undo: Callable[[], None]) -> Fault:
        """For who has made it: what `cancel` has to do."""
        self._undo = undo
        return self

    def cancel(self) -> None:
        """All is well from now on; a second time does nothing."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()

    def deliver(self) -> int:
        """Cancel it, and let what was lost arrive late; returns how many those were."""
        self.cancel()
        lost, self.lost = self.lost, []
        for send in lost:
            # A channel or domain that has gone meanwhile misses nothing.
            with suppress(XenError, KeyError):
                send()
        return len(lost)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()


class Faults:
    """What can go wrong for one guest.

    `nth` is the first that is struck (1: the next one), `count` how many in a row (None: all
    from there on).
    """

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._machine = domain.machine
        self._points = domain.machine.hypervisor.faults
        self._faults: list[Fault] = []

    @property
    def armed(self) -> bool:
        """Whether anything may go wrong."""
        return any(fault.is_armed for fault in self._faults)

    def clear(self) -> None:
        """Cancel all that is armed."""
        for fault in self._faults:
            fault.cancel()
        self._faults.clear()

    def _arm(self, fault: Fault, undo: Callable[[], None]) -> Fault:
        self._faults.append(fault)
        return fault.arm(undo)

    # -- grants ------------------------------------------------------------------------------
    def fail_grant_map(
        self,
        nth: int = 1,
        *,
        status: int | str = "general_error",
        count: int | None = 1,
        ref: int | None = None,
    ) -> Fault:
        """Have the nth map of a grant fail that the guest has made, or that it maps itself.

        `status`: a GNTST_* of public/grant_table.h, by number or name ("bad_page").  Back ends in
        domain 0 map by the same operations, and are hit as well.
        """
        fault = Fault("fail_grant_map", nth, count)
        return self._arm_grant(fault, self._points.add_grant_map, status, ref)

    def fail_grant_copy(
        self,
        nth: int = 1,
        *,
        status: int | str = "general_error",
        count: int | None = 1,
        ref: int | None = None,
    ) -> Fault:
        """The same for copies from and to grants, as network interfaces do them."""
        fault = Fault("fail_grant_copy", nth, count)
        return self._arm_grant(fault, self._points.add_grant_copy, status, ref)

    def _arm_grant(
        self,
        fault: Fault,
        add: Callable[[Callable[[int, int, int], int]], None],
        status: int | str,
        ref: int | None,
    ) -> Fault:
        domid, failure = self._domain.domid, _grant_status(status)

        def decide(caller: int, granter: int, which: int) -> int:
            if domid not in (caller, granter) or ref not in (None, which):
                return GNTST_okay
            return failure if fault.strikes() else GNTST_okay

        add(decide)
        return self._arm(fault, lambda: self._points.remove(decide))

    # -- events ------------------------------------------------------------------------------
    def lose_event(
        self,
        nth: int = 1,
        *,
        count: int | None = 1,
        device: str | None = None,
        port: int | None = None,
        direction: Direction = "both",
    ) -> Fault:
        """Have the nth event to or from the guest get lost: of a device ("xvda", "vif0"), of one
        of the guest's own ports, or of all its channels to other domains.

        `Fault.deliver` sends what was lost after all.
        """
        fault = Fault("lose_event", nth, count)
        domains = self._machine.hypervisor.domains
        domid = self._domain.domid
        found = None if device is None else self._device(device)

        def matches(ours: int) -> bool:
            if found is not None and all(one.remote_port != ours for one in found.channels()):
                return False
            return port in (None, ours)

        def decide(sender: int, sent: int, receiver: int, received: int) -> bool:
            leaves = direction != "to" and sender == domid and matches(sent)
            comes = direction != "from" and receiver == domid and matches(received)
            if not (leaves or comes) or not fault.strikes():
                return False
            fault.lost.append(lambda: domains[sender].events.send(sent))
            return True

        self._points.add_event(decide)
        return self._arm(fault, lambda: self._points.remove(decide))

    # -- devices -----------------------------------------------------------------------------
    def _device(self, name: str) -> XenbusDevice:
        """A device that domain 0 serves to the guest.  Raises UserError."""
        kind, number = _device_name(name)
        found = self._machine.services.buses[kind].find(self._domain.domid, number)
        if found is None:
            raise UserError(f"{self._domain.name} has no device {name!r} that domain 0 serves")
        return found

    def delay(self, device: str, ms: float) -> Fault:
        """A disk ("xvda") answers that many ms later; packets reach an interface ("vif0") later."""
        if not 0 < ms <= 3_600_000:
            raise UserError(f"delay: {ms} ms; it can be up to an hour")
        found = self._device(device)
        found.delay_ns = round(ms * 1e6)

        def undo() -> None:
            found.delay_ns = 0

        return self._arm(Fault("delay", 1, None), undo)

    def fail_disk(
        self,
        device: str = "xvda",
        nth: int = 1,
        *,
        count: int | None = None,
        sectors: Container[int] | None = None,
        operations: Container[str] = ("read", "write"),
        error: int = errno.EIO,
    ) -> Fault:
        """Have a disk's requests fail: those from the nth on, those that touch `sectors`.

        `sectors`: of 512 bytes, a range or a set; `operations`: of "read", "write", "flush",
        "discard".  The guest sees BLKIF_RSP_ERROR; `error` is for the log.
        """
        from xenograft.backends.block.images.faulty import FaultyImage

        disk: BlockDevice | Any = self._device(device)
        if disk.kind != "vbd" or disk.image is None:
            raise UserError(f"fail_disk: {device!r} is no disk with a medium")
        fault = Fault("fail_disk", nth, count)

        def decide(operation: str, offset: int, size: int) -> int:
            if operation not in operations:
                return 0
            if sectors is not None:
                first, last = offset // SECTOR, -(-(offset + size) // SECTOR)
                if not any(sector in sectors for sector in range(first, last)):
                    return 0
            return error if fault.strikes() else 0

        faulty = disk.image = FaultyImage(disk.image, decide)

        def undo() -> None:
            # Others may have come on top of it, or another medium into the drive.
            faulty.decide = _never
            if disk.image is faulty:
                disk.image = faulty.image

        return self._arm(fault, undo)

    def lose_packets(
        self,
        device: str = "vif0",
        nth: int = 1,
        *,
        count: int | None = 1,
        every: int = 1,
        direction: Direction = "both",
    ) -> Fault:
        """Have packets of a network interface get lost: from the nth on, each `every`-th."""
        vif: VifDevice | Any = self._device(device)
        if vif.kind != "vif":
            raise UserError(f"lose_packets: {device!r} is no network interface")
        if every < 1:
            raise UserError("lose_packets: every begins at 1")
        fault = Fault("lose_packets", 1, count)
        numbers = counter(1)
        previous = vif.port.lose

        def lose(packet: Packet, to_guest: bool) -> bool:
            if previous is not None and previous(packet, to_guest):
                return True
            if direction == ("from" if to_guest else "to"):
                return False
            number = next(numbers)
            return number >= nth and (number - nth) % every == 0 and fault.strikes()

        vif.port.lose = lose

        def undo() -> None:
            vif.port.lose = previous

        return self._arm(fault, undo)

    # -- life --------------------------------------------------------------------------------
    def kill(self, after_ms: float = 0.0) -> Fault:
        """Destroy the guest at once, or in so many ms of the machine's time."""
        fault = Fault("kill", 1, 1)
        if not after_ms:
            fault.strikes()
            self._domain.destroy()
            return fault
        hypervisor = self._machine.hypervisor

        def strike() -> None:
            fault.strikes()
            # Not here: the machine may be in the middle of something that is the guest's.
            self._machine.post(self._domain.destroy)

        timer = hypervisor.timers.add(hypervisor.clock.now() + round(after_ms * 1e6), strike)
        return self._arm(fault, lambda: hypervisor.timers.cancel(timer))


def _never(operation: str, offset: int, size: int) -> int:
    return 0


def _grant_status(status: int | str) -> int:
    """A GNTST_* by number or name.  Raises UserError."""
    names = {name.removeprefix("GNTST_"): number for number, name in GNTST_NAMES.items()}
    if isinstance(status, str):
        if status.removeprefix("GNTST_") not in names:
            raise UserError(unknown("grant status", status, names))
        status = names[status.removeprefix("GNTST_")]
    if status not in names.values() or status == GNTST_okay:
        raise UserError(f"{status} is no GNTST_* that says what went wrong")
    return status


def _device_name(name: str) -> tuple[str, int]:
    """(kind, number) of "xvda", "vif0", or a path's end such as "vbd/51712".  Raises UserError."""
    kind, _, number = name.partition("/")
    if number.isdigit() and kind in ("vbd", "vif"):
        return kind, int(number)
    if name.startswith("vif") and name[3:].isdigit():
        return "vif", int(name[3:])
    try:
        return "vbd", device_number(name)
    except (UserError, ValueError):
        raise UserError(f"{name!r} is no device: say xvda or vif0") from None
