# SPDX-License-Identifier: GPL-2.0-or-later
"""All observers that a run asks for, as one thing to switch on and off.

>>> from xenograft import Machine
>>> from xenograft.observe.session import Observation
>>> lines = []
>>> with Machine(clock="virtual") as machine:
...     with Observation(machine.hypervisor, log=["hypercalls=sched_op"], write=lines.append):
...         machine.create_pvh(kernel="vmlinuz", cmdline="panic=-1").wait()
ShutdownReason.crash
>>> "SCHEDOP_shutdown, {reason=SHUTDOWN_crash}" in lines[-1]
True

Switch it on before guests are created: engines answer some calls by themselves unless somebody
listens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from xenograft.observe.crash import CrashReporter

if TYPE_CHECKING:
    from xenograft.hypervisor.hypervisor import Hypervisor
    from xenograft.observe.stats import Stats
    from xenograft.observe.trace import Trace
    from xenograft.observe.xenbus.tracker import XenbusTracker


class Observation:
    """Observers of one machine.

    `trace`: file for a Perfetto trace.  `log`: texts of ``--log`` options.  `stats`: print
    counts at the end.  `xenbus`: print the devices, what became of them, and who broke the
    protocol.  `kernel`: the guest's kernel file, for symbols in crash reports, which there are
    always.  `write` gets the log's lines (default: standard error); `out` what is printed at the
    end.  Raises UserError for an unknown subject or a file that can't be written.
    """

    def __init__(
        self,
        hypervisor: Hypervisor,
        *,
        trace: Path | None = None,
        log: Iterable[str] = (),
        stats: bool = False,
        xenbus: bool = False,
        kernel: Path | None = None,
        write: Callable[[str], object] | None = None,
        out: TextIO | None = None,
    ) -> None:
        self._hypervisor = hypervisor
        self._out = out
        self._listeners: list[Any] = []
        self.crash = CrashReporter(hypervisor, kernel)
        self.stats: Stats | None = None
        self.trace: Trace | None = None
        self.xenbus: XenbusTracker | None = None
        # Observers are imported when they're wanted: the others cost nothing, not even time.
        log = list(log)
        if log:
            from xenograft.observe.log import Subject, listeners

            subjects = [Subject.parse(text) for text in log]
            self._listeners += listeners(hypervisor, subjects, write or _to_stderr)
        if trace is not None:
            from xenograft.observe.trace import Trace

            self.trace = Trace.to_file(hypervisor, trace)
            self._listeners.append(self.trace)
        if xenbus:
            from xenograft.observe.xenbus.tracker import XenbusTracker

            self.xenbus = XenbusTracker(lambda domid: domid in hypervisor.domains)
            self._listeners.append(self.xenbus)
        self._listeners.append(self.crash)
        if stats:
            from xenograft.observe.stats import Stats

            self.stats = Stats(hypervisor)
            # Innermost, so that what the others take isn't counted: first when something ends,
            # last when it begins.
            self._listeners = [self.stats.ends(), *self._listeners, self.stats.begins()]

    def __enter__(self) -> Observation:
        for listener in self._listeners:
            self._hypervisor.instruments.add(listener)
        for domid in sorted(self._hypervisor.domains):
            self.crash.watch(domid)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening; finish the trace, print the statistics. May be called again."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            self._hypervisor.instruments.remove(listener)
        if not listeners:
            return
        now = self._hypervisor.clock.now()
        if self.trace is not None:
            self.trace.close(now)
        if self.stats is not None:
            from xenograft.observe.stats import print_report

            print_report(self.stats.report(now), self._out or sys.stderr)
        if self.xenbus is not None:
            from xenograft.observe.xenbus.report import report

            print(report(self.xenbus.view(now)), file=self._out or sys.stderr)


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")
