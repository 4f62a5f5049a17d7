# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's kernel goes from one host service to another while it counts."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.xl.test_linux import console, listed
from tests.cli.xl.test_state import cfg, count, counting, goes_on, ok, small, woken, works
from tests.toolstack.service.conftest import folder
from tests.toolstack.service.support import until
from tests.toolstack.service.test_process import KILLS, XG, kill, paths, xg
from xenograft.toolstack.service.client import await_end, connect, stop
from xenograft.toolstack.service.messages import GetService
from xenograft.toolstack.service.paths import ServicePaths, paths_of

__all__ = ["cfg", "counting", "folder", "paths"]


@pytest.fixture
def there() -> Iterator[ServicePaths]:
    """Another service, which no command has started yet."""
    with tempfile.TemporaryDirectory(prefix="xg-") as name:
        found = paths_of(Path(name))
        yield found
        stop(found)
        assert await_end(found)


@contextlib.contextmanager
def at(place: ServicePaths, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServicePaths]:
    """Commands go to that service."""
    with monkeypatch.context() as patch:
        patch.setenv("XG_SERVICE_DIR", str(place.folder))
        yield place


def names(place: ServicePaths, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    with at(place, monkeypatch):
        return [one["name"] for one in json.loads(ok("list", "--json").stdout)]


def down_ms(text: str) -> int:
    (found,) = re.findall(r"was down for (\d+) ms", text)
    return int(found)


@pytest.mark.timeout(280)
def test_there_and_back(
    counting: ServicePaths, there: ServicePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = counting
    before = count(here)
    for mode in ("--snapshot", "--suspend", "--snapshot"):
        done = ok("migrate", "--debug", mode, "linux", f"unix:{there.folder}")
        assert done.stdout == ""
        assert done.stderr.endswith("Migration successful.\n")
        assert down_ms(done.stderr) > 0
        assert xg("domid", "linux").returncode == 1
        here, there = there, here
        monkeypatch.setenv("XG_SERVICE_DIR", str(here.folder))
        before = goes_on(here, before)
        works(here)
        assert "linux" not in names(there, monkeypatch)


@pytest.mark.timeout(280)
@pytest.mark.parametrize("cfg", ["pv"], indirect=True)
def test_a_pv_guest_helps(
    counting: ServicePaths, there: ServicePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It suspends itself, and all of it is sent then; without its help it stays."""
    before = count(counting)
    done = xg("migrate", "--snapshot", "linux", f"unix:{there.folder}")
    assert done.returncode == 1
    assert "has to suspend itself first" in done.stderr
    before = goes_on(counting, before)
    ok("migrate", "linux", f"unix:{there.folder}")
    monkeypatch.setenv("XG_SERVICE_DIR", str(there.folder))
    goes_on(there, before)
    works(there)


def test_a_32_bit_pv_guest_helps(
    paths: ServicePaths,
    there: ServicePaths,
    guest: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cfg = small(tmp_path, guest("suspend-pv32"))
    ok("create", str(cfg))
    with console(paths, "small") as type_:
        type_("", "Waiting: counter 0")
    with at(there, monkeypatch):
        ok("create", "-p", str(cfg), 'name="other"')
    ok("migrate", "small", f"unix:{there.folder}")
    assert xg("domid", "small").returncode == 1
    with console(there, "small") as type_:
        assert woken(type_("", "Waiting: counter 1"), 1)


@pytest.mark.timeout(280)
def test_by_commands_and_by_tcp(
    counting: ServicePaths, there: ServicePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = count(counting)
    receive = shlex.join([*XG, "migrate-receive"])
    # As ssh would do it: another program that carries standard input and output.
    far = f"env XG_SERVICE_DIR={there.folder} {receive}"
    done = ok("migrate", "-s", "", "linux", far)
    assert "migration target: Ready to receive domain.\n" in done.stderr
    assert "xc: info: Restore successful\n" in done.stderr
    monkeypatch.setenv("XG_SERVICE_DIR", str(there.folder))
    before = goes_on(there, before)
    listener = subprocess.Popen(
        [*XG, "migrate-receive", "-p", "--listen", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"XG_SERVICE_DIR": str(counting.folder)},
    )
    assert listener.stderr is not None
    address = listener.stderr.readline().split()[-1]
    assert address.startswith("tcp:127.0.0.1:")
    ok("migrate", "linux", address)
    assert listener.wait(30) == 0
    listener.stderr.close()
    monkeypatch.setenv("XG_SERVICE_DIR", str(counting.folder))
    assert "p" in str(listed()["state"])
    ok("unpause", "linux")
    goes_on(counting, before)
    works(counting)


@pytest.mark.timeout(280)
def test_a_link_that_breaks_leaves_the_guest_where_it_is(
    counting: ServicePaths, there: ServicePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = count(counting)
    # The destination says nothing, hangs up at once, or after some of the bytes.
    for words in (
        "true",
        "head -c 100000 > /dev/null",
        "head -c 30000000 > /dev/null",
        "cat > /dev/null & sleep 3; kill $!",
    ):
        done = xg("migrate", "-s", "", "linux", words)
        assert done.returncode == 1
        assert "the guest goes on here" in done.stderr
        before = goes_on(counting, before)
    # One that has such a guest already, and one that is killed.
    done = xg("migrate", "linux", f"unix:{counting.folder}")
    assert done.returncode == 1
    assert 'Domain with name "linux" already exists.' in done.stderr
    before = goes_on(counting, before)
    for moment in (0.3, 0.5, 0.7, 0.9, 1.1):
        with connect(there) as client:
            pid = client.call(GetService()).pid
        process = subprocess.Popen(
            [*XG, "migrate", "--to-service", str(there.folder), "linux"],
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
        errors = process.communicate(timeout=60)[1]
        if process.returncode == 0:
            # It came late: to a guest that was there already, or to an empty service.
            break
        assert "Traceback" not in errors
        before = goes_on(counting, before)
        works(counting)
    else:
        assert "linux" not in names(there, monkeypatch)
    if process.returncode == 0:
        return
    # And the command itself.
    process = subprocess.Popen([*XG, "migrate", "--to-service", str(there.folder), "linux"])
    time.sleep(0.5)
    process.kill()
    process.wait()
    until(lambda: names(counting, monkeypatch) != names(there, monkeypatch), 60)
    place = counting if "linux" in names(counting, monkeypatch) else there
    with at(place, monkeypatch):
        goes_on(place, before)


@pytest.mark.timeout(280 if KILLS < 20 else 1800)
def test_killed_while_it_migrates(
    counting: ServicePaths, there: ServicePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either service, at any moment: the guest is in one place, or went with what was killed."""
    here, base = counting, tmp_path / "base.save"
    ok("save", "-c", "linux", str(base))
    chance = random.Random(11)
    for round_ in range(KILLS):
        victim = (here, there)[round_ % 2]
        names(there, monkeypatch)  # it runs
        with at(here, monkeypatch):
            process = subprocess.Popen(
                [*XG, "migrate", "linux", f"unix:{there.folder}"], stderr=subprocess.PIPE, text=True
            )
        time.sleep(chance.uniform(0.1, 1.5))
        kill(victim)
        errors = process.communicate(timeout=60)[1]
        assert "Traceback" not in errors, errors
        found = [place for place in (here, there) if "linux" in names(place, monkeypatch)]
        assert len(found) <= 1
        if not found:
            assert victim is here or process.returncode == 0
            with at(here, monkeypatch):
                ok("restore", str(base))
        elif found[0] is there:
            here, there = there, here
        with at(here, monkeypatch):
            goes_on(here, 0)
        for place in (here, there):
            left = {path.name for path in place.folder.iterdir()}
            assert left <= {"socket", "xenstored", "lock", "starting", "log", "running"}
        assert {one.name for one in tmp_path.iterdir()} <= {"base.save", "linux.cfg", "disk.img"}
    with at(here, monkeypatch):
        works(here)


def test_what_cannot_be_done(counting: ServicePaths) -> None:
    with console(counting):
        pass
    for words, status, says in (
        (("migrate", "linux", "unix:/tmp"), 2, "others may use it"),
        (("migrate", "linux", "tcp:nowhere"), 1, "write tcp:HOST:PORT"),
        (("migrate", "linux", "tcp:127.0.0.1:1"), 1, "refused"),
        (("migrate", "linux"), 2, "name a HOST"),
        (("migrate-receive", "--listen", "x"), 1, "write PORT"),
    ):
        done = xg(*words)
        assert done.returncode == status, done.stderr
        assert says in done.stderr
        assert "Traceback" not in done.stderr
    listed()
