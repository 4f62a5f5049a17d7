# SPDX-License-Identifier: GPL-2.0-or-later
"""Bills: what domains have used between two readings, times the prices in a file (TOML)::

    currency = "EUR"
    cpu_hour = "0.04"          # an hour of CPU time
    gib_hour = "0.005"         # a GiB of memory for an hour
    disk_gib = "0.01"          # a GiB read or written
    net_gib = "0.05"           # a GiB sent or received

Amounts are exact; only what is shown is rounded.
"""

from __future__ import annotations

import tomllib
import uuid as uuids
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from xenograft.hypervisor.metering import Reading, Usage
from xenograft.toolstack.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from xenograft.backends.xenbus.device import XenbusDevice
    from xenograft.toolstack.services import Services

_HOUR_NS = 3600 * 10**9
_GIB = 1 << 30
_ITEMS = ("cpu_hour", "gib_hour", "disk_gib", "net_gib")


class Prices(msgspec.Struct, frozen=True):
    """What things cost, in `currency`."""

    currency: str = "EUR"
    cpu_hour: Fraction = Fraction(0)
    gib_hour: Fraction = Fraction(0)
    disk_gib: Fraction = Fraction(0)
    net_gib: Fraction = Fraction(0)


class Line(msgspec.Struct, frozen=True):
    """One domain's bill for a period."""

    name: str
    uuid: str
    cpu_ns: int
    page_ns: int
    gib_hours: Fraction
    disk_bytes: int
    net_bytes: int
    amount: Fraction


def parse_prices(text: str, source: str) -> Prices:
    """A price list. Raises UserError, a line."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{source}: {error}") from None
    found: dict[str, Fraction] = {}
    for key, value in values.items():
        if key == "currency":
            continue
        if key not in _ITEMS:
            raise UserError(f"{source}: {key[:40]} has no price; known are {', '.join(_ITEMS)}")
        try:
            if isinstance(value, bool) or not isinstance(value, (str, int, float)):
                raise InvalidOperation
            price = Decimal(str(value))
            if not price.is_finite() or price < 0:
                raise InvalidOperation
        except InvalidOperation:
            raise UserError(f"{source}: {key}: {value!r} isn't a price") from None
        found[key] = Fraction(price)
    currency = values.get("currency", "EUR")
    if not isinstance(currency, str) or not 1 <= len(currency) <= 8:
        raise UserError(f"{source}: currency: a short text such as EUR is expected")
    return Prices(currency, **found)


def read_prices(file: str) -> Prices:
    """A price list in a file. Raises UserError."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: it isn't text in UTF-8") from None
    return parse_prices(text, file)


class Bill(msgspec.Struct, frozen=True):
    """What was used in a period; CPU time is all accounted for."""

    period_ns: int
    elapsed_ns: int
    """The period on all CPUs together."""
    idle_ns: int
    lines: tuple[Line, ...]


def bill(start: Reading | None, end: Reading, prices: Prices) -> Bill:
    """What each domain owes for the time from one reading to another (None: from the start)."""
    before = {} if start is None else {one.uuid: one for one in start.domains}
    return Bill(
        end.time - (0 if start is None else start.time),
        end.elapsed_ns - (0 if start is None else start.elapsed_ns),
        end.idle_ns - (0 if start is None else start.idle_ns),
        tuple(
            _line(one if one.uuid not in before else one - before[one.uuid], prices)
            for one in end.domains
        ),
    )


def _line(used: Usage, prices: Prices) -> Line:
    gib_hours = Fraction(used.page_ns * 4096, _GIB * _HOUR_NS)
    disk, net = used.counters.get("disk", 0), used.counters.get("net", 0)
    amount = (
        Fraction(used.cpu_ns, _HOUR_NS) * prices.cpu_hour
        + gib_hours * prices.gib_hour
        + Fraction(disk, _GIB) * prices.disk_gib
        + Fraction(net, _GIB) * prices.net_gib
    )
    handle = str(uuids.UUID(bytes=used.uuid))
    return Line(used.name, handle, used.cpu_ns, used.page_ns, gib_hours, disk, net, amount)


def show(lines: list[Line], bill: Bill, prices: Prices) -> list[str]:
    """The bill as a table; the last lines account for all CPU time."""
    out = [
        f"{'Name':<24} {'CPU(s)':>20} {'GiB hours':>12} {'Disk(MiB)':>12} {'Net(MiB)':>12}"
        f" {prices.currency:>12}"
    ]
    out += [
        f"{one.name:<24} {_seconds(one.cpu_ns):>20} {float(one.gib_hours):>12.6f}"
        f" {one.disk_bytes / (1 << 20):>12.2f} {one.net_bytes / (1 << 20):>12.2f}"
        f" {float(one.amount):>12.6f}"
        for one in lines
    ]
    if len(lines) == len(bill.lines):
        total = float(sum(one.amount for one in lines))
        out.append(f"{'(idle)':<24} {_seconds(bill.idle_ns):>20}")
        out.append(f"{'(all CPUs)':<24} {_seconds(bill.elapsed_ns):>20}{'':39} {total:>12.6f}")
    return out


def as_json(lines: list[Line], bill: Bill, prices: Prices) -> list[dict[str, Any]]:
    """The bill for programs: an array of domains; amounts are decimals as text."""
    return [
        {
            "name": one.name,
            "uuid": one.uuid,
            "cpu_ns": one.cpu_ns,
            "page_ns": one.page_ns,
            "disk_bytes": one.disk_bytes,
            "net_bytes": one.net_bytes,
            "amount": _decimal(one.amount),
            "currency": prices.currency,
            "period_ns": bill.period_ns,
        }
        for one in lines
    ]


def mark_lines(marks: dict[str, int]) -> list[str]:
    """The marks, with the machine's times."""
    return [f"{'Mark':<24} {'Time(s)':>20}"] + [
        f"{name:<24} {_seconds(time):>20}" for name, time in marks.items()
    ]


def _decimal(amount: Fraction) -> str:
    """To a millionth of a millionth."""
    whole, rest = divmod(round(amount * 10**12), 10**12)
    return f"{whole}.{rest:012}"


def _seconds(ns: int) -> str:
    whole, rest = divmod(ns, 10**9)
    return f"{whole}.{rest:09}"


def attach(services: Services) -> None:
    """Have the machine's meter count what disks and network cards have moved."""
    meter = services.hypervisor.meter

    def watch(name: str, kind: str, moved: Callable[[XenbusDevice], int]) -> None:
        bus = services.buses[kind]
        meter.sources[name] = lambda domid: sum(moved(one) for one in bus.of_domain(domid))
        bus.on_gone = lambda device: meter.deposit(device.domid, name, moved(device))

    watch("disk", "vbd", _disk_bytes)
    watch("net", "vif", _net_bytes)


def _disk_bytes(device: XenbusDevice) -> int:
    from xenograft.backends.block.device import BlockDevice

    assert isinstance(device, BlockDevice)
    return 512 * (device.metrics.rd_sect + device.metrics.wr_sect)


def _net_bytes(device: XenbusDevice) -> int:
    from xenograft.backends.net.vif import VifDevice

    assert isinstance(device, VifDevice)
    counters = device.port.counters
    return counters.rx_bytes + counters.tx_bytes
