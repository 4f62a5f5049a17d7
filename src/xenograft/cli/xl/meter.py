# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg meter`: what domains have used in a period, and what that costs."""

from __future__ import annotations

import click

from xenograft.cli.xl.base import ask, json_option, print_json
from xenograft.toolstack.errors import Failure


@click.command()
@click.argument("domains", nargs=-1, metavar="[DOMAIN]...")
@click.option("-p", "--prices", metavar="FILE", help="A price list (TOML).")
@click.option("-s", "--since", metavar="MARK", help="The period's begin [the machine's start].")
@click.option("-u", "--until", metavar="MARK", help="The period's end [now].")
@click.option("-m", "--mark", metavar="MARK", help="Mark this moment, for periods.")
@click.option("--marks", is_flag=True, help="List the marks.")
@json_option
def meter(
    domains: tuple[str, ...],
    prices: str | None,
    since: str | None,
    until: str | None,
    mark: str | None,
    marks: bool,
    as_json: bool,
) -> None:
    """Show what domains have used, exact to the nanosecond of CPU time, and the bill.

    Domains are known by their UUIDs: those that are gone, or have rebooted, are still in it.
    """
    from xenograft.toolstack import meter as bills
    from xenograft.toolstack.service.messages import GetPeriod, ListMarks, MarkMeter

    if mark is not None:
        ask(MarkMeter(mark))
        return
    if marks:
        found = ask(ListMarks())
        if as_json:
            print_json([{"mark": name, "time_ns": time} for name, time in found.items()])
        else:
            click.echo("\n".join(bills.mark_lines(found)))
        return
    costs = bills.Prices() if prices is None else bills.read_prices(prices)
    period = ask(GetPeriod(since, until))
    bill = bills.bill(period.start, period.end, costs)
    names = {line.name for line in bill.lines}
    for name in domains:
        if name not in names:
            raise Failure(
                f"{name[:80]} has used nothing in this period: nobody of that name is known"
            )
    lines = [line for line in bill.lines if not domains or line.name in domains]
    if as_json:
        print_json(bills.as_json(lines, bill, costs))
        return
    click.echo("\n".join(bills.show(lines, bill, costs)))
