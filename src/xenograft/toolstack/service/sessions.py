# SPDX-License-Identifier: GPL-2.0-or-later
"""One client of the service: who it is, what it asks, what it's told.

A client that goes away loses what it waited for, and nothing else: what it has begun is done.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import traceback
from typing import TYPE_CHECKING, Any

import msgspec

from xenograft.abi.errno import XenError
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.service import handlers as handlers
from xenograft.toolstack.service.messages import (
    AttachConsole,
    Failure,
    OpenStream,
    Reply,
    Request,
    WaitEnd,
)
from xenograft.toolstack.service.table import LOOP, MACHINE
from xenograft.toolstack.service.wire import LENGTH, MAX_MESSAGE, encode, pack, request_decoder

if TYPE_CHECKING:
    from xenograft.toolstack.service.service import Service

_LAST_SECONDS = 1.0
_UCRED = struct.Struct("3i")


def peer_uid(sock: socket.socket) -> int:
    """Whose process is at the other end (SO_PEERCRED)."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    uid: int = _UCRED.unpack(data)[1]
    return uid


class Sessions:
    """Serves the clients of a listening socket."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._decoder = request_decoder()
        self._begun: set[asyncio.Task[Reply]] = set()
        self._clients: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, until it or the service goes."""
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            uid = peer_uid(writer.get_extra_info("socket"))
            if uid != os.getuid():
                self.service.log(f"refused a client of user {uid}")
                return
            await self._talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._clients.discard(task)
            writer.close()

    async def close(self) -> None:
        """Hang up on all clients, once those that have an answer coming have got it."""
        begun = [task for task in self._begun if not task.done()]
        if begun:
            await asyncio.wait(begun, timeout=_LAST_SECONDS)
        for task in list(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
            if size > MAX_MESSAGE:
                return
            data = await reader.readexactly(size)
            try:
                request = self._decoder.decode(data)
            except (msgspec.MsgspecError, UserError, RecursionError) as error:
                writer.write(pack(Reply(error=f"the service doesn't understand: {error}")))
                await writer.drain()
                continue
            reply = await self._answer(request, reader)
            if reply is None:
                return
            writer.write(pack(reply))
            await writer.drain()
            if isinstance(request, OpenStream) and reply.error is None:
                await self.service.streams.serve(request.name, reader, writer)
                return
            if isinstance(request, AttachConsole) and reply.error is None:
                domid: int = msgspec.msgpack.decode(reply.value)
                await self.service.hub(domid).view(reader, writer, request.follow)
                return

    async def _answer(self, request: Request[Any], reader: asyncio.StreamReader) -> Reply | None:
        """The reply; None if the client has gone, and what it waited for with it."""
        task = asyncio.create_task(self._reply(request))
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)
        if not isinstance(request, WaitEnd):
            return await asyncio.shield(task)
        left = asyncio.create_task(reader.read(1))
        await asyncio.wait([task, left], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            return None
        left.cancel()
        # The stream has one reader at a time: this one has to be gone before the next.
        await asyncio.gather(left, return_exceptions=True)
        if not left.cancelled():
            return None
        return task.result()

    async def _reply(self, request: Request[Any]) -> Reply:
        try:
            return Reply(encode(await self._do(request)))
        except Failure as error:
            return Reply(error=str(error), status=error.status)
        except UserError as error:
            return Reply(error=str(error))
        except XenError as error:
            return Reply(error=f"the hypervisor answered {error.errno.name}")
        except Exception as error:
            self.service.log(traceback.format_exc())
            return Reply(
                error=f"internal error: {type(error).__name__}: {' '.join(str(error).split())}"
                f" (a bug; {self.service.paths.log} has the traceback)"
            )

    async def _do(self, request: Request[Any]) -> Any:
        on_loop = LOOP.get(type(request))
        if on_loop is not None:
            return await on_loop(self.service, request)
        on_machine = MACHINE[type(request)]
        host = self.service.host
        return await self.service.thread.call(lambda: on_machine(host, request))
