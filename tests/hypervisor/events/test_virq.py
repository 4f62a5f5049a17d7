# SPDX-License-Identifier: GPL-2.0-or-later
"""Which VIRQs are global, and who gets the machine's own."""

from __future__ import annotations

import pytest

from tests.hypervisor.events.support import Machine, errno_of
from xenograft.abi import xen
from xenograft.abi.errno import Errno
from xenograft.hypervisor.events.virq import GlobalVirqHandlers, virq_is_global


@pytest.mark.parametrize(
    ("virq", "is_global"),
    [
        (xen.VIRQ_TIMER, False),
        (xen.VIRQ_DEBUG, False),
        (xen.VIRQ_CONSOLE, True),
        (xen.VIRQ_DOM_EXC, True),
        (xen.VIRQ_TBUF, True),
        (xen.VIRQ_DEBUGGER, True),
        (xen.VIRQ_XENOPROF, False),
        (xen.VIRQ_CON_RING, True),
        (xen.VIRQ_PCPU_STATE, True),
        (xen.VIRQ_MEM_EVENT, True),
        (xen.VIRQ_ARGO, True),
        (xen.VIRQ_ENOMEM, True),
        (xen.VIRQ_XENPMU, False),
        *((virq, True) for virq in range(xen.VIRQ_ARCH_0, xen.VIRQ_ARCH_7 + 1)),
    ],
)
def test_virq_is_global(virq: int, is_global: bool) -> None:
    assert virq_is_global(virq) is is_global
    guest = Machine().domain(1, vcpus=2)
    expected = Errno.EINVAL if is_global else None
    assert errno_of(guest.events.bind_virq, virq, 1) is expected


def test_global_virqs_go_to_the_hardware_domain_unless_set_otherwise() -> None:
    machine = Machine()
    dom0, other = machine.domain(0), machine.domain(3)
    handlers = GlobalVirqHandlers(machine.domains)
    port0 = dom0.events.bind_virq(xen.VIRQ_DOM_EXC, 0)
    port3 = other.events.bind_virq(xen.VIRQ_DOM_EXC, 0)
    handlers.send(xen.VIRQ_DOM_EXC)
    assert (dom0.pending_bits(), other.pending_bits()) == ({port0}, set())
    handlers.set_handler(3, xen.VIRQ_DOM_EXC)
    handlers.send(xen.VIRQ_DOM_EXC)
    assert other.pending_bits() == {port3}
    again = GlobalVirqHandlers(machine.domains)
    again.restore(handlers.save())
    assert again.handler(xen.VIRQ_DOM_EXC) == 3
    handlers.forget(3)
    assert handlers.handler(xen.VIRQ_DOM_EXC) == 0
    assert handlers.save() == ()


def test_without_a_hardware_domain_global_virqs_are_dropped() -> None:
    machine = Machine()
    GlobalVirqHandlers(machine.domains).send(xen.VIRQ_CON_RING)


def test_only_global_virqs_have_a_handler() -> None:
    handlers = GlobalVirqHandlers({})
    assert errno_of(handlers.set_handler, 0, xen.VIRQ_TIMER) is Errno.EINVAL
    assert errno_of(handlers.set_handler, 0, xen.NR_VIRQS) is Errno.EINVAL
    assert errno_of(handlers.set_handler, 0, -1) is Errno.EINVAL
