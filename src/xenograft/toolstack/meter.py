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
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import TYPE_CHECKING

import msgspec

from xenograft.hypervisor.metering import Reading, Usage
from xenograft.toolstack.errors import UserError

if TYPE_CHECKING:
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
    cpu_ns: int
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


def bill(start: Reading | None, end: Reading, prices: Prices) -> list[Line]:
    """What each domain owes for the time from one reading to another (None: from the start)."""
    before = {} if start is None else {one.uuid: one for one in start.domains}
    return [_line(before.get(one.uuid), one, prices) for one in end.domains]


def _line(before: Usage | None, after: Usage, prices: Prices) -> Line:
    counted = {} if before is None else before.counters

    def used(name: str) -> int:
        return after.counters.get(name, 0) - counted.get(name, 0)

    cpu = after.cpu_ns - (0 if before is None else before.cpu_ns)
    pages = after.page_ns - (0 if before is None else before.page_ns)
    gib_hours = Fraction(pages * 4096, _GIB * _HOUR_NS)
    disk, net = used("disk"), used("net")
    amount = (
        Fraction(cpu, _HOUR_NS) * prices.cpu_hour
        + gib_hours * prices.gib_hour
        + Fraction(disk, _GIB) * prices.disk_gib
        + Fraction(net, _GIB) * prices.net_gib
    )
    return Line(after.name, cpu, gib_hours, disk, net, amount)


def show(lines: list[Line], reading: Reading, prices: Prices) -> list[str]:
    """The bill as a table; the last line accounts for all CPU time."""
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
    out.append(f"{'(idle)':<24} {_seconds(reading.idle_ns):>20}")
    out.append(f"{'(all CPUs)':<24} {_seconds(reading.elapsed_ns):>20}")
    return out


def _seconds(ns: int) -> str:
    whole, rest = divmod(ns, 10**9)
    return f"{whole}.{rest:09}"


def attach(services: Services) -> None:
    """Have the machine's meter count what disks and network cards have moved."""

    def disk(domid: int) -> int:
        from xenograft.backends.block.device import BlockDevice

        devices = [one for one in services.devices(domid) if isinstance(one, BlockDevice)]
        return 512 * sum(one.metrics.rd_sect + one.metrics.wr_sect for one in devices)

    def net(domid: int) -> int:
        from xenograft.backends.net.vif import VifDevice

        devices = [one for one in services.devices(domid) if isinstance(one, VifDevice)]
        counters = [one.port.counters for one in devices]
        return sum(one.rx_bytes + one.tx_bytes for one in counters)

    services.hypervisor.meter.sources.update(disk=disk, net=net)
