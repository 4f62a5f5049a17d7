# SPDX-License-Identifier: GPL-2.0-or-later
"""The service as a process of its own: started by commands, killed at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.toolstack.service.support import read_until, until
from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.service import client as client_module
from xenograft.toolstack.service.client import await_end, connect, find, stop
from xenograft.toolstack.service.messages import (
    AttachConsole,
    CreateDomain,
    GetService,
    ListDomains,
)
from xenograft.toolstack.service.paths import ServicePaths, service_paths

XG = (sys.executable, "-c", "from xenograft.cli.main import main; main()")
KILLS = int(os.environ.get("XG_SOAK", "6"))
"""How many times the service is killed while it creates guests."""


@pytest.fixture
def paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServicePaths]:
    monkeypatch.setenv("XG_SERVICE_DIR", str(folder))
    found = service_paths()
    yield found
    stop(found)
    assert await_end(found)


def configured(kernel: Path, name: str = "demo", **more: object) -> DomainConfig:
    return DomainConfig(name=name, kernel=str(kernel), memory=32, **more)  # type: ignore[arg-type]


def kill(paths: ServicePaths) -> int:
    pid = int(paths.lock.read_text())
    os.kill(pid, signal.SIGKILL)
    assert await_end(paths)
    return pid


def xg(*words: str, **more: object) -> subprocess.CompletedProcess[str]:
    """The command as users run it."""
    return subprocess.run(
        [*XG, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        stdin=subprocess.DEVNULL,
        **more,  # type: ignore[call-overload]
    )


def test_to_stop_one_that_ends_by_itself(paths: ServicePaths) -> None:
    assert stop(paths) is None
    with socket.socket(socket.AF_UNIX) as dying:
        dying.bind(str(paths.socket))
        dying.listen()
        hangs_up = threading.Thread(target=lambda: dying.accept()[0].close())
        hangs_up.start()
        assert stop(paths) == []
        hangs_up.join()
    paths.socket.unlink()


def test_the_first_command_starts_it(paths: ServicePaths) -> None:
    assert find(paths) is None
    done = xg("list")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Domain-0" in done.stdout
    with connect(paths) as client:
        info = client.call(GetService())
    # It's nobody's child any more, has no terminal, and stands in no folder of ours.
    assert os.getpgid(info.pid) == info.pid == os.getsid(info.pid)
    assert os.readlink(f"/proc/{info.pid}/cwd") == "/"  # noqa: PTH115
    for path in (paths.socket, paths.xenstore, paths.log, paths.lock):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert xg("service", "stop").returncode == 0
    assert await_end(paths)
    assert not paths.socket.exists()
    assert not paths.xenstore.exists()


def test_many_start_one(paths: ServicePaths) -> None:
    commands = [
        subprocess.Popen(
            [*XG, "list"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    outputs = [command.communicate(timeout=60)[0] for command in commands]
    assert all("Domain-0" in output for output in outputs)
    assert paths.log.read_text().count("ready") == 1


def test_a_guest_outlives_its_command(paths: ServicePaths, guest: Callable[[str], Path]) -> None:
    with connect(paths) as client:
        client.call(CreateDomain(configured(guest("demo-64"))))
    with connect(paths) as client:
        client.call(AttachConsole("demo"))
        client.sock.sendall(b"help\r")
        read_until(client.sock, b"help")


def test_sigterm_stops_it(paths: ServicePaths, guest: Callable[[str], Path]) -> None:
    with connect(paths) as client:
        client.call(CreateDomain(configured(guest("demo-64"))))
        pid = client.call(GetService()).pid
    os.kill(pid, signal.SIGTERM)
    assert await_end(paths)
    assert not paths.running.exists()
    assert not paths.socket.exists()
    assert paths.log.read_text().endswith("stopped\n")


def test_after_a_kill_it_is_said_what_was_running(
    paths: ServicePaths, guest: Callable[[str], Path]
) -> None:
    with connect(paths) as client:
        for name in ("web", "db"):
            client.call(CreateDomain(configured(guest("demo-64"), name)))
    pid = kill(paths)
    done = xg("service", "status", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["lost"] == ["web", "db"]
    done = xg("list", "--json")
    assert done.returncode == 0
    assert done.stderr == (
        f"xg: the service had ended without stopping (process {pid}); it was running: web, db\n"
    )
    assert [domain["name"] for domain in json.loads(done.stdout)] == ["Domain-0"]
    # It's said once; `status` still knows.
    assert xg("list").stderr == ""
    assert "ended without stopping, with web, db" in xg("service", "status").stdout
    xg("service", "stop")
    assert xg("list").stderr == ""


def test_killed_at_random_moments_of_a_create(
    paths: ServicePaths, guest: Callable[[str], Path], tmp_path: Path
) -> None:
    """No lock is left that holds up the next command, no half of a record, no process."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 16))
    before = disk.read_bytes()
    kernel = guest("demo-64")
    config = tmp_path / "demo.cfg"
    config.write_text(
        f'name="demo"\ntype="pvh"\nkernel="{kernel}"\nmemory=64\ndisk=["{disk},raw,xvda,rw"]\n'
    )
    chance = random.Random(5)
    pids = set()
    for round_ in range(KILLS):
        with connect(paths) as client:
            pids.add(client.call(GetService()).pid)
        command = subprocess.Popen(
            [*XG, "create", "-q", str(config)],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        # A create takes a third of a second, most of it for the command's own start.
        time.sleep(chance.uniform(0.05, 0.5))
        kill(paths)
        _, errors = command.communicate(timeout=60)
        # It was done, or it's said in a line what happened; a service that was killed before
        # the command came is started by it.
        assert "Traceback" not in errors, errors
        assert errors.count("\n") <= 2
        with connect(paths) as client:
            names = [info.name for info in client.call(ListDomains())]
            if "demo" not in names:
                client.call(CreateDomain(configured(kernel, f"after{round_}")))
        assert disk.read_bytes() == before
        left = {path.name for path in paths.folder.iterdir()}
        assert left <= {"socket", "xenstored", "lock", "starting", "log", "running"}
    for pid in pids:
        until(lambda pid=pid: _gone(pid, paths))


def _gone(pid: int, paths: ServicePaths) -> bool:
    """Whether a process has ended (or is the service that runs now)."""
    if paths.lock.read_text().strip() == str(pid):
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    # Its parent, this test, hasn't asked for its status: it's no process any more.
    return state == "Z"


def test_killed_while_it_starts(paths: ServicePaths) -> None:
    command = subprocess.Popen(
        [*XG, "list"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    until(lambda: paths.lock.exists() and paths.lock.read_text().strip())
    os.kill(int(paths.lock.read_text()), signal.SIGKILL)
    _, errors = command.communicate(timeout=60)
    if command.returncode:
        assert errors.startswith("xg: the service ended ")
        assert errors.count("\n") == 1
    assert xg("list").returncode == 0


def test_stale_sockets_are_no_obstacle(paths: ServicePaths) -> None:
    for path in (paths.socket, paths.xenstore):
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
    paths.lock.write_text("1\n")
    assert xg("list").returncode == 0


def test_a_command_that_is_killed_while_it_starts_the_service(paths: ServicePaths) -> None:
    command = subprocess.Popen(
        [*XG, "list"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: paths.starting.exists())
    command.kill()
    command.wait()
    assert xg("list").returncode == 0


def test_a_service_that_cannot_start_says_why(
    paths: ServicePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths.xenstore.mkdir()
    done = xg("list")
    assert done.returncode == 2
    assert done.stderr.startswith("xg: the service couldn't start")
    assert done.stderr.count("\n") == 1
    paths.xenstore.rmdir()
    assert xg("list").returncode == 0


def test_one_that_never_gets_ready(paths: ServicePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_START_SECONDS", 0.05)
    monkeypatch.setattr(sys, "executable", "/bin/cat")
    with pytest.raises(UserError, match="the service ended before it was ready"):
        connect(paths)
