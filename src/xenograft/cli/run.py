# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg run`: one machine, one guest, its console on the terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from xenograft.cli.group import Choice

_EXAMPLES = """\b
Examples:
  xg run --kernel vmlinuz --ramdisk initrd
      boots to the guest's console; Ctrl-] leaves
  xg run --kernel debian-cloud --ramdisk demo-initrd
      the same with images by name (xg image list)
  echo 'uname -a' | xg run --kernel vmlinuz --ramdisk initrd
      feeds the console from a pipe; its end is Ctrl-D for the guest
  xg run guest.cfg --memory 512M --vcpus 4
      a configuration of xl's, with some of it changed
  xg run --kernel vmlinuz --clock virtual --log hypercalls --stats
      repeatable to the byte, with every hypercall shown, and counts at the end
  xg run --vif bridge=user,forward=tcp:2222:22 --pcap net.pcap
      a network card with the host's network behind it, and a port that leads to it
  xg run --kernel vmlinuz --trace boot.perfetto
      a trace for ui.perfetto.dev, which works without sending it anywhere

\b
Exit status:
  0 the guest powered off, or Ctrl-]     3 it crashed
  1 our own fault                        4 --timeout ran out
  2 bad usage or configuration           5 it rebooted (see --on-reboot)

Guest output goes to standard output, all else to standard error."""

OPTIONS: list[Callable[[Any], Any]] = [
    click.option("--kernel", "-k", metavar="FILE", help="Kernel: a file, or an image's name."),
    click.option("--ramdisk", "-r", metavar="FILE", help="Ramdisk: a file, or an image's name."),
    click.option("--cmdline", metavar="TEXT", help="The kernel's command line."),
    click.option(
        "--type", "kind", type=Choice(["pvh", "pv", "hvm"], "type"), help="Kind of guest [pvh]."
    ),
    click.option("--memory", "-m", metavar="SIZE", help="Memory: 256M, 1G, or MiB [256M]."),
    click.option("--vcpus", type=int, metavar="N", help="Number of vCPUs, 1 to 32 [1]."),
    click.option("--name", metavar="NAME", help="Name of the domain."),
    click.option("--cpuid", metavar="POLICY", help="CPUID policy, as xl's cpuid= [host]."),
    click.option("--disk", multiple=True, metavar="SPEC", help="A disk, as xl's disk= has it."),
    click.option("--vif", multiple=True, metavar="SPEC", help="A network card, as xl's vif=."),
    click.option("--p9", multiple=True, metavar="SPEC", help="A shared folder, as xl's p9=."),
    click.option("--channel", multiple=True, metavar="SPEC", help="A console, as xl's channel=."),
    click.option("--vfb", multiple=True, metavar="SPEC", help="A frame buffer, as xl's vfb=."),
    click.option(
        "--bridge",
        multiple=True,
        metavar="SPEC",
        help="A bridge for --vif, such as lan,mtu=9000 (there are xenbr0 and user).",
    ),
    click.option(
        "--pcap",
        multiple=True,
        metavar="[N=]FILE",
        help="Capture the packets of network card N [0].",
    ),
    click.option(
        "--clock",
        type=Choice(["real", "virtual"], "clock"),
        default="real",
        help="Time of the host, or of the guest's own progress: repeatable [real].",
    ),
    click.option(
        "--cpus",
        metavar="N",
        help="Physical CPUs of the machine: 2, or nodes=2,cores=4,threads=2 [the host's;"
        " on the virtual clock 1].",
    ),
    click.option(
        "--pools",
        metavar="FILE",
        help="CPUs and pools of the machine, as in a file of `xg sched`; pool= names one.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="End after this time on the host's clock, with exit status 4.",
    ),
    click.option(
        "--on-reboot",
        type=Choice(["exit", "restart"], "action"),
        help="When the guest reboots: end with exit status 5, or start it again [exit].",
    ),
    click.option(
        "--trace",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Write a Perfetto trace of the run.",
    ),
    click.option(
        "--schedule",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Draw who ran when on which CPU: FILE.svg or .png; .xentrace for xenalyze.",
    ),
    click.option(
        "--log",
        multiple=True,
        metavar="WHAT[=FILTER]",
        help="Show what happens as it does, such as hypercalls or hypercalls=event_channel_op.",
    ),
    click.option(
        "--xenbus",
        is_flag=True,
        help="Print the devices, their states and what led to them at the end.",
    ),
    click.option("--stats", is_flag=True, help="Print counts and times at the end."),
    click.option(
        "--screenshot",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Write what the guest's screen (--vfb) shows at the end to a PNG file.",
    ),
]


def guest_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that all commands that run a guest share."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.command(epilog=_EXAMPLES, short_help="Run one guest, with its console on the terminal.")
@click.argument(
    "config_file",
    metavar="[FILE.cfg]",
    required=False,
    type=click.Path(path_type=Path),
)
@guest_options
def run(config_file: Path | None, **options: Any) -> int:
    """Run one guest with its console on the terminal, until it ends.

    The guest is described by a configuration file of xl's, by options, or by both, where
    options go first.  With neither a file nor --kernel it's Debian's kernel for virtual
    machines, fetched into a cache if need be.
    """
    from xenograft.cli.play import start

    return start(config_file, options)
