# SPDX-License-Identifier: GPL-2.0-or-later
"""The fake engine's part for PV guests: it keeps what it is told, and checks no page table."""

from __future__ import annotations

from xenograft.engine.pv import PV_ANSWERED


class FakePvPages:
    """`PvPages` that takes everything.

    `calls` are (name, arguments) for tests to look at; `results` gives other answers than 0 by
    name.
    """

    def __init__(self, domid: int) -> None:
        self.domid = domid
        self.assist = 0
        self.compat = False
        self.calls: list[tuple[str, tuple[int, ...]]] = []
        self.results: dict[str, int] = {}

    def _call(self, name: str, *args: int) -> int:
        self.calls.append((name, args))
        return self.results.get(name, 0)

    def configure(self, compat: bool, m2p_l4e: int, perdomain_l4e: int, compat_l2: bytes) -> None:
        self.compat = compat

    def set_assist(self, assist: int) -> None:
        self.assist = assist

    def get_type(self, mfn: int, type: int) -> int:
        return self._call("get_type", mfn, type)

    def put_type(self, mfn: int) -> None:
        self._call("put_type", mfn)

    def pin(self, mfn: int, level: int) -> int:
        return self._call("pin", mfn, level)

    def unpin(self, mfn: int) -> int:
        return self._call("unpin", mfn)

    def update(self, ptr: int, val: int, owner: int = -1) -> int:
        return self._call("update", ptr, val, owner)

    def update_descriptor(self, maddr: int, descriptor: int) -> int:
        return self._call("update_descriptor", maddr, descriptor)

    def check_descriptor(self, descriptor: int) -> int | None:
        return descriptor

    def swap_l1(self, maddr: int, entry: int, drop: bool) -> int:
        return self._call("swap_l1", maddr, entry, int(drop))

    def relinquish(self, extents: list[tuple[int, int]]) -> None:
        self._call("relinquish", len(extents))


class FakePvCpu:
    """The PV part of `FakeCpu`: a register file, handlers, and scripted answers.

    `pv_answers` maps the number of a hypercall to what `pv_call` gives (default: answered, 0).
    """

    def __init__(self) -> None:
        self.pv_registers: dict[str, int] = {}
        self.pv_traps: dict[int, tuple[int, int, int]] = {}
        self.pv_frames: list[int] = []
        self.pv_answers: dict[int, tuple[int, int, int, int]] = {}
        self.pv_calls: list[tuple[int, ...]] = []
        self.pv_pages: object = None

    def pv_attach(self, pages: object) -> None:
        if self.pv_pages is not None:
            raise ValueError("the CPU is a PV guest's already")
        self.pv_pages = pages

    def pv_get(self, name: str) -> int:
        return self.pv_registers.get(name, 0)

    def pv_set(self, name: str, value: int) -> None:
        self.pv_registers[name] = value

    def pv_trap(self, vector: int, flags: int, cs: int, address: int) -> None:
        self.pv_traps[vector] = (flags, cs, address)

    def pv_get_trap(self, vector: int) -> tuple[int, int, int]:
        return self.pv_traps.get(vector, (0, 0, 0))

    def pv_set_gdt(self, frames: list[int], entries: int) -> int:
        self.pv_frames = list(frames)
        self.pv_registers["gdt_entries"] = entries
        return 0

    def pv_gdt(self) -> list[int]:
        return list(self.pv_frames)

    def pv_call(
        self, number: int, a: int, b: int, c: int, d: int, e: int, f: int
    ) -> tuple[int, int, int, int]:
        self.pv_calls.append((number, a, b, c, d, e, f))
        return self.pv_answers.get(number, (PV_ANSWERED, 0, a, b))

    def pv_load_segment(self, name: str, selector: int) -> bool:
        return True

    def pv_load_roots(self) -> None:
        pass

    def pv_new_table(self, mfn: int, user: bool) -> int:
        self.pv_registers["user_table" if user else "kernel_table"] = mfn
        return 0

    def pv_iret(self) -> None:
        self.pv_calls.append((23,))

    def pv_drop(self) -> None:
        self.pv_frames = []
