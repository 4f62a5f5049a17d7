# SPDX-License-Identifier: GPL-2.0-or-later
"""The host service itself: `xg service status | start | stop`, and `xg env`."""

from __future__ import annotations

import shlex

import click

from xenograft.cli.xl.base import DAEMON, complain, print_json
from xenograft.toolstack.errors import Failure, UserError


@click.group()
def service() -> None:
    """The process that holds your guests: it starts by itself, and stops when it's told to."""


@service.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def status(as_json: bool) -> int:
    """Show whether the service runs, and what it holds; exit status 3 if it doesn't run."""
    from xenograft.toolstack.service.client import find
    from xenograft.toolstack.service.messages import GetService
    from xenograft.toolstack.service.paths import service_paths
    from xenograft.toolstack.service.record import read_record

    paths = service_paths(create=False)
    client = find(paths)
    if client is None:
        lost = read_record(paths.running)
        names = [guest.name for guest in lost.guests] if lost is not None else []
        if as_json:
            print_json({"running": False, "folder": str(paths.folder), "lost": names})
            return 3
        click.echo("the service isn't running; the first command that needs it starts it")
        if names:
            click.echo(f"it ended without stopping, and was running: {', '.join(names)}")
        return 3
    with client:
        info = client.call(GetService())
    if as_json:
        print_json(
            {
                "running": True,
                "pid": info.pid,
                "version": info.version,
                "uptime": round(info.uptime, 1),
                "guests": info.guests,
                "folder": str(paths.folder),
                "socket": info.socket,
                "xenstore": info.xenstore,
                "log": info.log,
                "lost": info.found,
            }
        )
        return 0
    click.echo(f"the service runs: process {info.pid}, {info.uptime:.0f} s, {info.version}")
    click.echo(f"guests    {', '.join(info.guests) or 'none'}")
    click.echo(f"socket    {info.socket}")
    click.echo(f"xenstore  {info.xenstore}")
    click.echo(f"log       {info.log}")
    if info.found:
        click.echo(f"the one before it ended without stopping, with {', '.join(info.found)}")
    return 0


@service.command()
@click.option(
    "--cpus", metavar="N", help="Physical CPUs: 4, or nodes=2,cores=4,threads=2 [the host's]."
)
@click.option("--memory", metavar="SIZE", help="Its memory: 4G, 512M, or MiB [16G].")
@click.option("--sched", metavar="NAME", help="Scheduler of Pool-0 [credit2].")
@click.option("--pools", metavar="FILE", help="CPUs and pools, as in a file of `xg sched`.")
def start(cpus: str | None, memory: str | None, sched: str | None, pools: str | None) -> None:
    """Start the service now, with another machine than the usual one if you like."""
    from xenograft.toolstack.config.values import size_mib
    from xenograft.toolstack.sched.cpulist import parse_topology
    from xenograft.toolstack.sched.description import read_pools
    from xenograft.toolstack.service.client import connect, find
    from xenograft.toolstack.service.messages import MachineOptions
    from xenograft.toolstack.service.paths import service_paths

    plain = MachineOptions()
    options = MachineOptions(
        topology=None if cpus is None else parse_topology(cpus, "--cpus"),
        memory_mib=plain.memory_mib if memory is None else size_mib(memory, "--memory"),
        sched=plain.sched if sched is None else sched,
        pools=None if pools is None else read_pools(pools)[0],
    )
    if pools is not None and (cpus is not None or sched is not None):
        raise UserError("--pools: the file says which CPUs and schedulers there are")
    paths = service_paths()
    running = find(paths)
    if running is not None:
        running.close()
        if options != plain:
            raise Failure("the service runs already; stop it first (xg service stop)")
        return
    connect(paths, options, DAEMON).close()


@service.command()
@click.option("--wait/--no-wait", default=True, help="Wait until it has ended [wait].")
def stop(wait: bool) -> None:
    """Stop the service; guests that still run are destroyed, and named."""
    from xenograft.toolstack.service import client
    from xenograft.toolstack.service.paths import service_paths

    paths = service_paths(create=False)
    guests = client.stop(paths)
    if guests is None:
        complain("xg: the service isn't running")
        return
    if guests:
        complain(f"xg: destroyed with it: {', '.join(guests)}")
    if wait and not client.await_end(paths):
        raise Failure(f"the service is still busy with ending; its log is {paths.log}")


@click.command()
def env() -> None:
    """Print variables for other programs: eval "$(xg env)"; xenstore-ls -f

    The service is started if it doesn't run.
    """
    from xenograft.toolstack.service.client import connect
    from xenograft.toolstack.service.messages import GetService

    with connect(program=DAEMON) as client:
        info = client.call(GetService())
    folder = str(client.paths.folder)
    for name, value in (
        ("XENSTORED_PATH", info.xenstore),
        ("XENSTORED_RUNDIR", folder),
        ("XG_SERVICE_DIR", folder),
    ):
        click.echo(f"export {name}={shlex.quote(value)}")
