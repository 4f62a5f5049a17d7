# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg xenbus`: split devices in the host service, and who must do what next."""

from __future__ import annotations

import click
import msgspec

from xenograft.cli.xl.base import ask, complete_domain


@click.command()
@click.argument("domain", required=False, shell_complete=complete_domain)
@click.option("--timeline", is_flag=True, help="Also each change of a state, and what led to it.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
def xenbus(domain: str | None, timeline: bool, as_json: bool) -> None:
    """Show split devices: both ends' states, since when, and who must write what next.

    Of all guests, or of DOMAIN.  Violations of the protocol are named below the devices.
    """
    from xenograft.observe.xenbus import report
    from xenograft.observe.xenbus.tracker import View
    from xenograft.toolstack.service.messages import GetView

    text = ask(GetView("xenbus", domain))
    if as_json:
        click.echo(text)
        return
    view = msgspec.json.decode(text, type=View)
    if timeline:
        click.echo(report.report(view))
        return
    for line in report.device_lines(view.devices, view.now):
        click.echo(line)
    for line in report.timeline((), view.violations):
        click.echo(line)
