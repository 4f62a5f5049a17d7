# SPDX-License-Identifier: GPL-2.0-or-later
"""The service's parts by themselves: consoles, records, messages, the log, locks."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.service import consoles, daemon
from xenograft.toolstack.service import handlers as handlers
from xenograft.toolstack.service.consoles import ConsoleHub
from xenograft.toolstack.service.daemon import Log, take_lock
from xenograft.toolstack.service.host import Remainder
from xenograft.toolstack.service.messages import CreateDomain, DomainInfo, Reply, Request, WaitEnd
from xenograft.toolstack.service.record import (
    RunningGuest,
    read_record,
    take_record,
    write_record,
)
from xenograft.toolstack.service.wire import WireError, pack, receive_reply, request_decoder


class TestRecord:
    GUESTS = (RunningGuest(3, "web", "u", DomainConfig(name="web", memory=64)),)

    def test_what_was_running(self, tmp_path: Path) -> None:
        path = tmp_path / "running"
        write_record(path, self.GUESTS)
        found = read_record(path)
        assert found is not None
        assert (found.pid, found.guests) == (os.getpid(), list(self.GUESTS))
        assert take_record(path) == found
        assert take_record(path) is None
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"{",
            b"null",
            b"\xff",
            b'{"pid": 1}',
            b'{"pid": 1, "guests": [{"domid": 1, "name": "x", "uuid": "", "config": %s}]}'
            % b'{"vcpus": 0}',
            b'{"pid": 1, "guests": [{"domid": 1, "name": "x", "uuid": "", "config": %s}]}'
            % b'{"new": 0}',
        ],
    )
    def test_what_cannot_be_read_is_nobody(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "running"
        path.write_bytes(data)
        assert take_record(path) is None
        assert not path.exists()


class TestWire:
    @given(st.binary(max_size=200))
    def test_no_bytes_break_the_decoder(self, data: bytes) -> None:
        try:
            request_decoder().decode(data)
        except (msgspec.MsgspecError, UserError):
            return

    def test_requests_come_back(self) -> None:
        for request in (
            CreateDomain(DomainConfig(name="web", cpuid=("a", "b"), on_crash="preserve"), True),
            WaitEnd("web", 1.5, gone=True),
        ):
            assert request_decoder().decode(pack(request)[4:]) == request

    def test_requests_have_results(self) -> None:
        assert CreateDomain.result.__name__ == "Created"
        assert all(kind.result is not None for kind in Request.known)

    def test_a_reply_that_never_comes(self) -> None:
        ours, theirs = socket.socketpair()
        with ours:
            theirs.sendall(pack(Reply())[:3])
            theirs.close()
            with pytest.raises(WireError, match="hung up"):
                receive_reply(ours)

    def test_a_reply_too_large(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(b"\xff\xff\xff\x7f")
            with pytest.raises(WireError, match="2147483647 bytes"):
                receive_reply(ours)

    @pytest.mark.parametrize(
        ("on", "state"),
        [
            (("running",), "r-----"),
            (("blocked", "paused"), "-bp---"),
            (("shutdown",), "---s--"),
            (("dying",), "-----d"),
        ],
    )
    def test_letters_of_the_state(self, on: tuple[str, ...], state: str) -> None:
        flags = dict.fromkeys(("running", "blocked", "paused", "shutdown", "dying"), False)
        info = DomainInfo(
            domid=1,
            name="x",
            uuid="",
            kind="pvh",
            shutdown_reason=0,
            memory_kib=0,
            max_kib=0,
            shared_kib=0,
            vcpus=1,
            max_vcpus=1,
            cpu_time_ns=0,
            age_ns=0,
            pool="",
            **{**flags, **dict.fromkeys(on, True)},
        )
        assert info.state == state
        crashed = msgspec.structs.replace(info, shutdown=True, shutdown_reason=3)
        assert crashed.state[3:5] == "sc"


class _Writer:
    """A viewer's socket: takes what `room` allows."""

    def __init__(self) -> None:
        self.seen = b""
        self.open = asyncio.Event()
        self.open.set()

    def write(self, data: bytes) -> None:
        self.seen += data

    async def drain(self) -> None:
        await self.open.wait()


def play(scene: Callable[[ConsoleHub], Awaitable[None]]) -> list[bytes]:
    """Run a scene with a console that notes what was typed at it."""
    typed: list[bytes] = []

    async def type_(data: bytes) -> int:
        typed.append(data[:2])
        return min(len(data), 2)

    async def run() -> None:
        await asyncio.wait_for(scene(ConsoleHub(type_)), 20)

    asyncio.run(run())
    return typed


class TestConsoleHub:
    def test_a_slow_viewer_loses_output_and_holds_up_nobody(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(consoles, "WINDOW", 1000)

        async def scene(hub: ConsoleHub) -> None:
            slow, quick = _Writer(), _Writer()
            reader = asyncio.StreamReader()
            views = [
                asyncio.create_task(hub.view(reader, writer, False))  # type: ignore[arg-type]
                for writer in (slow, quick)
            ]
            del views[1]
            second = asyncio.StreamReader()
            views.append(asyncio.create_task(hub.view(second, quick, False)))  # type: ignore[arg-type]
            slow.open.clear()
            for number in range(100):
                hub.feed(b"%03d%s\n" % (number, b"x" * 96))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            slow.open.set()
            hub.finish(None)
            await asyncio.gather(*views)
            assert b"099" in slow.seen
            assert b"bytes of output were lost" in slow.seen
            assert b"050" not in slow.seen
            assert all(b"%03d" % number in quick.seen for number in range(100))

        play(scene)

    def test_a_new_viewer_begins_at_a_line(self) -> None:
        async def scene(hub: ConsoleHub) -> None:
            line = b"x" * 99 + b"\n"
            hub.feed(line * 2000)
            hub.finish(None)
            writer, reader = _Writer(), asyncio.StreamReader()
            await hub.view(reader, writer, False)  # type: ignore[arg-type]
            assert writer.seen == line * (consoles.FIRST_LOOK // 100)

        play(scene)

    def test_what_is_typed_is_typed_until_it_is_taken(self) -> None:
        async def scene(hub: ConsoleHub) -> None:
            writer, reader = _Writer(), asyncio.StreamReader()
            reader.feed_data(b"abcde")
            view = asyncio.create_task(hub.view(reader, writer, False))  # type: ignore[arg-type]
            await asyncio.sleep(4 * consoles._PATIENCE)
            reader.feed_eof()
            await view

        assert play(scene) == [b"ab", b"cd", b"e"]

    def test_who_follows_goes_on_with_the_successor(self) -> None:
        async def scene(hub: ConsoleHub) -> None:
            async def type_(data: bytes) -> int:
                return len(data)

            hub.feed(b"first ")
            writers = [_Writer(), _Writer()]
            views = [
                asyncio.create_task(
                    hub.view(asyncio.StreamReader(), writer, follow)  # type: ignore[arg-type]
                )
                for writer, follow in zip(writers, (True, False), strict=True)
            ]
            await asyncio.sleep(0.01)
            hub.end()
            await asyncio.sleep(0.01)
            assert [view.done() for view in views] == [False, True]
            second = ConsoleHub(type_)
            hub.finish(second)
            second.feed(b"second")
            second.finish(None)
            await asyncio.gather(*views)
            assert [writer.seen for writer in writers] == [b"first second", b"first "]

        play(scene)


class TestLog:
    def test_lines_have_the_time(self, tmp_path: Path) -> None:
        log = Log(tmp_path / "log")
        log("one\ntwo")
        os.close(log.handle)
        lines = (tmp_path / "log").read_text().splitlines()
        assert [line[20:] for line in lines] == ["one", "two"]

    def test_a_large_one_is_set_aside(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(daemon, "_LOG_LIMIT", 10)
        path = tmp_path / "log"
        path.write_text("x" * 11)
        os.close(Log(path).handle)
        assert path.read_text() == ""
        assert (tmp_path / "log.old").read_text() == "x" * 11


class TestLock:
    def test_one_at_a_time(self, tmp_path: Path) -> None:
        path = tmp_path / "lock"
        first = take_lock(path)
        with pytest.raises(UserError, match="another service holds"):
            take_lock(path, 0.05)
        assert path.read_text() == f"{os.getpid()}\n"
        # Whoever ends soon is waited for.
        timer = threading.Timer(0.1, os.close, (first,))
        timer.start()
        os.close(take_lock(path))
        timer.join()

    def test_a_stale_one_is_no_lock(self, tmp_path: Path) -> None:
        path = tmp_path / "lock"
        path.write_text("1\n")
        handle = take_lock(path)
        with path.open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(handle)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=20))
def test_what_is_left_of_a_time_never_falls(steps: list[tuple[int, int]]) -> None:
    """Whatever the two clocks do; and it grows by no more than the whole does."""
    rest, whole, part, last = Remainder(), 0, 0, 0
    for more, less in steps:
        whole, part = whole + more, part + less
        left = rest.advance(whole, part)
        assert left - last == max(more - less, 0)
        last = left
