# SPDX-License-Identifier: GPL-2.0-or-later
"""PV kernels of both widths suspend themselves, and wake in another machine's frames.

`guests/suspend` tells where the list of its frames is in both ways that there are, and looks at
itself when it wakes: memory, list of frames, descriptor tables, traps, events, FPU, time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.hypervisor.pv.audit import Audit
from xenograft.hypervisor.pv.context import Context, get_context
from xenograft.hypervisor.state import pv
from xenograft.hypervisor.vcpu import Vcpu
from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.machine import Domain, Machine

Guest = Callable[[str], Path]
ENVIRONMENTS = ["pv64", "pv32"]
FORMS = ["tree", "address"]
PAGES = 16 << 8
FINE = r"FPU fine, segments fine, traps fine, events fine, time fine, lists forgotten\r\n"


def woken(counter: int, checksum: str = r"\w+") -> str:
    """What it says when all is as it was, but its frames."""
    return (
        rf"Woken: counter {counter}, checksum {checksum} as before,"
        rf" {PAGES} of {PAGES} frames are others\r\n{FINE}"
    )


def config(guest: Guest, env: str, cmdline: str) -> DomainConfig:
    kernel = str(guest(f"suspend-{env}"))
    return from_options(name="guest", type="pv", kernel=kernel, cmdline=cmdline, memory="16M")


def suspended(domain: Domain) -> None:
    assert str(domain.wait(timeout=60)) == "suspend", domain.console.output


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_it_wakes_with_other_frames(guest: Guest, tmp_path: Path, env: str, form: str) -> None:
    path, wanted = tmp_path / "saved", config(guest, env, f"form={form} rounds=2")
    with Machine(clock="virtual") as machine:
        domain = machine.create(wanted)
        suspended(domain)
        (checksum,) = re.findall(r"checksum (\w+)", domain.console.output)
        domain.save(path)
    for counter in (1, 2):
        with Machine(clock="virtual") as machine:
            # Somebody else has the frames that it had.
            for number in range(counter):
                machine.create(msgspec.structs.replace(wanted, name=f"o{number}"), paused=True)
            domain = machine.restore(path, paused=True)
            Audit(domain.xen).check()
            domain.unpause()
            reason = str(domain.wait(timeout=60))
            assert re.search(woken(counter, checksum), domain.console.output)
            if counter == 1:
                assert reason == "suspend"
                Audit(domain.xen).check()
                domain.save(path)
    assert reason == "poweroff"
    assert domain.console.output.endswith("Done\r\n")


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_it_is_asked_and_goes_on_in_its_place(guest: Guest, tmp_path: Path, env: str) -> None:
    """A checkpoint is cancelled for the guest; the file wakes later."""
    path = tmp_path / "saved"
    with Machine() as machine:
        domain = machine.create(config(guest, env, "ask rounds=2"))
        domain.console.expect("Waiting: ", 60)
        domain.save(path, mode="suspend", after="run")
        domain.console.expect(r"Still here: counter 1, checksum \w+ as before, 0 of \d+ frames", 60)
        domain.console.expect(FINE, 60)
        domain.console.expect("Waiting: ", 60)
        assert domain.suspend()
        domain.resume()
        domain.console.expect("Still here: counter 2", 60)
        assert str(domain.wait(60)) == "poweroff"
        domain.destroy()
        domain = machine.restore(path)
        domain.console.expect("Woken: counter 1, .* as before", 60)
        domain.console.expect(FINE, 60)
        domain.console.expect("Waiting: ", 60)
        assert domain.suspend()


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_a_guest_that_tells_nothing_is_refused_and_goes_on(
    guest: Guest, tmp_path: Path, env: str
) -> None:
    path = tmp_path / "saved"
    with Machine(clock="virtual") as machine:
        domain = machine.create(config(guest, env, "form=none"))
        suspended(domain)
        with pytest.raises(UserError, match="guest: the list of its frames ends before"):
            domain.save(path)
        assert not path.exists()
        assert str(domain.wait(60)) == "poweroff"
        assert "Still here: counter 1" in domain.console.output


def _no_ldt(vcpu: Vcpu) -> Context:
    context = get_context(vcpu)
    context.ldt_ents = 0
    return context


def _no_events(vcpu: Vcpu) -> Context:
    context = get_context(vcpu)
    context.event_callback_eip = 0
    return context


def _no_traps(vcpu: Vcpu) -> Context:
    context = get_context(vcpu)
    for trap in context.trap_ctxt:
        trap.address = 0
    return context


@pytest.mark.parametrize("env", ENVIRONMENTS)
@pytest.mark.parametrize(
    ("what", "instead"),
    [
        ("frames_of_list", lambda page, *_: page),
        ("get_context", _no_ldt),
        ("get_context", _no_events),
        ("get_context", _no_traps),
    ],
    ids=["list", "ldt", "events", "traps"],
)
def test_what_is_left_behind_is_noticed(
    guest: Guest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    env: str,
    what: str,
    instead: Callable[..., Any],
) -> None:
    path, wanted = tmp_path / "saved", config(guest, env, "")
    monkeypatch.setattr(pv, what, instead)
    with Machine(clock="virtual") as machine:
        domain = machine.create(wanted)
        suspended(domain)
        domain.save(path)
    with Machine(clock="virtual") as machine:
        machine.create(msgspec.structs.replace(wanted, name="other"), paused=True)
        domain = machine.restore(path)
        # It says so, dies of it, or waits for what never comes.
        with suppress(TimeoutError):
            domain.wait(timeout=5)
        assert not re.search(woken(1), domain.console.output)
