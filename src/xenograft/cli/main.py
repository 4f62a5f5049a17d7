# SPDX-License-Identifier: GPL-2.0-or-later
"""The entry point of `xg`: finds the command, and turns errors into a line and a status.

Exit statuses, the same for all commands: 0 done, 1 our own fault, 2 bad usage, configuration
or input; `xg run` adds those of `xenograft.cli.status`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys

import click

import xenograft
from xenograft.cli.group import Lazy, LazyGroup
from xenograft.cli.status import FAULT, OK, USAGE
from xenograft.cli.xl.base import Globals
from xenograft.cli.xl.table import CANNOT_COMMANDS, XL_COMMANDS
from xenograft.toolstack.errors import Failure, UserError

COMMANDS = {
    "run": Lazy("xenograft.cli.run", "run", "Run one guest, with its console on the terminal."),
    "demo": Lazy("xenograft.cli.demo", "demo", "Boot a demonstration guest to its shell."),
    "image": Lazy("xenograft.cli.image", "image", "Guest kernels and tools by name."),
    "modes": Lazy("xenograft.cli.modes", "modes", "The table of guest modes."),
    "cpuid": Lazy("xenograft.cli.cpuid", "cpuid", "The CPUID that guests see, decoded."),
    "sched": Lazy("xenograft.cli.sched", "sched", "Simulate, analyze and draw schedules."),
    "xtf": Lazy("xenograft.cli.xtf", "xtf", "Run tests of the Xen Test Framework."),
    "completion": Lazy("xenograft.cli.shell", "completion", "Tab completion for your shell."),
    "version": Lazy("xenograft.cli.version", "version", "Versions of what a report should name."),
    "help": Lazy("xenograft.cli.help", "help_", "Help about a command."),
    **XL_COMMANDS,
    **CANNOT_COMMANDS,
}

_EPILOG = """\b
Start here:
  xg demo                             boot a real Linux guest, fetched if need be
  xg run --kernel vmlinuz --ramdisk initrd
  xg create guest.cfg; xg list        the same as with xl, in the host service
  xg run --help                       all about running a guest

\b
Exit status: 0 done, 1 our own fault, 2 bad usage or configuration.
XG_DEBUG=1 shows a traceback where xg itself failed."""


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(xenograft.__version__, prog_name="xg", message="%(prog)s %(version)s")
@click.option("-v", "verbose", count=True, help="Say more.")
@click.option("-f", "force", is_flag=True, help="Do what is refused otherwise.")
@click.option("-N", "dry_run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("-t", "progress", is_flag=True, help="(As xl's: progress with carriage returns.)")
@click.option("-T", "stamps", is_flag=True, help="(As xl's: the log has its own times.)")
@click.pass_context
def xg(
    context: click.Context,
    verbose: int,
    force: bool,
    dry_run: bool,
    progress: bool,
    stamps: bool,
) -> None:
    """Xenograft: run unmodified Xen guests anywhere, with no Xen, no root and no KVM."""
    context.obj = Globals(verbose, force, dry_run)


def main(argv: list[str] | None = None) -> None:
    """Run `xg` and end the process with its exit status."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str]) -> int:
    """Run `xg` with arguments; returns the exit status, and raises nothing."""
    try:
        result = xg.main(argv, prog_name="xg", standalone_mode=False)
        return result if isinstance(result, int) else OK
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as usage:
        usage.show()
        return USAGE
    except click.ClickException as usage:
        return _complain(_usage_line(usage), USAGE)
    except Failure as failure:
        # In xl's own words.
        print(failure, file=sys.stderr)
        return failure.status
    except UserError as error:
        return _complain(str(error), USAGE)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone (`xg modes | head`): nothing is left to say.
        _drop_output()
        return FAULT
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            _drop_output()
            where = f"{error.filename}: " if error.filename else "the output can't be written: "
            return _complain(f"{where}{error.strerror}", FAULT)
        if os.environ.get("XG_DEBUG"):
            raise
        detail = " ".join(str(error).split())
        name = type(error).__name__
        text = f"internal error: {name}: {detail}" if detail else f"internal error: {name}"
        return _complain(f"{text} (a bug; XG_DEBUG=1 shows the traceback)", FAULT)


def _drop_output() -> None:
    """What is left of standard output can't be written, and isn't tried again at the end."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage_line(usage: click.ClickException) -> str:
    text = " ".join(usage.format_message().split())
    context = getattr(usage, "ctx", None)
    hint = f"{context.command_path} --help" if context is not None else "xg --help"
    return f"{text.rstrip('.')} ({hint} tells more)"


def _complain(line: str, status: int) -> int:
    print(f"xg: {line}", file=sys.stderr)
    return status
