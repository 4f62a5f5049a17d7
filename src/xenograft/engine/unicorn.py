# SPDX-License-Identifier: GPL-2.0-or-later
"""The native engine: Unicorn's CPU emulation under our own second stage (native/*.c).

One engine serves all vCPUs of a space, so that they share translated code.  The types of the
native core satisfy the protocols of `xenograft.engine.protocol` as they are.
"""

from __future__ import annotations

from typing import cast

from xenograft.engine.protocol import AddressSpace, Cpu, MachineMemory
from xenograft.engine.pv import PvPages


class UnicornEngine:
    """Makes memories, spaces and CPUs of the native core.

    Raises ImportError with a clear message when the native core wasn't built, and RuntimeError
    (from `cpu`) when the linked engine isn't the build that the core knows.
    """

    name = "unicorn"

    def __init__(self) -> None:
        try:
            from xenograft.engine import _core
        except ImportError as error:
            raise ImportError(f"the native core isn't built ({error}); run 'make setup'") from error
        self._core = _core

    def memory(self, frames: int) -> MachineMemory:
        """A machine memory of `frames` frames; the first 256 are never handed out."""
        return self._core.Memory(frames)

    def space(self, memory: MachineMemory) -> AddressSpace:
        """An empty guest-physical space over `memory`, which must be of this engine."""
        from xenograft.engine import _core

        return self._core.Space(cast(_core.Memory, memory))

    def cpu(self, space: AddressSpace, index: int) -> Cpu:
        """A CPU in its reset state on `space`, which must be of this engine."""
        from xenograft.engine import _core

        return self._core.Cpu(cast(_core.Space, space), index)

    def pv_pages(self, memory: MachineMemory, space: AddressSpace, domid: int) -> PvPages:
        """The page tables of a PV domain that sees `memory` through `space`."""
        from xenograft.engine import _core

        return _core.PvDomain(cast(_core.Memory, memory), cast(_core.Space, space), domid)
