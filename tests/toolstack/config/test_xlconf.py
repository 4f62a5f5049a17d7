# SPDX-License-Identifier: GPL-2.0-or-later
"""xl.conf and pool configurations: every key, and what is wrong said with its line."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.toolstack.config import cpupool
from xenograft.toolstack.config.cpupool import SCHEDULERS, PoolConfig, parse_cpus, parse_pool
from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.config.keys import Decision
from xenograft.toolstack.config.vif import Vif
from xenograft.toolstack.config.xlconf import (
    KEYS,
    XlConf,
    apply_defaults,
    conf_path,
    parse_conf,
    user_conf,
)
from xenograft.toolstack.errors import UserError

XL_CONF = """
autoballoon run_hotplug_scripts lockfile max_grant_frames max_maptrack_frames vif.default.script
vif.default.bridge vif.default.gatewaydev vif.default.backend remus.default.netbufscript
colo.default.proxyscript output_format blkdev_start claim_mode vm.cpumask vm.hvm.cpumask
vm.pv.cpumask
"""
"""xl.conf(5) of Xen 4.17."""
OLD = {"defaultbridge", "vifscript"}
POOL = {"name", "sched", "nodes", "cpus"}
"""xlcpupool.cfg(5) of Xen 4.17."""


def test_the_tables_have_every_key() -> None:
    assert set(KEYS) == set(XL_CONF.split()) | OLD
    assert set(cpupool.KEYS) == POOL
    for key in KEYS.values():
        assert bool(key.reason) == (key.decision is not Decision.DONE)


@pytest.mark.parametrize("name", sorted(KEYS))
def test_every_key_is_done_or_says_why_not(name: str) -> None:
    value = "7" if KEYS[name].type.value in ("a number", "0 or 1") else '"x"'
    conf, warnings = parse_conf(f"{name}={value}\n", "xl.conf")
    if KEYS[name].decision is Decision.DONE:
        assert warnings == []
        assert conf != XlConf()
    else:
        assert warnings == [f"xl.conf:1: {name} is ignored: {KEYS[name].reason}"]
        assert conf == XlConf()


def test_neutral_values_pass_in_silence() -> None:
    assert parse_conf('autoballoon="off"\nclaim_mode=1\noutput_format="json"\n')[1] == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nosuch=1", "xl.conf:1: unknown key nosuch"),
        ("\nlockfle=1", "xl.conf:2: unknown key lockfle; did you mean lockfile?"),
        ('vif.default.bridge=["a"]', "xl.conf:1: vif.default.bridge: a string is expected"),
        ('max_grant_frames="many"', "max_grant_frames: 'many' isn't a number"),
        ("x", "xl.conf:1: '=' is expected"),
    ],
)
def test_mistakes(text: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        parse_conf(text, "xl.conf")
    assert says in str(error.value)


def test_defaults_fill_what_is_not_said() -> None:
    conf, _ = parse_conf(
        'vif.default.bridge="br0"\nvif.default.script="s"\nmax_grant_frames=9\n'
        'vif.default.gatewaydev="g"\nvif.default.backend="b"\nmax_maptrack_frames=8\n'
    )
    config = apply_defaults(DomainConfig(vif=(Vif(), Vif(bridge="own", script="t"))), conf)
    assert [vif.bridge for vif in config.vif] == ["br0", "own"]
    assert [vif.script for vif in config.vif] == ["s", "t"]
    assert {vif.gatewaydev for vif in config.vif} == {"g"}
    assert (config.max_grant_frames, config.max_maptrack_frames) == (9, 8)
    given = DomainConfig(max_grant_frames=10)
    assert apply_defaults(given, conf).max_grant_frames == 10
    assert apply_defaults(given, XlConf()) == given


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XG_CONF", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert conf_path() == tmp_path / "xenograft" / "xl.conf"
    assert user_conf() == (XlConf(), [])
    conf_path().parent.mkdir()
    conf_path().write_text('defaultbridge="br2"')
    assert user_conf()[0].bridge == "br2"
    monkeypatch.setenv("XG_CONF", str(tmp_path))
    with pytest.raises(UserError, match="is a directory"):
        user_conf()


class TestPools:
    def test_examples(self) -> None:
        assert not doctest.testmod(cpupool).failed

    @pytest.mark.parametrize("sched", SCHEDULERS)
    def test_schedulers(self, sched: str) -> None:
        pool, warnings = parse_pool(f'name="p"\nsched="{sched}"\ncpus=["1"]\n')
        assert (pool, warnings) == (PoolConfig("p", sched, (1,)), [])

    def test_forms_of_cpus(self) -> None:
        assert parse_pool('name="p"\ncpus="0-3,^1"')[0].cpus == (0, 2, 3)
        assert parse_pool('name="p"\ncpus=["2", "0"]')[0].cpus == (0, 2)
        assert parse_pool('name="p"')[0].cpus is None
        assert parse_pool('name="p"\nnodes=["0"]')[0].nodes == (0,)
        assert parse_cpus("node:0,^all") == set()
        assert parse_cpus("node:1") == set()

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ('sched="credit"', "x: it has no name"),
            ('name="a b"', "x:1: name: 'a b' can't be a pool's name"),
            ('name="p"\nsched="bogus"', "x:2: sched: Unknown scheduler"),
            ('name="p"\nsched="credt"', "did you mean credit?"),
            ('name="p"\ncpu="1"', "x:2: unknown key cpu; did you mean cpus?"),
            ('name="p"\ncpus="1"\nnodes="0"', "cpus= and nodes= can't both"),
            ('name="p"\ncpus="3-1"', "the range 3-1 is out of range"),
            ('name="p"\ncpus="0-99999"', "isn't a CPU or a range"),
            ('name="p"\ncpus=[["1"]]', "without lists in it"),
        ],
    )
    def test_mistakes(self, text: str, says: str) -> None:
        with pytest.raises(UserError) as error:
            parse_pool(text, "x")
        assert says in str(error.value)

    @given(st.sets(st.integers(0, 60), min_size=1), st.sets(st.integers(0, 60)))
    def test_sets_of_cpus(self, chosen: set[int], excluded: set[int]) -> None:
        text = ",".join([*map(str, sorted(chosen)), *(f"^{cpu}" for cpu in sorted(excluded))])
        assert parse_cpus(text) == chosen - excluded

    @given(st.text(max_size=30))
    def test_no_text_breaks_it(self, text: str) -> None:
        try:
            assert all(cpu >= 0 for cpu in parse_cpus(text))
        except UserError:
            return
