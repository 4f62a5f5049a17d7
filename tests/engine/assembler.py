# SPDX-License-Identifier: GPL-2.0-or-later
"""Machine code for tests, from assembly text, by the assembler that the set-up needs anyway."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path


@functools.cache
def assemble(text: str, bits: int = 64, origin: int = 0x1000) -> bytes:
    """Assemble AT&T syntax for 16, 32 or 64-bit mode, linked to run at `origin`.

    Raises subprocess.CalledProcessError, with the assembler's message on standard error.
    """
    with tempfile.TemporaryDirectory(prefix="xg-asm-") as name:
        folder = Path(name)
        (folder / "a.s").write_text(f".code{bits}\n.globl _start\n_start:\n{text}\n")
        emulation = "elf_x86_64" if bits == 64 else "elf_i386"
        form = "--64" if bits == 64 else "--32"
        subprocess.run(["as", form, "-o", str(folder / "a.o"), str(folder / "a.s")], check=True)
        link = [
            "ld",
            "-m",
            emulation,
            f"-Ttext={origin:#x}",
            "-o",
            str(folder / "a.elf"),
            str(folder / "a.o"),
        ]
        subprocess.run(link, check=True)
        files = [str(folder / "a.elf"), str(folder / "a.bin")]
        copy = ["objcopy", "-O", "binary", "-j", ".text", *files]
        subprocess.run(copy, check=True)
        return (folder / "a.bin").read_bytes()
