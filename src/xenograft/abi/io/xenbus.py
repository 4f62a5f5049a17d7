# SPDX-License-Identifier: GPL-2.0-or-later
"""public/io/xenbus.h: the states by which front and back ends meet."""

from __future__ import annotations

from enum import IntEnum


class XenbusState(IntEnum):
    """Value of a device's ``state`` node."""

    Unknown = 0
    Initialising = 1
    InitWait = 2
    Initialised = 3
    Connected = 4
    Closing = 5
    Closed = 6
    Reconfiguring = 7
    Reconfigured = 8


# By the header's names.
XenbusStateUnknown = XenbusState.Unknown
XenbusStateInitialising = XenbusState.Initialising
XenbusStateInitWait = XenbusState.InitWait
XenbusStateInitialised = XenbusState.Initialised
XenbusStateConnected = XenbusState.Connected
XenbusStateClosing = XenbusState.Closing
XenbusStateClosed = XenbusState.Closed
XenbusStateReconfiguring = XenbusState.Reconfiguring
XenbusStateReconfigured = XenbusState.Reconfigured
