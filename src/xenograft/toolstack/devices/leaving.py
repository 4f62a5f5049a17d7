# SPDX-License-Identifier: GPL-2.0-or-later
"""A back end that is to go, because its device does or its guest has gone.

As libxl has it (libxl_device.c of Xen 4.17): the toolstack says so in the back end's directory
(`online` 0, `state` Closing), waits until it has closed, and removes the directory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.io.xenbus import XenbusState
from xenograft.backends.xenbus.state import parse_state
from xenograft.toolstack.layout import remove_nodes

if TYPE_CHECKING:
    from xenograft.store.client import StoreClient
    from xenograft.toolstack.services import Services

DESTROY_SECONDS = 10
"""How long it is waited for at most (LIBXL_DESTROY_TIMEOUT)."""


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
    """Asks the back end in the directory `backend` to close; `gone` is called once it has."""

    def __init__(self, store: StoreClient, backend: str, gone: Callable[[], None]) -> None:
        self._store = store
        self._path = f"{backend}/state"
        self._gone = gone
        self._token = ""
        # The first call comes before there's a token to take the watch back by.
        self._token = store.watch(self._path, lambda _path, _token: self._look())
        if not self._closed():
            store.write(f"{backend}/online", 0)
            if self._state() is not XenbusState.Closing:
                store.write(self._path, int(XenbusState.Closing))
        self._look()

    @property
    def pending(self) -> bool:
        """Whether `gone` has yet to be called."""
        return bool(self._token)

    def end(self) -> None:
        """It has closed, or isn't waited for any more; a second time does nothing."""
        token, self._token = self._token, ""
        if token:
            self._store.unwatch(self._path, token)
            self._gone()

    def _state(self) -> XenbusState:
        return parse_state(self._store.get(self._path))

    def _closed(self) -> bool:
        return self._state() in (XenbusState.Closed, XenbusState.Unknown)

    def _look(self) -> None:
        if self._token and self._closed():
            self.end()


def see_off(services: Services, backend: str) -> None:
    """Have a back end go whose guest is gone for good, whether it closes or not.

    That its directory goes is what makes Linux's let go of the dead guest.
    """
    timers = services.hypervisor.timers

    def gone() -> None:
        timers.cancel(timer)
        remove_backend(services.client, backend)

    deadline = services.hypervisor.clock.now() + DESTROY_SECONDS * 1_000_000_000
    timer = timers.add(deadline, lambda: leaving.end())
    leaving = Leaving(services.client, backend, gone)
