# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen's own xenstore tools, as Debian has them, against our socket.

What they're expected to print is what they printed on a real Xen 4.17 (oxenstored).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from xenograft.store.client import StoreClient
from xenograft.store.server import SocketServer
from xenograft.store.service import Xenstore
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.images.cache import cache_root
from xenograft.toolstack.images.tools import program


class Tools:
    """The tools of the system, or out of their packages in the image cache."""

    def __init__(self, server: SocketServer) -> None:
        try:
            found = program("xenstore-ls", cache_root())
        except UserError as error:
            pytest.skip(str(error))
        self.env = {**found.env, "XENSTORED_PATH": str(server.path)}

    def popen(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def __call__(self, *command: str) -> tuple[int, str]:
        """(exit status, what it printed)."""
        with self.popen(*command) as process:
            output, _ = process.communicate(timeout=60)
            return process.returncode, output


@pytest.fixture
def store() -> Xenstore:
    return Xenstore()


@pytest.fixture
def tools(store: Xenstore, tmp_path: Path) -> Iterator[Tools]:
    with SocketServer(store, tmp_path / "socket") as server:
        server.start()
        yield Tools(server)


SESSION = """
$ xenstore-write /test/a 1
[rc=0]
$ xenstore-read /test/a
1
[rc=0]
$ xenstore-read /nope
xenstore-read: couldn't read path /nope
[rc=1]
$ xenstore-write /test/b x /test/c y
[rc=0]
$ xenstore-list /test
a
b
c
[rc=0]
$ xenstore-list -p /test
/test/a
/test/b
/test/c
[rc=0]
$ xenstore-list /nope
xenstore-list: could not list path /nope
[rc=1]
$ xenstore-ls /test
a = "1"
b = "x"
c = "y"
[rc=0]
$ xenstore-ls -f /test
/test/a = "1"
/test/b = "x"
/test/c = "y"
[rc=0]
$ xenstore-ls -fp /test
/test/a = "1"   (n0)
/test/b = "x"   (n0)
/test/c = "y"   (n0)
[rc=0]
$ xenstore-exists /test/a
[rc=0]
$ xenstore-exists /nope
[rc=1]
$ xenstore-chmod /test/a n0 r1
[rc=0]
$ xenstore-ls -fp /test
/test/a = "1"   (n0,r1)
/test/b = "x"   (n0)
/test/c = "y"   (n0)
[rc=0]
$ xenstore-chmod -r /test b1
[rc=0]
$ xenstore-ls -fp /test
/test/a = "1"   (b1)
/test/b = "x"   (b1)
/test/c = "y"   (b1)
[rc=0]
$ xenstore-rm /test/a
[rc=0]
$ xenstore-rm /nope
[rc=0]
$ xenstore-rm -t /test/b
[rc=0]
$ xenstore-ls /test
c = "y"
[rc=0]
$ xenstore-rm /test
[rc=0]
$ xenstore-ls /test
xenstore-ls: xs_directory (/test): No such file or directory
[rc=1]
$ xenstore-write /bad.path 1
xenstore-write: could not write path /bad.path
[rc=1]
$ xenstore-write relpath 1
[rc=0]
$ xenstore-ls /local/domain/0/relpath
[rc=0]
$ xenstore-read relpath
1
[rc=0]
$ xenstore-ls -fp
/@introduceDomain = ""   (n0)
/@releaseDomain = ""   (n0)
/local = ""   (n0)
/local/domain = ""   (n0)
/local/domain/0 = ""   (n0)
/local/domain/0/relpath = "1"   (n0)
[rc=0]
"""


def test_a_recorded_session(tools: Tools) -> None:
    steps = SESSION.strip().split("$ ")[1:]
    for step in steps:
        command, _, expected = step.partition("\n")
        status, output = tools(*command.split())
        assert f"{output}[rc={status}]" == expected.strip(), command


def test_values_that_are_no_text(tools: Tools, store: Xenstore) -> None:
    StoreClient(store).write("/test2/d", b"a\nb\1")
    assert tools("xenstore-read", "/test2/d") == (0, "a\\nb\\001\n")
    assert tools("xenstore-read", "-R", "/test2/d") == (0, "a\nb\1")
    assert tools("xenstore-ls", "/test2") == (0, 'd = "a\\nb\\001"\n')
    assert tools("xenstore-read", "-p", "/test2/d") == (0, "/test2/d: a\\nb\\001\n")


def test_a_value_too_long(tools: Tools) -> None:
    status, output = tools("xenstore-write", "/x", "a" * 4096)
    assert (status, output) == (1, "xenstore-write: could not write path /x\n")


def test_watch(tools: Tools, store: Xenstore) -> None:
    with tools.popen("xenstore-watch", "-n", "3", "/wt") as watcher:
        assert watcher.stdout is not None
        lines = [watcher.stdout.readline()]
        tools("xenstore-write", "/wt", "1")
        lines.append(watcher.stdout.readline())
        tools("xenstore-write", "/wt/x", "2")
        lines.append(watcher.stdout.readline())
        assert watcher.wait(timeout=60) == 0
    assert lines == ["/wt\n", "/wt\n", "/wt/x\n"]


def test_a_directory_of_ten_thousand(tools: Tools, store: Xenstore) -> None:
    """The tools fetch it in parts."""
    client = StoreClient(store)
    for i in range(10_000):
        client.write(f"/big/entry{i}", "")
    status, output = tools("xenstore-list", "/big")
    assert status == 0
    assert output.split() == sorted(f"entry{i}" for i in range(10_000))


def test_tools_at_the_same_time(tools: Tools, store: Xenstore) -> None:
    running = [tools.popen("xenstore-write", f"/many/{i}", str(i)) for i in range(20)]
    for process in running:
        with process:
            assert process.wait(timeout=60) == 0
    assert len(StoreClient(store).ls("/many")) == 20


def test_control(tools: Tools, store: Xenstore, tmp_path: Path) -> None:
    """What Xen's xenstore-control (package xen-utils-4.17) asks and sets, and what it's refused."""
    try:
        found = program("xenstore-control", cache_root())
    except UserError as error:
        pytest.skip(str(error))
    tools.env |= found.environment
    path = str(found.path)
    assert tools(path, "check") == (0, "OK\n")
    status, output = tools(path, "quota")
    assert status == 0
    assert output.startswith("Quota settings:\nnodes            :     1000\n"), output
    assert tools(path, "quota", "set", "nodes", "7") == (0, "OK\n")
    assert store.quota.nodes == 7
    assert "nodes" in tools(path, "quota", "0")[1]
    assert tools(path, "log", "on") == (0, "OK\n")
    assert tools(path, "print", "hello") == (0, "OK\n")
    assert "nodes: " in tools(path, "memreport")[1]
    # A file of the host's, named by a client, isn't ours to write.
    for refused in (["memreport", str(tmp_path / "x")], ["nonsense"], ["logfile", "/tmp/x"]):
        status, output = tools(path, *refused)
        assert status != 0, output
        assert "Invalid argument" in output or "Valid commands are" in output
    assert not (tmp_path / "x").exists()
