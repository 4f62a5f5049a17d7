# SPDX-License-Identifier: GPL-2.0-or-later
"""Consoles: what follows the reply is the console's bytes, both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.toolstack.service import messages
from xenograft.toolstack.service.messages import Failure
from xenograft.toolstack.service.table import on_loop

if TYPE_CHECKING:
    from xenograft.toolstack.service.service import Service


@on_loop(messages.AttachConsole)
async def attach(service: Service, request: messages.AttachConsole) -> int:
    if request.kind != "pv" or request.number != 0:
        raise Failure(
            f"there is no {request.kind} console {request.number}; a guest has the PV console 0"
        )
    host = service.host
    domid = await service.thread.call(lambda: host.guest(request.domain).domid)
    service.hub(domid)
    return domid
