# SPDX-License-Identifier: GPL-2.0-or-later
"""One hypercall under way, and how its handler reaches the caller's memory.

Handlers don't know whether the caller is a guest's vCPU, a control domain or the embedded
toolstack: they see a `Call` with the calling domain and an accessor for its memory.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Protocol, TypeVar

from xenograft.abi.errno import Errno, XenError
from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE, AccessError, Cpu

if TYPE_CHECKING:
    from xenograft.abi.struct import Struct
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.hypervisor import Hypervisor
    from xenograft.hypervisor.memory.p2m import P2m
    from xenograft.hypervisor.vcpu import Vcpu

    S = TypeVar("S", bound=Struct)

MAX_COPY = 1 << 20
"""No handler copies more than this at once: a guest cannot make the host allocate at will."""


class Continuation(Exception):
    """Raised by a handler that has used up its budget: the call is to be repeated later.

    Xen's hypercall_create_continuation(): the caller's registers get the new number and
    arguments, the instruction runs again, and interrupts may be delivered in between.
    """

    def __init__(self, number: int, *args: int) -> None:
        super().__init__(f"hypercall {number} continues")
        self.number = number
        self.arguments = args


class NoReturn(Exception):
    """Raised by a handler that has sent the caller somewhere else (IRET): there is no result."""


class GuestAccess(Protocol):
    """The caller's memory, addressed as its pointers are (virtual, for guests)."""

    def read(self, addr: int, size: int) -> bytes:
        """Raises XenError(EFAULT)."""
        ...

    def write(self, addr: int, data: bytes) -> None:
        """Raises XenError(EFAULT)."""
        ...


class CpuAccess:
    """Memory as a vCPU's current page tables show it: one checked copy in, one checked copy out."""

    __slots__ = ("_cpu", "_p2m")

    def __init__(self, cpu: Cpu, p2m: P2m | None = None) -> None:
        """`p2m`: whose pages may come when they're touched, by a copy too."""
        self._cpu = cpu
        self._p2m = p2m

    def read(self, addr: int, size: int) -> bytes:
        try:
            return self._cpu.read(addr, size)
        except AccessError:
            pass
        try:
            self._populate(addr, size)
            return self._cpu.read(addr, size)
        except AccessError:
            raise XenError(Errno.EFAULT) from None

    def write(self, addr: int, data: bytes) -> None:
        try:
            self._cpu.write(addr, data)
        except AccessError:
            pass
        else:
            return
        try:
            self._populate(addr, len(data))
            self._cpu.write(addr, data)
        except AccessError:
            raise XenError(Errno.EFAULT) from None

    def _populate(self, addr: int, size: int) -> None:
        """Let pages come that wait for being touched.  Raises AccessError if there are none."""
        pod = None if self._p2m is None else self._p2m.pod
        if pod is None:
            raise AccessError(addr)
        for page in range(addr & -PAGE_SIZE, addr + size, PAGE_SIZE):
            gfn = self._cpu.translate(page) >> PAGE_SHIFT
            if gfn in pod.entries and not pod.demand(gfn):
                raise AccessError(addr)


class HostAccess:
    """Memory for callers in the host (the embedded toolstack): buffers at made-up addresses.

    >>> memory = HostAccess()
    >>> addr = memory.put(b"argument")
    >>> memory.read(addr, 8)
    b'argument'
    """

    __slots__ = ("_buffers", "_next")

    def __init__(self) -> None:
        self._buffers: list[tuple[int, bytearray]] = []
        self._next = 0x10000

    def put(self, data: bytes) -> int:
        """A buffer with these contents; returns its address."""
        addr = self._next
        self._buffers.append((addr, bytearray(data)))
        self._next += (len(data) + 0x1FFF) & ~0xFFF
        return addr

    def _find(self, addr: int, size: int) -> tuple[bytearray, int]:
        for start, buffer in self._buffers:
            if start <= addr and addr + size <= start + len(buffer):
                return buffer, addr - start
        raise XenError(Errno.EFAULT)

    def read(self, addr: int, size: int) -> bytes:
        buffer, at = self._find(addr, size)
        return bytes(buffer[at : at + size])

    def write(self, addr: int, data: bytes) -> None:
        buffer, at = self._find(addr, len(data))
        buffer[at : at + len(data)] = data


class Call:
    """A hypercall: who called, from what kind of code, and where its pointers lead.

    `bits` is the width of the calling code (32: compat structure layouts). `vcpu` is None for
    callers in the host. `start` is where a continued operation goes on (memory_op's extent).
    """

    __slots__ = ("bits", "domain", "hypervisor", "in_multicall", "memory", "start", "vcpu")

    def __init__(
        self,
        hypervisor: Hypervisor,
        domain: Domain,
        vcpu: Vcpu | None,
        memory: GuestAccess,
        bits: int = 64,
    ) -> None:
        self.hypervisor = hypervisor
        self.domain = domain
        self.vcpu = vcpu
        self.memory = memory
        self.bits = bits
        self.start = 0
        self.in_multicall = False

    @property
    def current(self) -> Vcpu:
        """The calling vCPU. Raises XenError(EINVAL) for callers in the host, which have none."""
        if self.vcpu is None:
            raise XenError(Errno.EINVAL)
        return self.vcpu

    # -- the caller's memory -----------------------------------------------------------------
    def read(self, addr: int, cls: type[S]) -> S:
        """Copy a structure in, in the caller's layout. Raises XenError(EFAULT)."""
        codec = cls.codec(self.bits)
        value: S = codec.unpack(self.memory.read(self._check(addr), codec.size))
        return value

    def write(self, addr: int, value: Struct) -> None:
        """Copy a structure out, in the caller's layout. Raises XenError(EFAULT)."""
        self.memory.write(self._check(addr), value.pack(self.bits))

    def read_array(self, addr: int, cls: type[S], count: int, first: int = 0) -> list[S]:
        """Copy `count` structures in, from index `first` of the array at addr.

        Raises XenError: EFAULT for a bad address, E2BIG for more than MAX_COPY bytes.
        """
        size = cls.sizeof(self.bits)
        data = self.read_bytes(addr + first * size, count * size)
        bits = self.bits
        return [cls.unpack(data[at : at + size], bits) for at in range(0, len(data), size)]

    def read_bytes(self, addr: int, size: int) -> bytes:
        """Copy bytes in. Raises XenError: EFAULT; E2BIG for more than MAX_COPY bytes."""
        if size > MAX_COPY:
            raise XenError(Errno.E2BIG)
        return self.memory.read(self._check(addr), size) if size else b""

    def write_bytes(self, addr: int, data: bytes) -> None:
        """Copy bytes out. Raises XenError(EFAULT)."""
        if data:
            self.memory.write(self._check(addr), data)

    def read_ints(self, addr: int, size: int, count: int, first: int = 0) -> list[int]:
        """Copy in `count` unsigned integers of `size` bytes (1, 2, 4, 8).

        Raises XenError: EFAULT for a bad address, E2BIG for more than MAX_COPY bytes.
        """
        data = self.read_bytes(addr + first * size, count * size)
        return list(struct.unpack(f"<{count}{_CODES[size]}", data))

    def write_ints(self, addr: int, size: int, values: list[int], first: int = 0) -> None:
        """Copy out unsigned integers of `size` bytes each. Raises XenError(EFAULT)."""
        data = struct.pack(f"<{len(values)}{_CODES[size]}", *values)
        self.write_bytes(addr + first * size, data)

    def read_ulongs(self, addr: int, count: int, first: int = 0) -> list[int]:
        """Copy in xen_ulong_t / xen_pfn_t values: 8 bytes each, 4 for 32-bit callers."""
        return self.read_ints(addr, self.bits // 8, count, first)

    def write_ulongs(self, addr: int, values: list[int], first: int = 0) -> None:
        """Copy out xen_ulong_t / xen_pfn_t values; bits that don't fit 32-bit callers are lost."""
        mask = (1 << self.bits) - 1
        self.write_ints(addr, self.bits // 8, [value & mask for value in values], first)

    def _check(self, addr: int) -> int:
        if addr < 0 or addr >> self.bits:
            raise XenError(Errno.EFAULT)
        return addr


_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
