# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg console`: the terminal as a viewer of a guest's console."""

from __future__ import annotations

import select
import socket

import click

from xenograft.cli.terminal import Terminal
from xenograft.cli.xl.base import complain, domain_argument, service

_CHUNK = 64 << 10


def attach(domain: str, *, follow: bool = False, unpause: bool = False) -> int:
    """Show a console and type at it until Ctrl-] or the domain's end; the exit status.

    `unpause`: let the domain run once nothing of its output can be missed.
    """
    from xenograft.toolstack.service.messages import AttachConsole, Unpause

    with service() as client:
        client.call(AttachConsole(domain, follow=follow))
        terminal = Terminal()
        with terminal:
            if terminal.interactive:
                complain("(Ctrl-] leaves the console)\r")
            if unpause:
                with service() as other:
                    other.call(Unpause(domain))
            _carry(client.sock, terminal)
    return 1 if terminal.output_closed else 0


def _carry(sock: socket.socket, terminal: Terminal) -> None:
    """Bytes both ways, until one end is done."""
    inputs: list[int | socket.socket] = [sock, terminal.input_fd]
    while not terminal.output_closed:
        ready, _, _ = select.select(inputs, [], [])
        if sock in ready:
            try:
                data = sock.recv(_CHUNK)
            except OSError:
                return
            if not data:
                return
            terminal.write(data)
        if terminal.input_fd in ready:
            typed = terminal.read()
            try:
                sock.sendall(typed)
            except OSError:
                return
            if terminal.left:
                return
            if terminal.input_ended:
                # A pipe that ends isn't a user who leaves: the output is still wanted.
                inputs.remove(terminal.input_fd)


@click.command()
@click.option("-t", "kind", default="pv", metavar="TYPE", help="pv, serial or vuart [pv].")
@click.option("-n", "number", type=int, default=0, metavar="NUMBER", help="Console's number [0].")
@domain_argument
def console(domain: str, kind: str, number: int) -> int:
    """Attach to a domain's console; Ctrl-] leaves.

    Its last output comes first. Several may look at once, and each may type.
    """
    from xenograft.toolstack.errors import Failure

    if kind != "pv" or number:
        raise Failure(f"there is no {kind} console {number}; a guest has the PV console 0")
    return attach(domain)
