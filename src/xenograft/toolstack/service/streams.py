# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections that carry a guest's bytes, and lines, from one service to another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from xenograft.toolstack.service.messages import Failure

OPEN_SECONDS = 20.0
"""How long a request waits for its stream."""
ANSWER_SECONDS = 60.0
"""How long the other end may take for its next step."""
_LAST_WORDS_SECONDS = 1.0
_CHUNK = 256 << 10
MAX_LINE = 2000
MAX_NAME = 64


class LinkBroken(Exception):
    """The other end is gone, or says what it can't."""


class Stream:
    """A connection for a guest's bytes, and lines."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._line: asyncio.Future[bytes] | None = None
        self.sent = 0

    async def write(self, data: bytes) -> None:
        """Raises LinkBroken; Failure if the other end says meanwhile what's wrong (`listen`)."""
        self.sent += len(data)
        view = memoryview(data)
        for at in range(0, len(view), _CHUNK):
            if self._line is not None and self._line.done():
                await self.hear("", 0)
            try:
                self._writer.write(view[at : at + _CHUNK])
                await self._writer.drain()
            except OSError as error:
                if self._line is not None:
                    await self.hear("", _LAST_WORDS_SECONDS)
                raise LinkBroken(error.strerror or str(error)) from None

    def listen(self) -> None:
        """From now on, hear at once if the other end has something to say."""
        self._line = asyncio.ensure_future(self._reader.readuntil(b"\n"))

    def close(self) -> None:
        """Nothing is heard any more."""
        if self._line is not None:
            self._line.cancel()
            self._line = None

    async def say(self, line: str) -> None:
        await self.write(line.encode() + b"\n")

    async def read(self, size: int) -> bytes:
        """That many bytes, fewer at the end."""
        try:
            return await self._reader.readexactly(size)
        except asyncio.IncompleteReadError as error:
            return error.partial
        except OSError:
            return b""

    async def hear(self, wanted: str, seconds: float = ANSWER_SECONDS) -> None:
        """Wait for a line.  Raises LinkBroken; Failure if it's an error."""
        if self._line is None:
            self.listen()
        assert self._line is not None
        line_task, self._line = self._line, None
        try:
            line = await asyncio.wait_for(line_task, seconds)
        except TimeoutError:
            raise LinkBroken(f"no answer in {seconds:g} s") from None
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            raise LinkBroken("the connection has broken") from None
        text = line[:MAX_LINE].decode("utf-8", "replace").rstrip("\n")
        if text.startswith("ERROR "):
            raise Failure(" ".join(text[6:].split()))
        if text != wanted:
            raise LinkBroken(f"{text[:40]!r} came instead of {wanted}")


class Streams:
    """Streams that were opened, until whoever asked for them takes them."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[Stream]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    def _future(self, name: str) -> asyncio.Future[Stream]:
        loop = asyncio.get_running_loop()
        return self._waiting.setdefault(name, loop.create_future())

    def check(self, name: str) -> None:
        """Raises Failure for a name that can't be, or is taken."""
        if not name or len(name) > MAX_NAME or name in self._ends:
            raise Failure("a stream needs a name of its own")

    async def serve(
        self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """A connection has become a stream: keep it until its user is done."""
        future = self._future(name)
        if future.done():
            return
        end = self._ends[name] = asyncio.Event()
        future.set_result(Stream(reader, writer))
        try:
            await end.wait()
            with contextlib.suppress(OSError):
                await writer.drain()
        finally:
            self._waiting.pop(name, None)
            self._ends.pop(name, None)

    @contextlib.asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[Stream]:
        """The stream of that name.  Raises Failure if nobody opens it."""
        future = self._future(name)
        try:
            stream = await asyncio.wait_for(asyncio.shield(future), OPEN_SECONDS)
        except TimeoutError:
            self._waiting.pop(name, None)
            raise Failure("nobody has opened the stream") from None
        try:
            yield stream
        finally:
            stream.close()
            if name in self._ends:
                self._ends[name].set()
