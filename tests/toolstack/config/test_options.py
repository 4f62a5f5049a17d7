# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of `xg run` as a configuration, alone and over a file; the record's own checks."""

from __future__ import annotations

import msgspec
import pytest

from xenograft.toolstack.config.disk import Disk
from xenograft.toolstack.config.domain import MAX_MEMORY_MIB, DomainConfig
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.config.vif import Vif
from xenograft.toolstack.errors import UserError


def test_alone() -> None:
    config = from_options(kernel="/k", ramdisk="/r", cmdline="c", memory="1G", vcpus=4)
    assert config == DomainConfig(
        kernel="/k", ramdisk="/r", cmdline="c", memory=1024, vcpus=4, on_reboot="destroy"
    )
    assert from_options() == DomainConfig(type="pvh", memory=256, vcpus=1, on_reboot="destroy")


def test_every_option() -> None:
    config = from_options(
        name="n",
        type="hvm",
        maxvcpus=3,
        cpuid=["1:ecx=x"],
        disk=["/d,raw,xvda"],
        vif=["bridge=b"],
        on_poweroff="preserve",
        on_reboot="restart",
        on_crash="restart",
        on_watchdog="preserve",
        tsc_mode="native",
    )
    assert config == DomainConfig(
        name="n",
        type="hvm",
        maxvcpus=3,
        cpuid=("1:ecx=x",),
        disk=(Disk(target="/d", vdev="xvda"),),
        vif=(Vif(bridge="b"),),
        on_poweroff="preserve",
        on_reboot="restart",
        on_crash="restart",
        on_watchdog="preserve",
        tsc_mode="native",
    )


def test_over_a_file() -> None:
    base = DomainConfig(
        name="f",
        type="pv",
        kernel="/k",
        memory=64,
        maxmem=64,
        vcpus=2,
        maxvcpus=2,
        disk=(Disk(target="/d", vdev="xvda"),),
    )
    assert from_options(base) is not None
    assert from_options(base) == base
    changed = from_options(base, type="pvh", memory=128, vcpus=4, disk=["/e,raw,xvdb"], vif=[""])
    assert (changed.name, changed.type, changed.kernel) == ("f", "pvh", "/k")
    assert (changed.memory, changed.maxmem) == (128, None)
    assert (changed.vcpus, changed.max_vcpus) == (4, 4)
    assert [disk.vdev for disk in changed.disk] == ["xvda", "xvdb"]
    assert changed.vif == (Vif(),)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"vcpus": 0}, "vcpus: 0 vCPUs; a guest has 1 to 32"),
        ({"vcpus": 33}, "vcpus: 33 vCPUs"),
        ({"memory": "lots"}, "memory: 'lots' isn't a size"),
        ({"memory": MAX_MEMORY_MIB + 1}, "memory: 8193 MiB"),
        ({"memory": "0"}, "memory: 0 MiB"),
        ({"type": "pvm"}, "type: 'pvm' is unknown; did you mean pv"),
        ({"name": "a/b"}, "name: 'a/b' can't be"),
        ({"disk": ["x"]}, "disk 'x'"),
        ({"vif": ["x"]}, "vif 'x'"),
        ({"on_reboot": "again"}, "on_reboot: 'again' is unknown"),
    ],
)
def test_errors(options: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        from_options(**options)  # type: ignore[arg-type]


def test_record_survives_json_and_refuses_unknown_fields() -> None:
    config = from_options(kernel="/k", disk=["/d,raw,xvda"], cpuid="host,tm=0")
    data = msgspec.json.encode(config)
    assert msgspec.json.decode(data, type=DomainConfig) == config
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(b'{"memroy": 3}', type=DomainConfig)
    with pytest.raises(UserError, match="0 vCPUs"):
        msgspec.json.decode(b'{"vcpus": 0}', type=DomainConfig)


def test_record_is_frozen() -> None:
    with pytest.raises(AttributeError):
        DomainConfig().vcpus = 2  # type: ignore[misc]
