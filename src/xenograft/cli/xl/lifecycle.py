# SPDX-License-Identifier: GPL-2.0-or-later
"""From a domain's creation to its end: `create`, `shutdown`, `destroy` and what lies between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from xenograft.cli.xl.base import (
    ask,
    complain,
    complete_domain,
    domain_argument,
    global_options,
    service,
)
from xenograft.toolstack.errors import Failure

if TYPE_CHECKING:
    from xenograft.toolstack.config.domain import DomainConfig


def load(words: tuple[str, ...], file: str | None, quiet: bool = False) -> DomainConfig:
    """The configuration of a file and of words such as memory=512.  Raises Failure."""
    from xenograft.cli.xl.configure import load_with_words
    from xenograft.toolstack.errors import UserError

    try:
        return load_with_words(words, file, complain, quiet)
    except UserError as error:
        raise Failure(str(error)) from None


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("words", nargs=-1, metavar="[FILE.cfg] [KEY=VALUE]...")
@click.option("-f", "--defconfig", metavar="FILE", help="The configuration file.")
@click.option("-c", "console", is_flag=True, help="Connect to the console.")
@click.option("-p", "paused", is_flag=True, help="Leave the domain paused.")
@click.option("-F", "foreground", is_flag=True, help="Wait until the domain's end.")
@click.option("-n", "--dryrun", is_flag=True, help="Print the resulting configuration alone.")
@click.option("-q", "--quiet", is_flag=True, help="Don't say what is read.")
@click.option("-e", "detached", is_flag=True, help="(The service waits for the end, always.)")
@click.option("-d", "debug", is_flag=True, help="Print the resulting configuration too.")
@click.option("-V", "--vncviewer", is_flag=True, help="(There is no VNC display.)")
@click.option("-A", "--vncviewer-autopass", is_flag=True, help="(There is no VNC display.)")
@click.option("--ignore-global-affinity-masks", is_flag=True, help="Ignore masks of xl.conf.")
def create(
    words: tuple[str, ...],
    defconfig: str | None,
    console: bool,
    paused: bool,
    foreground: bool,
    dryrun: bool,
    quiet: bool,
    detached: bool,
    debug: bool,
    vncviewer: bool,
    vncviewer_autopass: bool,
    ignore_global_affinity_masks: bool,
) -> int:
    """Create a domain from a configuration file and settings.

    KEY=VALUE changes the file's settings: xg create web.cfg memory=512 'name="web2"'.  The
    domain lives in the host service, which starts by itself.
    """
    from xenograft.toolstack.service.messages import CreateDomain, WaitEnd

    config = load(words, defconfig, quiet)
    dry = dryrun or global_options().dry_run
    if dry or debug:
        from xenograft.toolstack.config.libxl_json import domain_json, dump

        click.echo(dump(domain_json(config, None, config.uuid)))
        if dry:
            return 0
    if vncviewer or vncviewer_autopass:
        complain("xg: warning: there is no VNC display to connect to")
    with service() as client:
        made = client.call(CreateDomain(config, paused=paused or console))
    if console:
        from xenograft.cli.xl.console import attach

        status = attach(str(made.domid), follow=True, unpause=not paused)
        if status or not foreground:
            return status
    if foreground:
        try:
            ask(WaitEnd(str(made.domid), gone=True))
        except Failure:
            # It was over before we asked.
            return 0
    return 0


@click.command()
@click.argument("domain", shell_complete=complete_domain)
@click.argument("words", nargs=-1, metavar="[FILE.cfg] [KEY=VALUE]...")
@click.option("-f", "--defconfig", metavar="FILE", help="The configuration file.")
@click.option("-d", "debug", is_flag=True, help="Print the resulting configuration too.")
def config_update(domain: str, words: tuple[str, ...], defconfig: str | None, debug: bool) -> None:
    """Change what a domain is built from when it reboots."""
    from xenograft.toolstack.service.messages import UpdateConfig

    config = load(words, defconfig)
    if debug or global_options().dry_run:
        from xenograft.toolstack.config.libxl_json import domain_json, dump

        click.echo(dump(domain_json(config, None, config.uuid)))
        if global_options().dry_run:
            return
    ask(UpdateConfig(domain, config))


@click.command()
@click.option("-f", "force", is_flag=True, help="Permit domain 0 (which stops the service).")
@domain_argument
def destroy(domain: str, force: bool) -> None:
    """End a domain at once."""
    from xenograft.toolstack.service.messages import Destroy, StopService

    if domain in ("0", "Domain-0"):
        if not (force or global_options().force):
            raise Failure(
                "Not destroying domain 0; use -f to force.\n"
                "This ends the host service and all its guests, as xg service stop does.\n"
            )
        ask(StopService())
        return
    ask(Destroy(domain))


@click.command()
@domain_argument
def pause(domain: str) -> None:
    """Stop a domain's vCPUs."""
    from xenograft.toolstack.service.messages import Pause

    ask(Pause(domain))


@click.command()
@domain_argument
def unpause(domain: str) -> None:
    """Let a paused domain's vCPUs run again."""
    from xenograft.toolstack.service.messages import Unpause

    ask(Unpause(domain))


@click.command()
@domain_argument
@click.argument("new_name", metavar="NEW-NAME")
def rename(domain: str, new_name: str) -> None:
    """Give a domain another name."""
    from xenograft.toolstack.config.domain import is_name
    from xenograft.toolstack.service.messages import Rename

    if not is_name(new_name):
        raise Failure(
            f"{new_name[:80]!r} can't be a domain's name (1 to 64 characters, no blanks, no /)"
        )
    ask(Rename(domain, new_name))


def _ask_to_end(
    domain: str | None, all_: bool, wait: bool, acpi: bool, timeout: float | None, reboot: bool
) -> None:
    from xenograft.toolstack.service.messages import ListDomains, Shutdown, WaitEnd

    if all_ == (domain is not None):
        raise click.UsageError("name a domain, or all of them with -a")
    word = "Rebooting" if reboot else "Shutting down"
    failures = []
    with service() as client:
        names = [domain or ""]
        if all_:
            names = [str(info.domid) for info in client.call(ListDomains()) if info.domid]
        asked = []
        for name in names:
            try:
                domid = client.call(Shutdown(name, reboot=reboot, acpi=acpi))
            except Failure as failure:
                if not all_:
                    raise
                failures.append(failure)
                complain(f"domain {name}: {failure}")
                continue
            complain(f"{word} domain {domid}")
            asked.append(domid)
        if wait:
            complain(f"Waiting for {len(asked)} domains")
        for domid in asked if wait else ():
            try:
                ended = client.call(WaitEnd(str(domid), timeout=timeout))
            except Failure as failure:
                if failure.status == 4:
                    raise
                # It went faster than we could ask.
                complain(f"Domain {domid} has been destroyed")
                continue
            if ended.reason is None:
                complain(f"Domain {domid} has been destroyed")
            else:
                complain(f"Domain {domid} has been shut down, reason code {ended.reason}")
    if failures:
        raise Failure(f"{len(failures)} domains weren't asked")


@click.command()
@click.option("-a", "--all", "all_", is_flag=True, help="All guests.")
@click.option("-w", "--wait", is_flag=True, help="Wait until they have shut down.")
@click.option("-F", "acpi", is_flag=True, help="Fall back to ACPI where there are no PV drivers.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Wait this long at most (status 4).")
@click.argument("domain", required=False, shell_complete=complete_domain)
def shutdown(domain: str | None, all_: bool, wait: bool, acpi: bool, timeout: float | None) -> None:
    """Ask a guest to power off."""
    _ask_to_end(domain, all_, wait, acpi, timeout, reboot=False)


@click.command()
@click.option("-a", "--all", "all_", is_flag=True, help="All guests.")
@click.option("-w", "--wait", is_flag=True, help="Wait until they have shut down to reboot.")
@click.option("-F", "acpi", is_flag=True, help="Fall back to ACPI where there are no PV drivers.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Wait this long at most (status 4).")
@click.argument("domain", required=False, shell_complete=complete_domain)
def reboot(domain: str | None, all_: bool, wait: bool, acpi: bool, timeout: float | None) -> None:
    """Ask a guest to reboot."""
    _ask_to_end(domain, all_, wait, acpi, timeout, reboot=True)
