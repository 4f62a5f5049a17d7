# SPDX-License-Identifier: GPL-2.0-or-later
"""Error numbers."""

from __future__ import annotations

import errno

import pytest

from xenograft.abi.errno import Errno, XenError, errno_name


def test_numbers_are_linux_numbers() -> None:
    """Xen chose Linux's numbers (public/errno.h); Python runs on Linux here."""
    for name, member in Errno.__members__.items():
        if name != "ERESTART":
            assert getattr(errno, name) == member, name


def test_aliases() -> None:
    assert Errno["EWOULDBLOCK"] is Errno.EAGAIN
    assert Errno["EDEADLOCK"] is Errno.EDEADLK


def test_xen_error_carries_its_number() -> None:
    with pytest.raises(XenError, match="ESRCH: no domain 7") as caught:
        raise XenError(Errno.ESRCH, "no domain 7")
    assert caught.value.errno is Errno.ESRCH
    assert str(XenError(Errno.EINVAL)) == "EINVAL"


def test_errno_name() -> None:
    assert errno_name(-22) == "EINVAL"
    assert errno_name(-11) == "EAGAIN"
    assert errno_name(0) is None
    assert errno_name(22) is None
    assert errno_name(-4000) is None
