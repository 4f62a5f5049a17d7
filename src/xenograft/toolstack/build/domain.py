# SPDX-License-Identifier: GPL-2.0-or-later
"""Building from a configuration: reads the files that it names, and calls the builder.

What the configuration asks for and can't be had is refused here, before anything is started.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from xenograft.toolstack.build.cache import KernelCache, cache_folder
from xenograft.toolstack.build.guest import BuiltGuest
from xenograft.toolstack.build.kernel import Unpacker
from xenograft.toolstack.build.pv import PvPlan, build_pv
from xenograft.toolstack.build.pvh import Module, build_pvh, mib_up
from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.errors import UserError

MAX_FILE = 1 << 30
"""Bytes of a kernel or ramdisk file at most, as in libxenguest."""


def read_file(path: str, what: str, limit: int = MAX_FILE) -> bytes:
    """A file's bytes; pipes are read to their end. `what` it is begins the messages.

    Raises UserError if it is missing, unreadable, no file, empty, or larger than `limit`.
    """
    if "\0" in path or not path:
        raise UserError(f"{what}: {path!r} can't be a file's name")
    try:
        # Without O_NONBLOCK, opening a pipe that nobody writes to would hang.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            if stat.S_ISDIR(status.st_mode):
                raise UserError(f"{what} {path}: is a directory; name a file")
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
                raise UserError(f"{what} {path}: is a device or socket; name a file")
            if status.st_size > limit:
                raise UserError(
                    f"{what} {path}: {mib_up(status.st_size)} MiB; {limit >> 20} MiB at most"
                )
            os.set_blocking(handle, True)
            data = file.read(limit + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{what} {path}: {reason}; check the path and its permissions") from error
    if len(data) > limit:
        raise UserError(f"{what} {path}: more than {limit >> 20} MiB")
    if not data:
        raise UserError(f"{what} {path}: the file is empty")
    return data


def default_cache() -> KernelCache:
    """The user's cache of unpacked kernels."""
    return KernelCache(cache_folder())


def check_buildable(config: DomainConfig) -> None:
    """Raises UserError for what a configuration may ask for and no part here provides."""
    if config.type == "hvm":
        raise UserError('type="hvm": no device model emulates a PC; use --type pvh or --type pv')
    if config.kernel is None:
        raise UserError("no kernel is given; name one (kernel= or --kernel)")


def build_domain(config: DomainConfig, unpack: Unpacker | None = None) -> BuiltGuest | PvPlan:
    """Build the guest that a configuration describes.

    `unpack` decompresses its kernel; default: through the user's cache.  Raises UserError, one
    line that says which file or setting is at fault and what to do.
    """
    check_buildable(config)
    assert config.kernel is not None  # check_buildable refuses to go without
    kernel = read_file(config.kernel, "kernel")
    modules = []
    # A guest that may have more than it starts with is built with all of it: what is above
    # memory= stays unpopulated, and its balloon driver gives it up.  A PV guest is built with
    # what it starts with, and sees in its map what it may have.
    most = max(config.memory, config.maxmem or 0) << 20
    if config.ramdisk is not None:
        name = f"ramdisk {config.ramdisk}"
        memory = config.memory << 20
        try:
            size = Path(config.ramdisk).stat().st_size
        except OSError:
            size = 0  # read_file says what's wrong
        if size > memory:
            raise UserError(
                f"{name}: {mib_up(size)} MiB don't fit in a guest with {config.memory} MiB of"
                f" memory; give it more than {mib_up(size)} MiB (--memory)"
            )
        modules.append(Module(read_file(config.ramdisk, "ramdisk"), name=name))
    options: dict[str, Any] = {
        "modules": modules,
        "cmdline": config.cmdline,
        "vcpus": config.max_vcpus,
        "online": config.vcpus,
        "name": f"kernel {config.kernel}",
        "unpack": default_cache() if unpack is None else unpack,
    }
    if config.type == "pv":
        return build_pv(kernel, memory=config.memory << 20, maxmem=most, **options)
    built = build_pvh(kernel, memory=most, **options)
    if built.required_memory > config.memory << 20:
        need = mib_up(built.required_memory)
        raise UserError(
            f"kernel {config.kernel}: kernel and ramdisk end at {need} MiB, and the guest starts"
            f" with {config.memory} MiB; give it more than {need} MiB (memory=)"
        )
    return built
