# SPDX-License-Identifier: GPL-2.0-or-later
"""Bills: exact amounts from two readings and a price list."""

from __future__ import annotations

from fractions import Fraction

import pytest

from xenograft.hypervisor.metering import Reading, Usage
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.meter import Prices, as_json, bill, parse_prices, show

HOUR = 3600 * 10**9
PRICES = 'currency = "CHF"\ncpu_hour = "0.04"\ngib_hour = "0.5"\ndisk_gib = 1\nnet_gib = 0.25\n'


def reading(cpu: int, pages: int, disk: int, net: int) -> Reading:
    usage = Usage("web", b"w" * 16, cpu, pages, {"disk": disk, "net": net})
    return Reading(HOUR, HOUR, HOUR - cpu, (usage,))


def test_a_bill_is_exact() -> None:
    prices = parse_prices(PRICES, "prices.toml")
    start = reading(1, 0, 0, 0)
    end = reading(HOUR // 3 + 1, (1 << 18) * HOUR * 2, 1 << 29, 1 << 30)
    (line,) = bill(start, end, prices).lines
    assert line.cpu_ns == HOUR // 3
    assert line.gib_hours == 2
    assert line.amount == Fraction(4, 300) + 1 + Fraction(1, 2) + Fraction(1, 4)
    assert end.unaccounted_ns == 0


def test_it_is_shown_to_the_nanosecond() -> None:
    end = reading(1_000_000_007, 0, 0, 0)
    owed = bill(None, end, Prices())
    lines = show(list(owed.lines), owed, Prices())
    assert lines[1].split()[:2] == ["web", "1.000000007"]
    assert lines[2].split() == ["(idle)", "3598.999999993"]
    assert lines[3].split() == ["(all", "CPUs)", "3600.000000000", "0.000000"]


def test_a_period_accounts_for_all_of_its_cpu_time() -> None:
    start = Reading(HOUR, 2 * HOUR, HOUR, (Usage("web", b"w" * 16, HOUR),))
    domains = (Usage("web", b"w" * 16, HOUR + 5), Usage("new", b"n" * 16, 7))
    owed = bill(start, Reading(HOUR + 10, 2 * HOUR + 20, HOUR + 8, domains), Prices())
    assert (owed.period_ns, owed.elapsed_ns, owed.idle_ns) == (10, 20, 8)
    assert [line.cpu_ns for line in owed.lines] == [5, 7]
    assert sum(line.cpu_ns for line in owed.lines) + owed.idle_ns == owed.elapsed_ns


def test_amounts_for_programs_are_decimals() -> None:
    owed = bill(None, reading(HOUR // 3, 0, 0, 0), parse_prices(PRICES, "p"))
    (row,) = as_json(list(owed.lines), owed, parse_prices(PRICES, "p"))
    assert row["amount"] == "0.013333333333"
    assert row["currency"] == "CHF"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "p.toml: "),
        ("gpu_hour = 1", "gpu_hour has no price"),
        ('cpu_hour = "much"', "isn't a price"),
        ("cpu_hour = -1", "isn't a price"),
        ("cpu_hour = nan", "isn't a price"),
        ("cpu_hour = true", "isn't a price"),
        ("currency = 5", "currency"),
    ],
)
def test_bad_price_lists(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_prices(text, "p.toml")
    assert "\n" not in str(caught.value)
