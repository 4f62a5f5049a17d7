# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines and guests as settings describe them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from xenograft.testing.guest import Guest
from xenograft.testing.settings import Settings
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.images.cache import ImageCache, kernel_or_image
from xenograft.toolstack.machine import Domain, Machine


def make_machine(settings: Settings) -> Machine:
    """A machine without guests.  Raises UserError."""
    return Machine(
        clock=settings.clock, cpus=settings.cpus, sched=settings.sched, bridges=settings.bridges
    )


def boot_guest(
    machine: Machine,
    settings: Settings,
    *,
    name: str = "guest",
    created: Callable[[Domain], None] = lambda _domain: None,
) -> Guest:
    """A guest that waits at its prompt, with its modules loaded.

    `created` is told of the domain before it boots.  Raises UserError, TimeoutError, GuestEnded.
    """
    config = from_options(
        name=name,
        type=settings.type,
        kernel=str(_file("kernel", settings.kernel)),
        ramdisk=str(_file("ramdisk", settings.ramdisk)) if settings.ramdisk else None,
        cmdline=settings.cmdline,
        memory=settings.memory,
        vcpus=settings.vcpus,
        disk=settings.disk,
        vif=settings.vif,
        p9=settings.p9,
        channel=settings.channel,
    )
    domain = machine.create(config)
    created(domain)
    domain.console.expect(settings.prompt, settings.boot_timeout)
    guest = Guest(domain, timeout=settings.timeout)
    for module in settings.modules:
        guest.insmod(module)
    return guest


def _file(what: str, name: str) -> Path:
    path = kernel_or_image(name, ImageCache())
    if not path.exists():
        raise UserError(f"{what}: there is no file or image {name!r}")
    return path
