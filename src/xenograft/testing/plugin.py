# SPDX-License-Identifier: GPL-2.0-or-later
"""The pytest plugin: fixtures, markers, and what is added to the report of a failed test.

Pytest loads this module wherever Xenograft is installed, so it imports nothing but pytest until
a fixture is asked for.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xenograft.testing.bench import NetworkMaker, TestBench
    from xenograft.testing.guest import Guest
    from xenograft.toolstack.machine import Machine

_BENCH: pytest.StashKey[TestBench] = pytest.StashKey()

_MARKERS = (
    "xen_guest(kernel=, ramdisk=, cmdline=, type=, memory=, vcpus=, disk=[], vif=[], modules=[], "
    "clock=, timeout=, ...): what the fixture xen_guest boots (Xenograft, docs/testing.md)",
    "xen_machine(clock=, cpus=, sched=, bridges=[], host_timeout=): the machine of the test's "
    "guests (Xenograft, docs/testing.md)",
)
_INI = {
    "xen_kernel": "kernel of the guests: a file, or a name of `xg image list`",
    "xen_ramdisk": "their ramdisk, likewise",
    "xen_cmdline": "the kernel's command line",
    "xen_type": "pvh or pv",
    "xen_memory": "memory of a guest, in MiB or as 1G",
    "xen_vcpus": "its vCPUs",
    "xen_prompt": "what its console shows when it waits for a command (a regular expression)",
    "xen_clock": "virtual (the default) or real",
    "xen_boot_timeout": "seconds of the machine's time until a guest's first prompt",
    "xen_timeout": "seconds of the machine's time that a command in a guest may take",
    "xen_host_timeout": "seconds of the host's time that a test with guests may take",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    for name, text in _INI.items():
        parser.addini(name, f"Xenograft: {text}")


def pytest_configure(config: pytest.Config) -> None:
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)


def _bench(request: pytest.FixtureRequest) -> TestBench:
    """What the fixtures of one test share."""
    from xenograft.testing.bench import TestBench
    from xenograft.toolstack.errors import UserError

    item: pytest.Item = request.node
    if _BENCH not in item.stash:
        try:
            item.stash[_BENCH] = TestBench.of(item)
        except UserError as error:
            pytest.fail(str(error), pytrace=False)
    return item.stash[_BENCH]


@pytest.fixture
def _xen_bench(request: pytest.FixtureRequest) -> Iterator[TestBench]:
    bench = _bench(request)
    yield bench
    bench.close()


@pytest.fixture
def xen_machine(_xen_bench: TestBench) -> Machine:
    """The machine that the test's guests are on: its own, and gone after the test."""
    return _xen_bench.machine


@pytest.fixture
def xen_guest(_xen_bench: TestBench) -> Guest:
    """A guest that has booted and waits at its shell's prompt (`xenograft.testing.Guest`)."""
    return _xen_bench.guest()


@pytest.fixture
def xen_network(_xen_bench: TestBench) -> NetworkMaker:
    """`xen_network(3)`: that many booted guests on one bridge, with an `address` each."""
    return _xen_bench.network


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach what the guests have said to the report of a test that has failed."""
    report = yield
    if report.failed and _BENCH in item.stash:
        report.sections.extend(item.stash[_BENCH].sections())
    return report
