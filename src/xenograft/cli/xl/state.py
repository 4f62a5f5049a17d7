# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests kept for later: `save` and `restore`, `suspend` and `resume`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from xenograft.cli.xl.base import ask, complain, complete_domain, domain_argument, service

if TYPE_CHECKING:
    from xenograft.toolstack.config.domain import DomainConfig
    from xenograft.toolstack.service.messages import Restored

_FORMAT = "new xg format (info 0x1/0x0/{})"


def load_optional(file: str | None) -> DomainConfig | None:
    from xenograft.cli.xl.lifecycle import load

    return None if file is None else load((), file, quiet=True)


def mode_of(suspend: bool, snapshot: bool) -> str:
    """How a guest is to be brought to a stand.  Raises UsageError."""
    if suspend and snapshot:
        raise click.UsageError("--suspend and --snapshot exclude each other")
    return "suspend" if suspend else "snapshot" if snapshot else "auto"


@click.command()
@click.option("-c", "checkpoint", is_flag=True, help="Leave the domain running afterwards.")
@click.option("-p", "paused", is_flag=True, help="Leave it paused afterwards.")
@click.option("-D", "domid", is_flag=True, help="(The domain's number is always stored.)")
@click.option("--suspend", is_flag=True, help="The guest must suspend itself.")
@click.option("--snapshot", is_flag=True, help="Don't ask the guest; it notices nothing.")
@domain_argument
@click.argument("file", metavar="CHECKPOINTFILE", type=click.Path())
@click.argument("config", metavar="[CONFIGFILE]", required=False, type=click.Path())
def save(
    domain: str,
    file: str,
    config: str | None,
    checkpoint: bool,
    paused: bool,
    domid: bool,
    suspend: bool,
    snapshot: bool,
) -> None:
    """Save a domain's state to a file, to restore it later.

    A guest that can is asked to suspend itself; of any other, or one that doesn't answer, a
    snapshot is taken.  The domain is destroyed then, unless -c or -p is given.
    """
    from xenograft.toolstack.service.messages import SaveDomain

    mode = mode_of(suspend, snapshot)
    after = "pause" if paused else "run" if checkpoint else "destroy"
    path = Path(file).absolute()
    request = SaveDomain(domain, str(path), mode, after, load_optional(config))  # type: ignore[arg-type]
    saved = ask(request)
    complain(f"Saving to {file} {_FORMAT.format(saved.size)}")
    kind = "a guest that suspended itself" if saved.suspended else "a snapshot"
    complain(f"xg: info: Saved domain {saved.domid}, {kind}, {saved.size} bytes")


@click.command()
@click.option("-p", "paused", is_flag=True, help="Leave the domain paused.")
@click.option("-c", "console", is_flag=True, help="Connect to the console.")
@click.option("-e", "detached", is_flag=True, help="(The service waits for the end, always.)")
@click.option("-d", "debug", is_flag=True, help="Print the configuration that is used.")
@click.option("-V", "--vncviewer", is_flag=True, help="(There is no VNC display.)")
@click.option("-A", "--vncviewer-autopass", is_flag=True, help="(There is no VNC display.)")
@click.argument("files", nargs=-1, metavar="[CONFIGFILE] CHECKPOINTFILE", type=click.Path())
def restore(
    files: tuple[str, ...],
    paused: bool,
    console: bool,
    detached: bool,
    debug: bool,
    vncviewer: bool,
    vncviewer_autopass: bool,
) -> int:
    """Restore a domain from a saved state, with another configuration if you name one."""
    from xenograft.toolstack.service.messages import RestoreDomain

    if not 1 <= len(files) <= 2:
        raise click.UsageError("name a saved state, or a configuration and a saved state")
    file, config = files[-1], load_optional(files[0]) if len(files) == 2 else None
    path = Path(file).absolute()
    if debug:
        from xenograft.toolstack.config.libxl_json import domain_json, dump

        used = config or _saved_config(path)
        click.echo(dump(domain_json(used, None, used.uuid)))
    restored = ask(RestoreDomain(str(path), config, paused or console))
    complain(f"Loading new save file {file} ({_FORMAT.format(path.stat().st_size)})")
    tell(restored, config is None)
    if console:
        from xenograft.cli.xl.console import attach

        return attach(str(restored.domid), follow=True, unpause=not paused)
    return 0


def tell(restored: Restored, own_config: bool) -> None:
    """What xl and libxenguest tell of a restored guest."""
    if own_config:
        complain(" Savefile contains xl domain config in JSON format")
        complain("Parsing config from <saved>")
    kind = "PV" if restored.kind == "pv" else "HVM"
    complain(f"xc: info: Found x86 {kind} domain from Xen {restored.xen}")
    complain("xc: info: Restoring domain")
    complain("xc: info: Restore successful")
    for name, gfn, port in (
        ("XenStore", restored.store_gfn, restored.store_port),
        ("Console", restored.console_gfn, restored.console_port),
    ):
        complain(f"xc: info: {name}: mfn {gfn:#x}, dom 0, evt {port}")


def _saved_config(path: Path) -> DomainConfig:
    from xenograft.toolstack.state.guest import read_head
    from xenograft.toolstack.state.pages import FileGuest

    with FileGuest(path) as saved:
        return read_head(saved.head, str(path)).config


@click.command()
@click.argument("domain", shell_complete=complete_domain)
def suspend(domain: str) -> None:
    """Have a guest suspend itself, and leave it so until xg resume or xg save."""
    from xenograft.toolstack.service.messages import SuspendDomain

    ask(SuspendDomain(domain))


@click.command()
@click.argument("domain", shell_complete=complete_domain)
def resume(domain: str) -> None:
    """Let a guest go on that has suspended itself."""
    from xenograft.toolstack.service.messages import ResumeDomain

    with service() as client:
        client.call(ResumeDomain(domain))
