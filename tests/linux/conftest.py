# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine that runs Debian's standard kernel with modules and a script of the test's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import unavailable
from tests.linux import modules
from xenograft import Machine
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.machine import Domain

CMDLINE = 'console=hvc0 quiet xg.run="sh /script"'
Boot = Callable[..., Domain]


@pytest.fixture(scope="session")
def debian() -> Path:
    """The folder with the kernel and its modules."""
    try:
        return modules.fetch()
    except UserError as error:
        unavailable(str(error))
        raise


@pytest.fixture
def boot(debian: Path, image: Callable[[str], Path], tmp_path: Path) -> Iterator[Boot]:
    """`boot(modules, script, p9=[…])`: a guest that runs the script, on a machine of its own."""
    machines: list[Machine] = []

    def start(names: list[str], script: str, **options: Any) -> Domain:
        ramdisk = tmp_path / "ramdisk"
        ramdisk.write_bytes(modules.ramdisk(debian, image("demo-initrd"), names, script))
        machine = Machine()
        machines.append(machine)
        config = from_options(
            kernel=str(debian / "vmlinuz"),
            ramdisk=str(ramdisk),
            cmdline=CMDLINE,
            memory="384M",
            **options,
        )
        return machine.create(config)

    yield start
    for machine in machines:
        machine.close()
