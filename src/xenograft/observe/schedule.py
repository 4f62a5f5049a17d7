# SPDX-License-Identifier: GPL-2.0-or-later
"""The schedule of a machine that runs, as a file: a Gantt chart, or xentrace's records."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from xenograft.observe.xentrace import XentraceWriter
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.sched import gantt
from xenograft.toolstack.sched.history import History

if TYPE_CHECKING:
    from xenograft.hypervisor.hypervisor import Hypervisor

SUFFIXES = (".svg", ".png", ".xentrace")


class ScheduleFile:
    """Records from its beginning as a context manager to its end, then writes the file.

    Raises UserError for a name that doesn't end as one of SUFFIXES, and if it can't be written.
    """

    def __init__(self, hypervisor: Hypervisor, path: Path) -> None:
        if path.suffix not in SUFFIXES:
            raise UserError(f"{path}: it has to end in {', '.join(SUFFIXES)}")
        self._hypervisor = hypervisor
        self._path = path
        self._start = hypervisor.clock.now()
        self._names: dict[int, str] = {}
        self._history = History()
        self._writer: XentraceWriter | None = None
        try:
            if path.suffix == ".xentrace":
                self._writer = XentraceWriter(path)
            else:
                path.write_bytes(b"")
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None

    def domain_state(self, _time: int, domid: int, _state: str) -> None:
        """Remember names, which are gone when domains are."""
        domain = self._hypervisor.domains.get(domid)
        if domain is not None and domain.vcpus:
            self._names[domid] = domain.name

    def __enter__(self) -> ScheduleFile:
        instruments = self._hypervisor.instruments
        for domid in sorted(self._hypervisor.domains):
            self.domain_state(0, domid, "")
        instruments.add(self)
        instruments.add(self._writer or self._history)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        instruments = self._hypervisor.instruments
        instruments.remove(self)
        instruments.remove(self._writer or self._history)
        try:
            self._write()
        except OSError as error:
            raise UserError(f"{self._path}: {error.strerror}") from None

    def _write(self) -> None:
        if self._writer is not None:
            self._writer.close()
            if self._writer.error is not None:
                raise self._writer.error
            return
        end = self._hypervisor.clock.now()
        picture = gantt.chart(
            self._history.close(end), self._names, self._start, end, title="schedule"
        )
        if self._path.suffix == ".svg":
            self._path.write_text(gantt.to_svg(picture), encoding="utf-8")
        else:
            gantt.to_png(picture, self._path)
