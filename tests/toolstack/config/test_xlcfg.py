# SPDX-License-Identifier: GPL-2.0-or-later
"""From xl.cfg to `DomainConfig`: what the keys mean, and every message."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.toolstack.config.disk import Disk
from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.config.keys import KEYS
from xenograft.toolstack.config.vif import Vif
from xenograft.toolstack.config.xlcfg import load_config, parse_config
from xenograft.toolstack.errors import UserError

REFERENCE = """name="ref-pvh"
type="pvh"
kernel="/boot/vmlinuz-cloud"
ramdisk="/root/stay.gz"
extra="console=hvc0"
memory=128
vcpus=1
disk=['/images/pvh.img,raw,xvda,rw']
vif=['mac=00:16:3e:00:00:02,bridge=xenbr0']
on_poweroff="destroy"
on_reboot="restart"
on_crash="destroy"
"""


def parse(text: str) -> tuple[DomainConfig, list[str]]:
    return parse_config("name='g'\n" + text, "x.cfg")


def fields(text: str) -> DomainConfig:
    config, warnings = parse(text)
    assert warnings == []
    return config


def test_the_reference_guest() -> None:
    config, warnings = parse_config(REFERENCE)
    assert warnings == []
    assert config == DomainConfig(
        name="ref-pvh",
        type="pvh",
        kernel="/boot/vmlinuz-cloud",
        ramdisk="/root/stay.gz",
        cmdline="console=hvc0",
        memory=128,
        disk=(Disk(target="/images/pvh.img", vdev="xvda"),),
        vif=(Vif(mac="00:16:3e:00:00:02", bridge="xenbr0"),),
    )


def test_defaults_are_xls() -> None:
    assert fields("") == DomainConfig(name="g", type="pv", memory=32)


def test_numbers_in_every_base() -> None:
    config = fields("type='pvh'\nmemory=0x100\nvcpus=02\nmaxvcpus='4'\nmax_grant_frames=0100")
    assert (config.memory, config.vcpus, config.maxvcpus) == (256, 2, 4)
    assert config.max_grant_frames == 64


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("type='pvh'", "pvh"),
        ("type='hvm'", "hvm"),
        ("builder='hvm'", "hvm"),
        ("builder='generic'", "pv"),
        ("builder='hvm'\ntype='hvm'", "hvm"),
    ],
)
def test_kind(text: str, kind: str) -> None:
    assert fields(text).type == kind


@pytest.mark.parametrize(
    ("text", "cmdline"),
    [
        ("extra='quiet'", "quiet"),
        ("root='/dev/xvda1'", "root=/dev/xvda1"),
        ("root='/dev/xvda1 ro'\nextra='quiet'", "root=/dev/xvda1 ro quiet"),
        ("cmdline='a b'", "a b"),
        ("extra='a'\nextra+=' b'", "a b"),
    ],
)
def test_cmdline(text: str, cmdline: str) -> None:
    assert fields(text).cmdline == cmdline


def test_cmdline_wins_with_a_warning() -> None:
    config, warnings = parse("cmdline='a'\nroot='b'")
    assert config.cmdline == "a"
    assert warnings == ["x.cfg: root= and extra= are ignored, since there is cmdline="]


def test_cpuid_uuid_actions_and_modes() -> None:
    config = fields(
        "type='pvh'\ncpuid=['1:ecx=x','7,0:ebx=0']\nuuid='6B29FC40-CA47-1067-B31D-00DD010662DA'\n"
        "on_poweroff='preserve'\non_watchdog='coredump-restart'\non_soft_reset='destroy'\n"
        "tsc_mode='always_emulate'\ntimer_mode='one_missed_tick_pending'\nnomigrate=1\n"
        "max_grant_version=1\nmax_event_channels=4096\nmax_maptrack_frames=0"
    )
    assert config.cpuid == ("1:ecx=x", "7,0:ebx=0")
    assert config.uuid == "6b29fc40-ca47-1067-b31d-00dd010662da"
    assert config.on_poweroff == "preserve"
    assert config.on_watchdog == "coredump-restart"
    assert config.on_soft_reset == "destroy"
    assert (config.tsc_mode, config.timer_mode) == ("always_emulate", "one_missed_tick_pending")
    assert config.nomigrate is True
    assert (config.max_grant_version, config.max_event_channels) == (1, 4096)
    assert config.max_maptrack_frames == 0
    assert fields("cpuid='host,tm=0'").cpuid == "host,tm=0"


def test_numbered_modes_are_an_old_form() -> None:
    config, warnings = parse("type='pvh'\ntsc_mode=1\ntimer_mode=0")
    assert config.tsc_mode == "always_emulate"
    assert config.timer_mode == "delay_for_missed_ticks"
    assert len(warnings) == 2
    assert "tsc_mode=1: the number is an old form" in warnings[0]


def test_a_native_tsc_is_emulated() -> None:
    config, warnings = parse("type='pvh'\ntsc_mode='native'")
    assert config.tsc_mode == "native"
    assert warnings == [
        "x.cfg: tsc_mode=native: the TSC is always emulated, at the machine's one frequency"
    ]


def test_maxmem() -> None:
    assert fields("memory=64\nmaxmem=64").maxmem == 64
    config, warnings = parse("memory=64\nmaxmem=128")
    assert config.maxmem == 128
    assert warnings == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("memroy=1", "x.cfg:2: unknown key memroy; did you mean memory?"),
        ("quux=1", "x.cfg:2: unknown key quux"),
        ("\ntype='pvg'", "x.cfg:3: type: 'pvg' is unknown; did you mean pv"),
        ("builder='linux'", "x.cfg:2: builder: 'linux' is unknown"),
        ("builder='hvm'\ntype='pvh'", "x.cfg:2: builder='hvm' and type='pvh' contradict"),
        ("vcpus=0", "x.cfg:2: vcpus: 0 vCPUs; a guest has 1 to 32"),
        ("vcpus=33", "x.cfg:2: vcpus: 33 vCPUs; a guest has 1 to 32"),
        ("vcpus=2\nmaxvcpus=1", "x.cfg:3: maxvcpus: 1 with vcpus=2"),
        ("maxvcpus=33", "x.cfg:2: maxvcpus: 33"),
        ("memory=0", "x.cfg:2: memory: 0 MiB; a guest has 1 to 8192"),
        ("memory=999999999", "x.cfg:2: memory: 999999999 MiB"),
        ("memory='1G'", "x.cfg:2: memory: '1G' isn't a number"),
        ("memory+=1", "x.cfg:2: memory: numbers can't be appended to"),
        ("memory=64\nmaxmem=32", "x.cfg:3: maxmem: 32 MiB are less than memory=64"),
        ("uuid='1'", "x.cfg:2: uuid: '1' isn't a UUID"),
        ("on_crash='explode'", "x.cfg:2: on_crash: 'explode' is unknown"),
        ("on_reboot='restrat'", "x.cfg:2: on_reboot: 'restrat' is unknown; did you mean restart"),
        ("type='pvh'\ntsc_mode='native_paravirt'", "x.cfg:3: tsc_mode: 'native_paravirt' is"),
        ("timer_mode='no_missed_ticks_pending'", "x.cfg:2: timer_mode: PV guests have no"),
        ("max_grant_version=3", "x.cfg:2: max_grant_version: 3 is out of range"),
        ("disk=['/a']", "x.cfg:2: disk '/a': no device is named"),
        (
            "disk=['/a,,xvda','/b,,51712']",
            "x.cfg:2: disk: two disks have the same vdev (xvda and 51712)",
        ),
        ("disk='/a,,xvda'", "x.cfg:2: disk: a list of strings is expected; write it in [ ]"),
        ("vif=['mac=1']", "x.cfg:2: vif 'mac=1': '1' isn't a MAC address"),
        ("name='a b'", "x.cfg:2: name: 'a b' can't be a domain's name"),
        ("name=''", "x.cfg:2: name: '' can't be a domain's name"),
        ("kernel=", "x.cfg:2: a value is expected"),
        ("pci=['01:00.0']", "x.cfg:2: pci can't be honoured: there is no host hardware"),
    ],
)
def test_errors(text: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_name_is_mandatory() -> None:
    with pytest.raises(UserError, match=r"x\.cfg: it has no name; add name="):
        parse_config("memory=4", "x.cfg")


def test_load(tmp_path: Path) -> None:
    path = tmp_path / "g.cfg"
    path.write_bytes(REFERENCE.encode() + b"cmdline='caf\xe9'\n")
    config, warnings = load_config(path)
    assert config.cmdline.encode("utf-8", "surrogateescape") == b"caf\xe9"
    assert warnings == [f"{path}: root= and extra= are ignored, since there is cmdline="]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file or directory"),
        (b"", "it has no name"),
        (b"\x7fELF\0\0", r"not a configuration \(it holds NUL bytes\)"),
        (b"#" * (2 << 20), "too many for a configuration"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "g.cfg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_folder_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a directory"):
        load_config(tmp_path)


VALUES = st.one_of(
    st.integers(-10, 1 << 70).map(str),
    st.sampled_from(["'pvh'", "'x'", "''", "[]", "['x']", "[['x']]", "0x10", "010", "'destroy'"]),
    st.text(st.characters(exclude_characters="'\\\n"), max_size=12).map(lambda text: f"'{text}'"),
    st.lists(st.sampled_from(["'/a,raw,xvda'", "'mac=00:16:3e:0:0:1'", "'cdrom'"])).map(
        lambda items: f"[{','.join(items)}]"
    ),
)
SETTING = st.tuples(st.sampled_from(sorted(KEYS)), st.sampled_from(["=", "+="]), VALUES)


@given(st.lists(SETTING.map("".join), max_size=8).map("\n".join))
def test_any_settings_are_a_record_or_refused(text: str) -> None:
    with contextlib.suppress(UserError):
        config, warnings = parse(text)
        assert 1 <= config.vcpus <= config.max_vcpus <= 32
        assert all(line.startswith("x.cfg") and "\n" not in line for line in warnings)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_record_or_refused(data: bytes) -> None:
    with contextlib.suppress(UserError):
        parse_config(data.decode("utf-8", "surrogateescape"))
