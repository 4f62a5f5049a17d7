# SPDX-License-Identifier: GPL-2.0-or-later
"""The bus between the APICs of one domain: who gets an inter-processor or a device's interrupt.

Semantics of vlapic_ipi() and its helpers in xen/arch/x86/hvm/vlapic.c, and of vioapic_deliver()
in vioapic.c (4.17).  Fixed and lowest-priority interrupts go into the targets' request registers;
NMI, INIT and start-up need the vCPU and are effects.  SMI and remote read are ignored as in Xen;
so is ExtINT, for which Xen would crash the domain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from xenograft.arch.x86.platform import apicdef as a
from xenograft.arch.x86.platform.lapic import LocalApic


class ApicBusEffects(Protocol):
    """What the bus asks of the domain's vCPUs."""

    def apic_nmi(self, vcpu_id: int) -> None:
        """Make an NMI pending, and wake the vCPU."""
        ...

    def apic_init(self, vcpu_id: int) -> None:
        """INIT: the vCPU goes down, with its registers as `arch.x86.pvh.init_state` says.

        The vCPU's `LocalApic.init` is to be called too.  Nothing to do if it has not run yet.
        """
        ...

    def apic_startup(self, vcpu_id: int, vector: int) -> None:
        """SIPI: a vCPU that waits after INIT (or was never up) starts at ``vector << 12``."""
        ...


class ApicBus:
    """All local APICs of a domain, indexed by vCPU number; `previous` rotates lowest priority."""

    __slots__ = ("_effects", "apics", "previous")

    def __init__(self, apics: Sequence[LocalApic], effects: ApicBusEffects) -> None:
        self.apics = apics
        self._effects = effects
        self.previous = 0

    def targets(
        self, source: int, short_hand: int, dest: int, logical: bool
    ) -> Iterator[LocalApic]:
        """The APICs that a destination names, in the order of vCPUs (`source` is a vCPU number)."""
        match short_hand:
            case a.APIC_DEST_SELF:
                yield self.apics[source]
            case a.APIC_DEST_ALLINC:
                yield from self.apics
            case a.APIC_DEST_ALLBUT:
                yield from (apic for apic in self.apics if apic.vcpu_id != source)
            case _:
                yield from (apic for apic in self.apics if apic.matches(dest, logical))

    def send(self, source: int, icr_low: int, dest: int) -> None:
        """Deliver the interrupt that vCPU `source` wrote into its ICR."""
        short_hand = icr_low & a.APIC_SHORT_MASK
        logical = bool(icr_low & a.APIC_DEST_LOGICAL)
        vector = icr_low & a.APIC_VECTOR_MASK
        mode = icr_low & a.APIC_MODE_MASK
        if mode == a.APIC_DM_LOWEST:
            if target := self.lowest_priority(source, short_hand, dest, logical):
                target.set_irq(vector)
            return
        if (
            mode == a.APIC_DM_INIT
            and icr_low & (a.APIC_INT_LEVELTRIG | a.APIC_INT_ASSERT) == a.APIC_INT_LEVELTRIG
        ):
            return  # INIT de-assert: nothing since the Pentium 4
        for apic in list(self.targets(source, short_hand, dest, logical)):
            match mode:
                case a.APIC_DM_FIXED:
                    if apic.enabled:
                        apic.set_irq(vector)
                case a.APIC_DM_NMI:
                    self._effects.apic_nmi(apic.vcpu_id)
                case a.APIC_DM_INIT:
                    self._effects.apic_init(apic.vcpu_id)
                case a.APIC_DM_STARTUP:
                    self._effects.apic_startup(apic.vcpu_id, vector)

    def message(self, entry_low: int, dest: int) -> None:
        """Deliver what an I/O APIC sends: the low half of a pin's entry, and its destination.

        Fixed, lowest-priority and NMI alone, as in Xen.  Fixed ones are kept by an APIC that is
        software-disabled, which an IPI isn't: Xen's vioapic_deliver() doesn't look.
        """
        logical = bool(entry_low & a.APIC_DEST_LOGICAL)
        vector = entry_low & a.APIC_VECTOR_MASK
        level = bool(entry_low & a.APIC_INT_LEVELTRIG)
        match entry_low & a.APIC_MODE_MASK:
            case a.APIC_DM_FIXED:
                for apic in self.targets(0, a.APIC_DEST_NOSHORT, dest, logical):
                    apic.set_irq(vector, level)
            case a.APIC_DM_LOWEST:
                if target := self.lowest_priority(0, a.APIC_DEST_NOSHORT, dest, logical):
                    target.set_irq(vector, level)
            case a.APIC_DM_NMI:
                for apic in self.targets(0, a.APIC_DEST_NOSHORT, dest, logical):
                    self._effects.apic_nmi(apic.vcpu_id)

    def lowest_priority(
        self, source: int, short_hand: int, dest: int, logical: bool
    ) -> LocalApic | None:
        """The enabled target with the lowest processor priority.

        Among equals the next one after the last that was chosen.
        """
        count = len(self.apics)
        best: LocalApic | None = None
        for apic in self.targets(source, short_hand, dest, logical):
            if apic.enabled and (best is None or self._rank(apic) < self._rank(best)):
                best = apic
        if best is not None:
            self.previous = best.vcpu_id % count
        return best

    def _rank(self, apic: LocalApic) -> tuple[int, int]:
        return apic.ppr(), (apic.vcpu_id - self.previous - 1) % len(self.apics)
