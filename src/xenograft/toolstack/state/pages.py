# SPDX-License-Identifier: GPL-2.0-or-later
"""A saved guest's pages, until they're put where they belong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from xenograft.engine.protocol import PAGE_SHIFT
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.state.file import BODY, HEAD, PAGE, StateError, records

Runs = Iterator[tuple[int, bytes]]
"""(first page number, the bytes of pages that lie side by side)."""


class SavedGuest(Protocol):
    """A saved guest that has been read and checked."""

    head: bytes
    body: bytes

    def pages(self) -> Runs: ...

    def close(self) -> None: ...


class FileGuest:
    """A saved guest in a file, which was found to be whole.  A context manager.

    Raises UserError if it can't be read or isn't what it should be.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.head = b""
        self.body = b""
        self._places: list[int] = []
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._file: BinaryIO = os.fdopen(handle, "rb", buffering=0)
        except OSError as error:
            raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from None
        try:
            self._check()
        except StateError as error:
            self.close()
            raise UserError(str(error)) from None
        except OSError as error:
            self.close()
            raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check(self) -> None:
        source = _Whole(self._file)
        for record in records(source, self.path):
            if record.tag == HEAD:
                self.head = record.payload
            elif record.tag == BODY:
                self.body = record.payload
            elif record.tag == PAGE:
                record.pages()
                self._places.append(source.at - len(record.payload))
        if not self.head or not self.body:
            raise StateError(f"{self.path} is damaged: records are missing")

    def pages(self) -> Runs:
        """The pages, read again.  Raises UserError if the file isn't what it was."""
        for place in self._places:
            header = os.pread(self._file.fileno(), 16, place)
            first = int.from_bytes(header[:8], "little")
            count = int.from_bytes(header[8:12], "little")
            data = os.pread(self._file.fileno(), count << PAGE_SHIFT, place + 16)
            if not data or len(data) != count << PAGE_SHIFT:
                raise UserError(f"{self.path} was changed while it was read")
            yield first, data

    def close(self) -> None:
        self._file.close()


class _Whole:
    """Reads as much as is asked for, as long as there's something."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.at = 0

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            parts = [data]
            while data and sum(map(len, parts)) < size:
                data = self._file.read(size - sum(map(len, parts)))
                parts.append(data)
            data = b"".join(parts)
        self.at += len(data)
        return data
