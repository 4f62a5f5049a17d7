# SPDX-License-Identifier: GPL-2.0-or-later
"""console_io: the hypervisor's own console (CONSOLEIO_* in public/xen.h).

Reading is the control domain's.  Writing too in a release build of Xen; a debug build lets any
guest write (CONFIG_VERBOSE_DEBUG), which is what kernel developers want: `verbose_debug` of
the hypervisor chooses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.xen import CONSOLEIO_read, CONSOLEIO_write, __HYPERVISOR_console_io
from xenograft.hypervisor.call import Continuation
from xenograft.hypervisor.ops import Op, everyone, family
from xenograft.hypervisor.privilege import Xsm, check

if TYPE_CHECKING:
    from xenograft.hypervisor.call import Call

CHUNK = 4096
"""Bytes handled before other work gets its turn."""
INT_MAX = 0x7FFFFFFF


def write(call: Call, count: int, buffer: int) -> int:
    if not (call.hypervisor.verbose_debug or call.domain.is_console):
        check(Xsm.PRIV, call.domain)
    size = min(count, CHUNK)
    call.domain.console_write(call.read_bytes(buffer, size))
    if count > size:
        raise Continuation(__HYPERVISOR_console_io, CONSOLEIO_write, count - size, buffer + size)
    return 0


def read(call: Call, count: int, buffer: int) -> int:
    """Characters typed at the hypervisor's console; returns how many."""
    if not call.domain.is_console:
        check(Xsm.PRIV, call.domain)
    if count > INT_MAX:
        raise XenError(Errno.E2BIG)
    typed = call.hypervisor.console_input
    data = bytes(typed[:count])
    call.write_bytes(buffer, data)
    del typed[: len(data)]
    return len(data)


CONSOLE_OPS = family(
    [
        Op(CONSOLEIO_write, "CONSOLEIO_write", None, everyone(write)),  # type: ignore[arg-type]
        Op(CONSOLEIO_read, "CONSOLEIO_read", None, everyone(read)),  # type: ignore[arg-type]
    ]
)


def console_io(call: Call, cmd: int, count: int, buffer: int) -> int:
    """__HYPERVISOR_console_io."""
    if cmd == CONSOLEIO_write:
        return write(call, count, buffer)
    if cmd == CONSOLEIO_read:
        return read(call, count, buffer)
    check(Xsm.PRIV, call.domain)
    raise XenError(Errno.ENOSYS)
