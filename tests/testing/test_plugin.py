# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugin in test suites of its own: what passes, what fails, and how that is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import unavailable
from tests.linux import modules
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.images.cache import cache_root

Image = Callable[[str], Path]
CACHE = cache_root()
"""Where images are, before `pytester` moves the home directory."""

PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]


@pytest.fixture
def suite(
    image: Image, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    """An empty suite; the images that it boots are in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE.parent))
    image("debian-cloud")
    image("driver-initrd")
    return pytester


def test_a_suite_that_passes(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest

        def test_type(xen_guest):
            assert xen_guest.check("cat /sys/hypervisor/type") == "xen\\n"

        @pytest.mark.xen_machine(clock="real")
        @pytest.mark.xen_guest(memory="192M", vcpus=2)
        def test_marker(xen_guest, xen_machine):
            assert xen_guest.machine is xen_machine
            assert not xen_machine.hypervisor.clock.virtual
            assert xen_guest.check("nproc") == "2\\n"
            assert 128 << 10 < int(xen_guest.check("sed -n 's/MemTotal: *//p' /proc/meminfo")
                                   .split()[0]) < 192 << 10

        def test_without_guests(xen_machine):
            assert xen_machine.domains == []
        """
    )
    result = suite.runpytest("-W", "error")
    result.assert_outcomes(passed=3)
    assert "xen console" not in result.stdout.str()


def test_modules_are_loaded(suite: pytest.Pytester) -> None:
    """Debian's, in their order, before the first test; and one more with a parameter."""
    try:
        kernel = modules.fetch()
    except UserError as error:
        unavailable(str(error))
        raise
    names = [str(kernel / f"{name}.ko") for name in ("crc16", "mbcache", "jbd2")]
    suite.makepyfile(
        f"""
        import pytest
        from xenograft.testing import CommandFailed

        pytestmark = pytest.mark.xen_guest(
            kernel={str(kernel / "vmlinuz")!r}, ramdisk="demo-initrd", modules={names!r}
        )

        def test_the_kernel_has_them(xen_guest):
            loaded = xen_guest.check("cut -d ' ' -f 1 /proc/modules").split()
            assert set(loaded) == {{"crc16", "mbcache", "jbd2"}}
            xen_guest.insmod({str(kernel / "xen-blkfront.ko")!r}, max_queues="3")
            assert xen_guest.check(
                "cat /sys/module/xen_blkfront/parameters/max_queues"
            ) in ("1\\n", "3\\n")  # bounded by the CPUs
            with pytest.raises(CommandFailed, match="File exists"):
                xen_guest.insmod({str(kernel / "crc16.ko")!r})

        def test_each_test_begins_with_these(xen_guest):
            assert "xen_blkfront" not in xen_guest.check("cat /proc/modules")
        """
    )
    suite.runpytest("-W", "error").assert_outcomes(passed=2)


def test_a_suite_that_fails(suite: pytest.Pytester) -> None:
    """The console is shown, of what has failed only."""
    suite.makepyfile(
        """
        def test_good(xen_guest):
            xen_guest.check("echo said by the good one")

        def test_bad(xen_guest):
            xen_guest.check("echo said by the bad one; cat /none")
        """
    )
    result = suite.runpytest()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*CommandFailed: guest: 'echo said by the bad one; cat /none' ended with status 1",
            "*| cat: can't open '/none': No such file or directory",
            "*- xen console of guest -*",
            "demo-initrd: user space after *",
            "said by the bad one",
        ]
    )
    assert "said by the good one" not in result.stdout.str()


def test_a_guest_that_crashes(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        def test_crash(xen_guest):
            xen_guest.check("echo c > /proc/sysrq-trigger")
        """
    )
    result = suite.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*GuestEnded: guest has shut down (crash) before a command in it was over",
            "*- xen console of guest -*",
            "*Kernel panic - not syncing: sysrq triggered crash",
        ]
    )


def test_limits_of_time(suite: pytest.Pytester) -> None:
    """The machine's time, and the host's, which ends what would run for ever."""
    suite.makepyfile(
        """
        import pytest

        def test_machine(xen_guest):
            xen_guest.check("sleep 1000", timeout=30)

        @pytest.mark.xen_machine(host_timeout=6)
        def test_host(xen_guest):
            xen_guest.check("while :; do :; done", timeout=10**9)

        @pytest.mark.xen_guest(prompt="never", boot_timeout=9)
        def test_boot(xen_guest):
            pass
        """
    )
    result = suite.runpytest()
    result.assert_outcomes(failed=2, errors=1)
    result.stdout.fnmatch_lines(
        [
            "9* s went by before its console showed 'never'*",
            "*GuestTimeout: 30 s of the machine's time went by before guest: the command was over",
            "*HostTimeout: the test has run for 6 s of the host's time",
        ],
        consecutive=False,
    )


@pytest.mark.parametrize(
    ("marker", "line"),
    [
        ("xen_guest(memroy=512)", "xen_guest: no option is called 'memroy': did you mean memory?"),
        ("xen_guest(512)", "xen_guest: give its options by name, as memory=512"),
        ("xen_guest(vcpus='two')", "xen_guest: vcpus is a number, not 'two'"),
        ("xen_guest(disk=3)", "xen_guest: disk is a list of texts, not 3"),
        ("xen_guest(kernel='none')", "kernel: there is no file or image 'none'"),
        ("xen_guest(memory='much')", "memory*'much'*"),
        ("xen_guest(clock='slow')", "xen_guest: clock is 'virtual' or 'real', not 'slow'"),
        ("xen_machine(vcpus=1)", "xen_machine: no option is called 'vcpus'*"),
        ("xen_machine(sched='fair')", "no scheduler is called 'fair'*"),
    ],
)
def test_markers_that_are_wrong(suite: pytest.Pytester, marker: str, line: str) -> None:
    """One line, and no traceback."""
    suite.makepyfile(
        f"""
        import pytest

        @pytest.mark.{marker}
        def test_it(xen_guest):
            pass
        """
    )
    result = suite.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*ERROR at setup of test_it*", line, "*short test summary*"])
    assert "Traceback" not in result.stdout.str()
    assert "plugin.py" not in result.stdout.str()


def test_the_configuration_says_what_guests_are(suite: pytest.Pytester) -> None:
    suite.makeini("[pytest]\nxen_memory = 160\nxen_vcpus = 2\nxen_timeout = 3.5\n")
    suite.makepyfile(
        """
        def test_it(xen_guest):
            assert xen_guest.check("nproc") == "2\\n"
            assert xen_guest.default_timeout == 3.5
            assert xen_guest.domain.xen.max_pages < 170 << 8
        """
    )
    suite.runpytest().assert_outcomes(passed=1)
    suite.makeini("[pytest]\nxen_vcpus = many\n")
    result = suite.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["pytest's configuration: xen_vcpus is a number, not 'many'"])


def test_each_test_begins_where_the_guest_had_booted(suite: pytest.Pytester) -> None:
    """Nothing that a test does is seen by the next: memory, disk, time, faults, further guests."""
    (suite.path / "disk.img").write_bytes(b"as it was".ljust(1 << 20))
    suite.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.xen_guest(disk=["format=raw,vdev=xvda,target=%s"])
        SEEN = []

        @pytest.mark.parametrize("number", range(3))
        def test_it(xen_guest, xen_machine, number):
            machine = xen_machine
            assert [one.name for one in machine.domains] == ["guest"]
            SEEN.append(xen_guest.check("ls -l /; date; cat /proc/uptime; ps; head -c 9 /dev/xvda"))
            assert len(set(SEEN)) == 1
            assert SEEN[0].endswith("as it was")
            assert machine is SEEN_MACHINES.setdefault(0, machine)
            xen_guest.check("echo > /new; echo changed | dd of=/dev/xvda bs=512 conv=fsync,sync")
            assert xen_guest.check("head -c 7 /dev/xvda") == "changed"
            xen_guest.faults.lose_event(nth=1000)
            xen_guest.domain.fork("another")
            xen_guest.pass_time(100)
            assert machine.hypervisor.faults.event is not None

        SEEN_MACHINES = {}

        @pytest.mark.xen_guest(timeout=7)
        def test_limits_are_each_test_s_own(xen_guest, xen_machine):
            assert xen_machine is SEEN_MACHINES[0]
            assert xen_guest.default_timeout == 7
            assert xen_machine.hypervisor.faults.event is None
        """
        % (suite.path / "disk.img")
    )
    suite.runpytest().assert_outcomes(passed=4)
    assert (suite.path / "disk.img").read_bytes().startswith(b"as it was")


def test_guests_that_cannot_be_cloned_boot_each_time(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.xen_guest(type="pv")
        @pytest.mark.parametrize("number", range(2))
        def test_pv(xen_guest, number):
            assert xen_guest.domain.domid == 1
            assert xen_guest.check("cat /sys/hypervisor/guest_type") == "PV\\n"
            assert xen_guest.run("ls /new").status == 1
            xen_guest.check("echo > /new")
        """
    )
    suite.runpytest().assert_outcomes(passed=2)


def test_side_by_side(suite: pytest.Pytester) -> None:
    """With xdist, each worker has machines of its own."""
    pytest.importorskip("xdist")
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_it(xen_guest, number):
            xen_guest.send_file(b"%d" % number, "/number")
            assert xen_guest.fetch_file("/number") == b"%d" % number
            assert number != 3
        """
    )
    result = suite.runpytest("-n", "2")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*- xen console of guest -*", "demo-initrd: user space*"])


def test_interrupted(suite: pytest.Pytester) -> None:
    """Ctrl-C while a guest runs: pytest ends as usual, and nothing stays behind."""
    suite.makepyfile(
        """
        def test_it(xen_guest):
            print("RUNNING", flush=True)
            xen_guest.check("while :; do :; done", timeout=10**9)
        """
    )
    scratch = suite.mkdir("scratch")
    with subprocess.Popen(
        [*PYTEST, "-s", "--basetemp", str(suite.path / "base")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=suite.path,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "RUNNING" in line:
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(60) == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in rest
    assert "no tests ran" in rest
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert list(scratch.iterdir()) == []


def test_suites_without_guests_pay_nothing(pytester: pytest.Pytester) -> None:
    """The plugin is there, and has imported nothing of ours."""
    pytester.makepyfile(
        """
        import sys

        def test_it():
            ours = {name for name in sys.modules if name.split(".")[0] == "xenograft"}
            assert ours == {"xenograft", "xenograft.testing", "xenograft.testing.plugin"}
        """
    )
    pytester.runpytest_subprocess("-W", "error").assert_outcomes(passed=1)
    result = pytester.runpytest_subprocess("--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.xen_guest(*docs/testing.md)"])
    result = pytester.runpytest_subprocess("--fixtures", "-v")
    result.stdout.fnmatch_lines(["xen_guest *"])
