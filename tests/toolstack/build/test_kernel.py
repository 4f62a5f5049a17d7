# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel files: bzImages in every compression, compressed ELF files, and what isn't a kernel."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.toolstack.build.support import COMPRESSORS, bzimage, linux, linux_payload
from xenograft.toolstack.build.decompress import decompress
from xenograft.toolstack.build.elf import Buffer
from xenograft.toolstack.build.kernel import parse_kernel, unpack_kernel
from xenograft.toolstack.errors import UserError

IMAGE = linux()


@pytest.mark.parametrize("form", sorted(COMPRESSORS))
def test_bzimage(form: str) -> None:
    kernel = parse_kernel(bzimage(linux_payload(IMAGE, form)), "vmlinuz")
    assert bytes(kernel.image) == IMAGE
    assert kernel.container == ("bzImage", form)
    assert kernel.version == "6.1.0-test (us@here) #1"
    assert kernel.kinds == ("pv", "pvh")
    assert (kernel.elf.start, kernel.elf.end) == (0x1000000, 0x1205000)


@pytest.mark.parametrize("form", sorted(COMPRESSORS))
def test_bzimage_with_padding_in_the_payload_and_a_signature_after_it(form: str) -> None:
    payload = linux_payload(IMAGE, form) + bytes(40)
    image, _, _ = unpack_kernel(bzimage(payload, tail=b"signature" * 100))
    assert bytes(image) == IMAGE


def test_plain_and_compressed_elf() -> None:
    assert parse_kernel(IMAGE).container == ()
    for form, pack in COMPRESSORS.items():
        kernel = parse_kernel(pack(IMAGE))
        assert kernel.container == (form,)
        assert bytes(kernel.image) == IMAGE


def test_nested() -> None:
    inner = bzimage(linux_payload(COMPRESSORS["xz"](IMAGE), "gzip"))
    image, container, version = unpack_kernel(COMPRESSORS["zstd"](inner))
    assert bytes(image) == IMAGE
    assert container == ("zstd", "bzImage", "gzip", "xz")
    assert version


def test_uncompressed_payload() -> None:
    assert parse_kernel(bzimage(IMAGE)).container == ("bzImage",)


def test_setup_sectors_zero_means_four() -> None:
    image = bytearray(bzimage(linux_payload(IMAGE, "gzip")))
    image[0x1F1] = 0
    assert bytes(unpack_kernel(bytes(image))[0]) == IMAGE


def test_unpacker_is_given_each_layer() -> None:
    seen = []

    def unpack(data: Buffer) -> bytes:
        seen.append(bytes(data[:2]))
        return decompress(data)

    parse_kernel(COMPRESSORS["xz"](bzimage(linux_payload(IMAGE, "gzip"))), unpack=unpack)
    assert seen == [b"\xfd7", b"\x1f\x8b"]


def too_deep() -> bytes:
    data = IMAGE
    for _ in range(6):
        data = COMPRESSORS["gzip"](data)
    return data


GZIP = linux_payload(IMAGE, "gzip")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "the file is empty"),
        (b"hello, world\n" * 99, "not a kernel: neither an ELF file nor a bzImage"),
        (b"\0", "not a kernel"),
        (bzimage(GZIP)[:0x240], "boot sector or disk image"),
        (bzimage(GZIP)[:-1], "truncated: the payload ends at byte"),
        (bzimage(GZIP, length=0xFFFFFFFF), "truncated: the payload ends at byte"),
        (bzimage(GZIP, length=0), "has no payload"),
        (bzimage(GZIP, protocol=0x207), "boot protocol 2.07 is too old"),
        (bzimage(b"\xde\xad\xbe\xef" * 9), "unknown compression format .it begins de ad be ef"),
        (bzimage(GZIP[:-60]), "the gzip data in it is damaged"),
        (bzimage(GZIP[:200] + b"!" + GZIP[201:]), "the gzip data in it is damaged"),
        (too_deep(), "compressed more than 4 times over"),
        (b"QFI\xfb" + bytes(99), "is a qcow2 disk image; give it as --disk"),
        (COMPRESSORS["gzip"](b"070701" + bytes(99)), "holds an initramfs"),
        (b"#!/bin/sh\n", "is a script"),
        (b"MZ".ljust(56, b"\0") + b"ARM\x64" + bytes(99), "is an AArch64 kernel"),
        (bytes(0x8001) + b"CD001", "is a CD image"),
    ],
)
def test_refuses(data: bytes, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        parse_kernel(data, "kernel x")
    assert str(caught.value).startswith("kernel x: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", sorted(COMPRESSORS))
def test_damaged_payload(form: str) -> None:
    payload = linux_payload(IMAGE, form)
    with pytest.raises(UserError, match=f"the {form} data in it is damaged .*fetch the file anew"):
        parse_kernel(bzimage(payload[: len(payload) // 2]))


@given(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=8))
def test_damaged_bzimages_are_read_or_refused(changes: list[tuple[int, int]]) -> None:
    image = bytearray(bzimage(GZIP))
    for at, value in changes:
        image[(0x1F1 + at) % len(image)] = value
    with contextlib.suppress(UserError):
        assert parse_kernel(bytes(image)).elf.segments


@given(st.binary(max_size=600))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(UserError):
        parse_kernel(data)
