# SPDX-License-Identifier: GPL-2.0-or-later
"""What the commands of `xl` share: asking the service, options, tables, JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from xenograft.toolstack.errors import Failure

if TYPE_CHECKING:
    from xenograft.toolstack.service.client import Client
    from xenograft.toolstack.service.messages import DomainInfo, Request

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


DAEMON = "xenograft.cli.daemon"
"""What the service's process runs."""


class Globals:
    """The options before the command's name, as `xl [-vfNtT]` has them."""

    def __init__(self, verbose: int = 0, force: bool = False, dry_run: bool = False) -> None:
        self.verbose = verbose
        self.force = force
        self.dry_run = dry_run


def global_options() -> Globals:
    """Those of the command line."""
    context = click.get_current_context(silent=True)
    found = context.find_object(Globals) if context is not None else None
    return found if found is not None else Globals()


def service() -> Client:
    """A connection to the service, which is started if need be."""
    from xenograft.toolstack.service.client import connect

    return connect(program=DAEMON)


def ask(request: Request[T]) -> T:
    """Ask the service one thing.  Raises Failure and UserError."""
    with service() as client:
        return client.call(request)


def find_domain(name: str) -> DomainInfo:
    """A domain by its name or number.  Raises Failure."""
    from xenograft.toolstack.service.messages import ListDomains

    return ask(ListDomains([name]))[0]


def complain(line: str) -> None:
    """A line for the user that isn't the command's output."""
    print(line, file=sys.stderr, flush=True)


def json_option(command: F) -> F:
    """`--json`, which every list has."""
    return click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")(command)


def domain_argument(command: F) -> F:
    """The argument DOMAIN: a name or a number."""
    return click.argument("domain", shell_complete=complete_domain)(command)


def domains_argument(command: F) -> F:
    """Any number of domains; none means all."""
    argument = click.argument(
        "domains", nargs=-1, metavar="[DOMAIN]...", shell_complete=complete_domain
    )
    return argument(command)


def complete_domain(context: click.Context, _parameter: click.Parameter, text: str) -> list[str]:
    """Names of the domains that run; completion starts no service."""
    from xenograft.toolstack.service.client import find
    from xenograft.toolstack.service.messages import ListDomains
    from xenograft.toolstack.service.paths import service_paths

    try:
        client = find(service_paths(create=False))
        if client is None:
            return []
        with client:
            names = [info.name for info in client.call(ListDomains())]
    except Exception:
        # Somebody is typing: no time for complaints.
        return []
    return [name for name in names if name.startswith(text)]


def print_json(value: Any, text: Callable[[str], None] = click.echo) -> None:
    """A value as JSON, for programs."""
    import json

    text(json.dumps(value, indent=2))


def duration(nanoseconds: int, short: bool = False) -> str:
    """As xl writes an uptime: " 0:02:41", "3 days,  1:00:00"; `short` without seconds.

    >>> duration(161 * 10**9), duration(90000 * 10**9, short=True)
    (' 0:02:41', '1 day,  1:00')
    """
    days, rest = divmod(max(nanoseconds, 0) // 10**9, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, whole = divmod(rest, 60)
    clock = f"{hours:2d}:{minutes:02d}" if short else f"{hours:2d}:{minutes:02d}:{whole:02d}"
    return f"{days} day{'s' if days > 1 else ''}, {clock}" if days else clock


def kib(text: str, unit: str = "m") -> int:
    """A size as xl takes it: 256, 256m, 1g, 1048576k, 512b; in KiB.  Raises Failure.

    A number alone is in MiB.
    """
    units = {"b": -10, "k": 0, "m": 10, "g": 20, "t": 30}
    digits = text.rstrip("bkmgtBKMGT")
    suffix = text[len(digits) :].lower() or unit
    if not (digits.isascii() and digits.isdigit()) or suffix not in units or len(digits) > 15:
        raise Failure(f"invalid memory size: {text[:40]!r}; write 256, 256m or 1g")
    shift = units[suffix]
    return int(digits) << shift if shift >= 0 else int(digits) >> -shift
