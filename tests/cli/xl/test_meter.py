# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg meter` against a service: periods, bills, accounts that outlive domains."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.xl.conftest import Xg
from tests.toolstack.service.support import Running, read_until, until
from xenograft.toolstack.service.messages import AttachConsole


def meter(xg: Xg, *words: str) -> list[dict[str, Any]]:
    status, output, errors = xg("meter", "--json", *words)
    assert (status, errors) == (0, "")
    return list(json.loads(output))


def uses(xg: Xg, name: str) -> int:
    return int(meter(xg, name)[0]["cpu_ns"])


def test_an_account_outlives_reboot_and_domain(xg: Xg, cfg: Path, service: Running) -> None:
    assert xg("create", str(cfg))[0] == 0
    until(lambda: uses(xg, "web") > 0)
    with service.connect() as client:
        client.call(AttachConsole("web", follow=True))
        client.sock.sendall(b"reboot")
        read_until(client.sock, b"<reboot>\nhello\n")
    before = uses(xg, "web")
    until(lambda: uses(xg, "web") > before)
    xg("destroy", "web")
    (gone,) = meter(xg, "web")
    assert gone["cpu_ns"] > before
    assert uses(xg, "web") == gone["cpu_ns"]


def test_a_bill_for_a_period(xg: Xg, cfg: Path, tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text('currency = "CHF"\ncpu_hour = "3600000"\n')
    assert xg("create", str(cfg))[0] == 0
    until(lambda: uses(xg, "web") > 0)
    assert xg("meter", "-m", "monday") == (0, "", "")
    first = uses(xg, "web")
    until(lambda: uses(xg, "web") > first)
    assert xg("meter", "-m", "tuesday") == (0, "", "")
    words = ("-s", "monday", "-u", "tuesday", "-p", str(prices))
    rows = meter(xg, *words)
    assert [row["name"] for row in rows] == ["Domain-0", "web"]
    used = rows[1]["cpu_ns"]
    assert used > 0
    # A thousand a second: a nanosecond is a millionth.
    assert Decimal(rows[1]["amount"]) == Decimal(used) / 10**6
    assert meter(xg, *words) == rows
    table = xg("meter", *words)[1].splitlines()
    assert table[0].split()[-1] == "CHF"
    assert table[2].split()[:2] == ["web", f"{used // 10**9}.{used % 10**9:09}"]
    # All domains and idleness are all the time of all four CPUs.
    idle, total = (int(line.split(")")[1].split()[0].replace(".", "")) for line in table[3:])
    assert idle + sum(row["cpu_ns"] for row in rows) == total
    assert total >= 4 * rows[1]["period_ns"]
    marks = xg("meter", "--marks")[1].splitlines()
    assert [line.split()[0] for line in marks] == ["Mark", "monday", "tuesday"]


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("nosuch",), 1, "nosuch has used nothing in this period"),
        (("-s", "noon"), 1, "no mark is called 'noon'"),
        (("-m", ""), 1, "'' can't be a mark"),
        (("-p", "/nowhere.toml"), 2, "/nowhere.toml: No such file"),
    ],
)
def test_what_is_refused(xg: Xg, words: tuple[str, ...], status: int, says: str) -> None:
    got, output, errors = xg("meter", *words)
    assert (got, output) == (status, "")
    assert says in errors
    assert errors.count("\n") == 1


def test_a_period_does_not_end_before_it_begins(xg: Xg) -> None:
    xg("meter", "-m", "a")
    until(lambda: xg("meter", "-m", "b")[0] == 0)
    assert xg("meter", "-s", "b", "-u", "a")[2] == "the mark 'b' was set after 'a'\n"
