# SPDX-License-Identifier: GPL-2.0-or-later
"""The back end in a driver domain whose guest is gone for good.

As libxl has it (libxl_device.c of Xen 4.17): the toolstack says that the device goes (`online` 0,
`state` Closing), gives the back end ten seconds to close, and removes its directory, which is
what makes Linux's let go of the dead guest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.io.xenbus import XenbusState
from xenograft.backends.xenbus.state import parse_state
from xenograft.toolstack.layout import remove_nodes

if TYPE_CHECKING:
    from xenograft.store.client import StoreClient
    from xenograft.toolstack.services import Services

PATIENCE_NS = 10_000_000_000
"""libxl's LIBXL_DESTROY_TIMEOUT."""


def remove_backend(store: StoreClient, backend: str) -> None:
    """Remove a back end's directory, and the one of its guest if there's nothing else in it."""
    remove_nodes(store, [backend])
    parent = backend.rpartition("/")[0]
    try:
        if not store.ls(parent):
            store.rm(parent)
    except XenError as error:
        if error.errno is not Errno.ENOENT:
            raise


class Leaving:
    """Sees one back end off, by the path of its directory."""

    def __init__(self, services: Services, backend: str) -> None:
        self._store = services.client
        self._timers = services.hypervisor.timers
        self._backend = backend
        self._path = f"{backend}/state"
        if not self._closed():
            self._store.write(f"{backend}/online", 0)
            self._store.write(self._path, int(XenbusState.Closing))
        deadline = services.hypervisor.clock.now() + PATIENCE_NS
        self._timer = self._timers.add(deadline, self._end)
        self._token = ""
        # The first call may come before there's a token to take the watch back by.
        self._token = self._store.watch(self._path, lambda _path, _token: self._look())
        self._look()

    def _closed(self) -> bool:
        state = parse_state(self._store.get(self._path))
        return state in (XenbusState.Closed, XenbusState.Unknown)

    def _look(self) -> None:
        if self._token and self._closed():
            self._end()

    def _end(self) -> None:
        token, self._token = self._token, ""
        self._timers.cancel(self._timer)
        self._store.unwatch(self._path, token)
        remove_backend(self._store, self._backend)
