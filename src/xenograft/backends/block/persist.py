# SPDX-License-Identifier: GPL-2.0-or-later
"""A block device's state as plain data, apart from the image and the front end's pages.

A device is saved when nothing is under way.  Restoring needs the same image, and a front end
whose grants and event channels are there again (or still): pages are mapped and ports bound anew
by the references and numbers in the store.
"""

from __future__ import annotations

import msgspec

from xenograft.backends.ring import RingState


class QueueState(msgspec.Struct, frozen=True):
    """One ring: its indices, and which pages were kept mapped."""

    ring: RingState
    persistent: tuple[int, ...]
    halted: bool


class BlockState(msgspec.Struct, frozen=True):
    """One device. `state` is a XenbusState; `sectors` what the front end was told.

    `write_through`: a flush has failed, and the guest may rely on none from then on.
    """

    path: str
    domid: int
    devid: int
    state: int
    sectors: int
    queues: tuple[QueueState, ...]
    write_through: bool = False
