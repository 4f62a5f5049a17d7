# SPDX-License-Identifier: GPL-2.0-or-later
"""The service from outside: real sockets, real threads, scripted guests."""

from __future__ import annotations

import os
import socket
import stat
import struct
import threading
import time
from pathlib import Path

import msgspec
import pytest

from tests.toolstack.service.support import Running, config, pieces, read_until, until
from xenograft.abi import sched
from xenograft.abi.hvm import params
from xenograft.hypervisor.state.records import StateError
from xenograft.toolstack.errors import Failure
from xenograft.toolstack.service import handlers, messages, sessions
from xenograft.toolstack.service.client import ServiceGone
from xenograft.toolstack.service.messages import (
    AttachConsole,
    CreateDomain,
    Destroy,
    GetService,
    ListDomains,
    Pause,
    Rename,
    Request,
    Shutdown,
    StopService,
    Unpause,
    WaitEnd,
)
from xenograft.toolstack.service.table import LOOP, MACHINE
from xenograft.toolstack.service.wire import pack, receive_reply
from xenograft.toolstack.state import softreset

assert handlers


def names(service: Running) -> list[str]:
    return [info.name for info in service.ask(ListDomains())]


def type_at(service: Running, domain: str, text: bytes) -> None:
    with service.connect() as client:
        client.call(AttachConsole(domain))
        client.sock.sendall(text)
        read_until(client.sock, b"<" + text.strip() + b">")


def test_every_request_has_one_handler() -> None:
    assert set(MACHINE) | set(LOOP) == set(Request.known)
    assert not set(MACHINE) & set(LOOP)


class TestDomains:
    def test_create_list_destroy(self, service: Running, kernel: Path) -> None:
        created = service.ask(CreateDomain(config(kernel, "web", vcpus=1, maxvcpus=3)))
        assert (created.domid, created.name) == (1, "web")
        control, web = service.ask(ListDomains())
        assert (control.domid, control.name, control.state[0]) == (0, "Domain-0", "r")
        assert (web.name, web.kind, web.vcpus, web.max_vcpus) == ("web", "pvh", 1, 3)
        assert web.memory_kib >> 10 == 32
        assert web.uuid != control.uuid
        assert service.ask(ListDomains(["web"]))[0].domid == 1
        assert service.ask(ListDomains(["1"]))[0].name == "web"
        service.ask(Destroy("web"))
        assert names(service) == ["Domain-0"]

    def test_names_that_are_not_there(self, service: Running) -> None:
        for name in ("nosuch", "7", "99999999999", "", "0x1", "²"):
            with pytest.raises(Failure, match=r"is an invalid domain identifier \(rc=-6\)") as got:
                service.ask(ListDomains([name]))
            assert got.value.status == 1

    def test_a_name_is_given_once(self, service: Running, kernel: Path) -> None:
        service.ask(CreateDomain(config(kernel, "web")))
        with pytest.raises(Failure, match='Domain with name "web" already exists'):
            service.ask(CreateDomain(config(kernel, "web")))
        service.ask(CreateDomain(config(kernel, "db")))
        with pytest.raises(Failure, match="already exists"):
            service.ask(Rename("db", "web"))
        service.ask(Rename("db", "mail"))
        service.ask(Rename("mail", "mail"))
        assert names(service) == ["Domain-0", "web", "mail"]
        assert service.machine is not None
        store = service.machine.services.client
        assert store.read("/local/domain/2/name") == "mail"

    def test_two_creations_of_one_name_at_once(self, service: Running, kernel: Path) -> None:
        outcomes: list[str] = []

        def create() -> None:
            try:
                service.ask(CreateDomain(config(kernel, "web")))
                outcomes.append("made")
            except Failure:
                outcomes.append("refused")

        threads = [threading.Thread(target=create) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["made", "refused", "refused", "refused"]
        assert names(service) == ["Domain-0", "web"]

    def test_bad_configurations_are_one_line(self, service: Running, tmp_path: Path) -> None:
        with pytest.raises(Failure, match="no such file") as failure:
            service.ask(CreateDomain(config(tmp_path / "missing")))
        assert "\n" not in str(failure.value)
        assert names(service) == ["Domain-0"]

    def test_limits_of_a_configuration(self, service: Running, kernel: Path) -> None:
        service.ask(
            CreateDomain(
                config(
                    kernel,
                    max_grant_frames=5,
                    max_maptrack_frames=6,
                    max_grant_version=1,
                    max_event_channels=77,
                    timer_mode="one_missed_tick_pending",
                )
            )
        )
        assert service.machine is not None
        xen = service.machine.domains[0].xen
        assert (xen.grants.max_grant_frames, xen.grants.max_maptrack_frames) == (5, 6)
        assert xen.grants.max_version == 1
        assert xen.events.max_port == 77
        assert xen.hvm_params[params.HVM_PARAM_TIMER_MODE] == 3

    def test_pause_and_unpause(self, service: Running, kernel: Path) -> None:
        service.ask(CreateDomain(config(kernel), paused=True))
        assert service.ask(ListDomains(["guest"]))[0].state[2] == "p"
        service.ask(Unpause("guest"))
        assert service.ask(ListDomains(["guest"]))[0].state[2] == "-"
        service.ask(Pause("guest"))
        service.ask(Pause("guest"))
        service.ask(Unpause("guest"))
        assert service.ask(ListDomains(["guest"]))[0].state[2] == "p"
        service.ask(Unpause("guest"))
        with pytest.raises(Failure, match="Unpausing domain: Invalid argument") as failure:
            service.ask(Unpause("guest"))
        assert failure.value.status == 0

    def test_domain_0_is_no_guest(self, service: Running) -> None:
        for request in (Pause("0"), Destroy("Domain-0"), Shutdown("0")):
            with pytest.raises(Failure, match="Domain-0"):
                service.ask(request)

    def test_shutdown_needs_pv_drivers(self, service: Running, kernel: Path) -> None:
        service.ask(CreateDomain(config(kernel)))
        with pytest.raises(Failure, match="PV control interface not available"):
            service.ask(Shutdown("guest"))


class TestEnds:
    @pytest.mark.parametrize(
        ("word", "settings"),
        [
            ("poweroff", {}),
            ("crash", {}),
            ("watchdog", {}),
            ("reboot", {"on_reboot": "destroy"}),
            ("soft_reset", {"on_soft_reset": "destroy"}),
            ("odd", {}),
        ],
    )
    def test_destroyed(
        self, service: Running, kernel: Path, word: str, settings: dict[str, str]
    ) -> None:
        service.ask(CreateDomain(config(kernel, **settings)))
        with service.connect() as waiting:
            done: list[messages.Ended] = []
            thread = threading.Thread(target=lambda: done.append(waiting.call(WaitEnd("1"))))
            thread.start()
            type_at(service, "guest", word.encode())
            thread.join()
        assert done[0].domid == 1
        assert done[0].reason is not None
        until(lambda: names(service) == ["Domain-0"])

    @pytest.mark.parametrize(
        ("word", "settings"),
        [
            ("reboot", {}),
            ("crash", {"on_crash": "restart"}),
            ("poweroff", {"on_poweroff": "restart"}),
            ("watchdog", {"on_watchdog": "restart"}),
            ("soft_reset", {"on_soft_reset": "restart"}),
            ("crash", {"on_crash": "coredump-restart"}),
        ],
    )
    def test_built_again(
        self, service: Running, kernel: Path, word: str, settings: dict[str, str]
    ) -> None:
        service.ask(CreateDomain(config(kernel, **settings)))
        (first,) = service.ask(ListDomains(["guest"]))
        type_at(service, "guest", word.encode())
        again = until(lambda: service.ask(ListDomains())[1:])[0]
        until(lambda: [info.domid for info in service.ask(ListDomains())] == [0, 2])
        again = service.ask(ListDomains(["guest"]))[0]
        assert (again.domid, again.name, again.uuid) == (2, "guest", first.uuid)
        type_at(service, "guest", b"I live")
        dumps = list(service.paths.dumps.glob("*")) if service.paths.dumps.exists() else []
        assert bool(dumps) == ("coredump" in settings.get("on_crash", ""))
        assert all(path.name.endswith("-guest.1.core") for path in dumps)

    @pytest.mark.parametrize("fault", [None, StateError("it serves others")])
    def test_a_soft_reset_keeps_the_memory(
        self,
        service: Running,
        kernel: Path,
        fault: StateError | None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def refuse(_xen: object) -> object:
            assert fault is not None
            raise fault

        if fault is not None:
            monkeypatch.setattr(softreset, "capture", refuse)
        service.ask(CreateDomain(config(kernel)))
        (first,) = service.ask(ListDomains(["guest"]))
        assert service.machine is not None
        xen = service.machine.hypervisor.domains[1]
        gfn = xen.space.entries()[0][0] + 3
        xen.space.write(gfn << 12, b"kept")
        type_at(service, "guest", b"soft_reset")
        if fault is not None:
            until(lambda: names(service) == ["Domain-0"])
            until(
                lambda: "can't have a soft reset: it serves others" in service.paths.log.read_text()
            )
            return
        until(lambda: [info.domid for info in service.ask(ListDomains())] == [0, 2])
        again = service.ask(ListDomains(["guest"]))[0]
        assert (again.name, again.uuid) == ("guest", first.uuid)
        assert service.machine.hypervisor.domains[2].space.read(gfn << 12, 4) == b"kept"
        type_at(service, "guest", b"I live")

    def test_preserved(self, service: Running, kernel: Path) -> None:
        service.ask(CreateDomain(config(kernel, on_crash="preserve")))
        type_at(service, "guest", b"crash")
        info = until(
            lambda: [i for i in service.ask(ListDomains(["guest"])) if i.state[3:5] == "sc"]
        )[0]
        assert info.shutdown_reason == sched.SHUTDOWN_crash
        assert service.ask(WaitEnd("guest")).reason == sched.SHUTDOWN_crash
        assert service.ask(WaitEnd("guest", gone=True)).reason == sched.SHUTDOWN_crash
        service.ask(Destroy("guest"))
        assert names(service) == ["Domain-0"]

    def test_a_suspended_domain_stays(self, service: Running, kernel: Path) -> None:
        service.ask(CreateDomain(config(kernel)))
        type_at(service, "guest", b"suspend")
        until(lambda: service.ask(ListDomains(["guest"]))[0].shutdown)
        assert service.ask(ListDomains(["guest"]))[0].shutdown_reason == sched.SHUTDOWN_suspend

    def test_renamed_and_built_again(self, service: Running, kernel: Path) -> None:
        service.ask(CreateDomain(config(kernel, on_crash="rename-restart")))
        (first,) = service.ask(ListDomains(["guest"]))
        type_at(service, "guest", b"crash")
        until(lambda: len(names(service)) == 3)
        old, new = service.ask(ListDomains())[1:]
        assert old.name.startswith("guest-")
        assert (old.domid, new.domid) == (1, 2)
        assert (new.name, new.uuid) == ("guest", first.uuid)
        assert old.uuid != first.uuid
        assert service.machine is not None
        store = service.machine.services.client
        assert store.read("/local/domain/1/vm") == f"/vm/{old.uuid}"
        assert store.read(f"/vm/{old.uuid}/name") == old.name
        assert store.read(f"/vm/{first.uuid}/name") == "guest"
        service.ask(Destroy("1"))
        assert names(service) == ["Domain-0", "guest"]

    def test_waiting_has_an_end(self, service: Running, kernel: Path) -> None:
        service.ask(CreateDomain(config(kernel)))
        with pytest.raises(Failure, match="still running") as failure:
            service.ask(WaitEnd("guest", timeout=0.01))
        assert failure.value.status == 4

    @pytest.mark.parametrize("gone", [False, True])
    def test_destruction_ends_waiting(self, service: Running, kernel: Path, gone: bool) -> None:
        service.ask(CreateDomain(config(kernel)))
        with service.connect() as client:
            # A reply that isn't read keeps no one: the destruction is asked for behind it.
            client.sock.sendall(pack(WaitEnd("guest", gone=gone)))
            time.sleep(0.05)
            service.ask(Destroy("guest"))
            reply = receive_reply(client.sock)
        ended = msgspec.msgpack.decode(reply.value, type=messages.Ended | None)
        # Had the destruction come first, there would have been nobody to wait for.
        assert ended == messages.Ended(1, None) if ended is not None else reply.error

    def test_one_connection_may_wait_and_go_on(self, service: Running, kernel: Path) -> None:
        with service.connect() as client:
            for _ in range(2):
                client.call(CreateDomain(config(kernel, on_poweroff="preserve")))
                type_at(service, "guest", b"poweroff")
                assert client.call(WaitEnd("guest")).reason == sched.SHUTDOWN_poweroff
                client.call(Destroy("guest"))

    def test_a_kernel_that_has_gone_ends_the_guest(self, service: Running, kernel: Path) -> None:
        service.ask(CreateDomain(config(kernel)))
        with service.connect() as follower:
            follower.call(AttachConsole("guest", follow=True))
            kernel.rename(kernel.with_name("gone"))
            follower.sock.settimeout(20)
            follower.sock.sendall(b"reboot")
            assert b"".join(pieces(follower.sock)).endswith(b"<reboot>\n")
        assert names(service) == ["Domain-0"]
        until(lambda: "no such file" in service.log())

    def test_a_fault_of_ours_at_an_end_is_logged(
        self, service: Running, kernel: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> None:
            raise ZeroDivisionError("oh")

        monkeypatch.setattr("xenograft.toolstack.service.service.decide", broken)
        service.ask(CreateDomain(config(kernel)))
        type_at(service, "guest", b"poweroff")
        until(lambda: "ZeroDivisionError: oh" in service.log())
        # It stays where it was, for somebody to destroy.
        service.ask(Destroy("guest"))
        assert names(service) == ["Domain-0"]


class TestConsoles:
    def test_the_past_comes_first(self, service: Running, kernel: Path) -> None:
        service.ask(CreateDomain(config(kernel)))
        type_at(service, "guest", b"one")
        with service.connect() as late:
            late.call(AttachConsole("guest"))
            assert read_until(late.sock, b"<one>\n").startswith(b"hello\n")

    def test_viewers_see_the_same(self, service: Running, kernel: Path) -> None:
        service.ask(CreateDomain(config(kernel)))
        clients = [service.connect() for _ in range(5)]
        for client in clients:
            client.call(AttachConsole("guest"))
        clients[0].sock.sendall(b"from one")
        clients[4].sock.sendall(b"from another")
        for client in clients:
            seen = read_until(client.sock, b"another")
            assert b"from one" in seen
        for client in clients:
            client.close()

    def test_a_viewer_that_leaves(self, service: Running, kernel: Path) -> None:
        service.ask(CreateDomain(config(kernel)))
        with service.connect() as gone:
            gone.call(AttachConsole("guest"))
        type_at(service, "guest", b"still there")

    def test_it_ends_with_the_domain(self, service: Running, kernel: Path) -> None:
        service.ask(CreateDomain(config(kernel)))
        with service.connect() as client:
            client.call(AttachConsole("guest"))
            client.sock.settimeout(20)
            client.sock.sendall(b"poweroff")
            assert b"".join(pieces(client.sock)).endswith(b"<poweroff>\n")

    def test_one_that_follows_sees_the_next(self, service: Running, kernel: Path) -> None:
        service.ask(CreateDomain(config(kernel)))
        with service.connect() as follower, service.connect() as other:
            follower.call(AttachConsole("guest", follow=True))
            other.call(AttachConsole("guest"))
            follower.sock.sendall(b"reboot")
            other.sock.settimeout(20)
            assert b"".join(pieces(other.sock)).endswith(b"<reboot>\n")
            read_until(follower.sock, b"<reboot>\nhello\n")
            follower.sock.sendall(b"poweroff")
            read_until(follower.sock, b"<poweroff>\n")
            assert follower.sock.recv(1) == b""

    def test_there_is_one_kind(self, service: Running, kernel: Path) -> None:
        service.ask(CreateDomain(config(kernel)))
        with pytest.raises(Failure, match="no serial console 0"):
            service.ask(AttachConsole("guest", kind="serial"))


class TestClients:
    def test_the_socket_is_the_owners(self, service: Running) -> None:
        for path in (service.paths.socket, service.paths.xenstore):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_others_are_refused(self, service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(sessions, "peer_uid", lambda _sock: os.getuid() + 1)
            with service.connect() as client, pytest.raises(ServiceGone):
                client.call(GetService())
        until(lambda: f"refused a client of user {os.getuid() + 1}" in service.log())

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\xff",
            b"\xff\xff\xff\xff",
            struct.pack("<I", 17 << 20),
            struct.pack("<I", 100) + b"short",
            b"GET / HTTP/1.1\r\n\r\n",
        ],
    )
    def test_nonsense_hurts_nobody(self, service: Running, data: bytes) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(service.paths.socket))
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(20)
            assert sock.recv(64) == b""
        assert service.ask(GetService()).guests == []

    @pytest.mark.parametrize(
        "value",
        [
            {},
            {"type": "Nothing"},
            {"type": "Pause"},
            {"type": "Pause", "domain": 5},
            {"type": "Pause", "domain": "x", "more": 1},
            {"type": "CreateDomain", "config": {"name": "a b"}},
            [],
            None,
            [[[[[[[]]]]]]],
        ],
    )
    def test_requests_that_are_none(self, service: Running, value: object) -> None:
        data = msgspec.msgpack.encode(value)
        with service.connect() as client:
            client.sock.sendall(struct.pack("<I", len(data)) + data)
            reply = receive_reply(client.sock)
            assert reply.error is not None
            assert "doesn't understand" in reply.error
            # The connection is as good as before.
            assert client.call(GetService()).guests == []

    def test_a_client_that_dies_while_it_creates(self, service: Running, kernel: Path) -> None:
        client = service.connect()
        client.sock.sendall(pack(CreateDomain(config(kernel))))
        client.close()
        until(lambda: "guest" in names(service))

    def test_a_fault_of_ours_is_a_line(
        self, service: Running, kernel: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(host: object, request: object) -> None:
            raise ZeroDivisionError("by\nzero")

        monkeypatch.setitem(MACHINE, Pause, broken)
        with pytest.raises(Failure, match=r"internal error: ZeroDivisionError: by zero \(a bug;"):
            service.ask(Pause("guest"))
        assert "Traceback" in service.log()
        assert names(service) == ["Domain-0"]


class TestEnd:
    def test_stop(self, service: Running, kernel: Path) -> None:
        service.ask(CreateDomain(config(kernel)))
        assert service.paths.running.exists()
        assert service.ask(StopService()) == ["guest"]
        service.join()
        left = {path.name for path in service.paths.folder.iterdir()}
        assert left == {"log"}
        assert service.log().endswith("stopped\n")

    def test_waiting_clients_are_let_go(self, service: Running, kernel: Path) -> None:
        service.ask(CreateDomain(config(kernel)))
        with service.connect() as waiting, service.connect() as viewer:
            viewer.call(AttachConsole("guest"))
            failures: list[Exception] = []

            def wait() -> None:
                try:
                    waiting.call(WaitEnd("guest"))
                except Failure as failure:
                    failures.append(failure)

            thread = threading.Thread(target=wait)
            thread.start()
            service.ask(StopService())
            service.join()
            thread.join()

    def test_a_machine_that_cannot_be_made(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_self: Running) -> None:
            raise OSError("no memory")

        monkeypatch.setattr(Running, "_make", fail)
        with pytest.raises(OSError, match="no memory"):
            Running(folder)
        assert not (folder / "socket").exists()
