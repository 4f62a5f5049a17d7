# SPDX-License-Identifier: GPL-2.0-or-later
"""Every bit of the maximum policy, executed by the native engine."""

from __future__ import annotations

import re

import pytest

from xenograft.arch.x86.cpuid import engine, probe_machine
from xenograft.arch.x86.cpuid.features import BY_NAME
from xenograft.arch.x86.cpuid.policy import maximum_features
from xenograft.arch.x86.cpuid.probes import ABSENT, PROBES, Probe
from xenograft.engine.protocol import Engine


@pytest.fixture(scope="module")
def native() -> Engine:
    from xenograft.engine.unicorn import UnicornEngine

    try:
        made = UnicornEngine()
    except ImportError as error:
        pytest.skip(str(error))
    return made


def identify(probe: Probe) -> str:
    return ",".join(probe.features)


@pytest.mark.parametrize("probe", PROBES, ids=identify)
def test_features_that_guests_may_have_work(native: Engine, probe: Probe) -> None:
    assert probe_machine.run(native, probe) == probe.expected


@pytest.mark.parametrize("probe", ABSENT, ids=identify)
def test_instructions_of_absent_features_are_undefined(native: Engine, probe: Probe) -> None:
    assert probe_machine.run(native, probe) == probe.expected


def test_no_bit_is_shown_without_a_probe() -> None:
    probed = {name for probe in PROBES for name in probe.features}
    assert probed == engine.ENGINE_FEATURES
    assert maximum_features(hvm=True) <= probed
    assert maximum_features(hvm=False) <= probed


def test_absent_features_are_not_shown() -> None:
    absent = {name for probe in ABSENT for name in probe.features}
    assert absent <= BY_NAME.keys()
    assert not absent & engine.ENGINE_FEATURES


@pytest.mark.parametrize("probe", PROBES + ABSENT, ids=identify)
def test_the_bytes_are_what_the_text_says(probe: Probe) -> None:
    """Disassembled, they have as many instructions as the text, of the same kinds."""
    capstone = pytest.importorskip("capstone")
    mode = capstone.CS_MODE_64 if probe.mode == "64" else capstone.CS_MODE_32
    code = bytes.fromhex(probe.code)
    decoded = list(capstone.Cs(capstone.CS_ARCH_X86, mode).disasm(code, 0))
    text = [part.strip() for part in probe.asm.split(";")]
    text = [re.sub(r"^\d+: ?", "", part) for part in text]
    names = [part.split()[0] for part in text if part] + ["hlt"]
    if sum(instruction.size for instruction in decoded) != len(code):
        pytest.skip("the disassembler doesn't know the instruction")
    assert len(decoded) == len(names)
    for instruction, name in zip(decoded, names, strict=True):
        ours, theirs = name.removesuffix("q"), instruction.mnemonic.split()[-1]
        assert ours[:3] == theirs[:3] or name == "rep", (name, instruction.mnemonic)
