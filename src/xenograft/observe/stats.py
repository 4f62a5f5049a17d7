# SPDX-License-Identifier: GPL-2.0-or-later
"""`--stats`: what happened how often, and what it took.

Times of hypercalls are the host's (what the handler took); times of vCPUs are the machine's
(how long they ran, waited, slept).
"""

from __future__ import annotations

import time as host_time
from collections import Counter
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from xenograft.abi.vcpu import RUNSTATE_NAMES
from xenograft.engine.protocol import Exit
from xenograft.observe import show
from xenograft.observe.decode import CallTracker, Decoder, OpenCall
from xenograft.observe.log import REASONS

if TYPE_CHECKING:
    from xenograft.hypervisor.hypervisor import Hypervisor


class CallStats(msgspec.Struct, frozen=True):
    """One kind of hypercall: `continued` counts beginnings that made way; times in ns."""

    name: str
    count: int
    errors: int
    continued: int
    total_ns: int
    max_ns: int

    @property
    def mean_ns(self) -> float:
        return self.total_ns / self.count if self.count else 0.0


class VcpuStats(msgspec.Struct, frozen=True):
    """One vCPU: what it did, and where its time went (ns of the machine's time)."""

    domid: int
    vcpu: int
    hypercalls: int
    exits: dict[str, int]
    injections: dict[str, int]
    runstates_ns: dict[str, int]


class Report(msgspec.Struct, frozen=True):
    """All counts at one moment."""

    time_ns: int
    hypercalls: list[CallStats]
    exits: dict[str, int]
    injections: dict[str, int]
    events: dict[str, int]
    vcpus: list[VcpuStats]

    def to_json(self) -> str:
        """For programs."""
        return msgspec.json.encode(self).decode()


class _Row:
    __slots__ = ("continued", "count", "errors", "max_ns", "total_ns")

    def __init__(self) -> None:
        self.count = self.errors = self.continued = self.total_ns = self.max_ns = 0


class Stats(CallTracker):
    """Counts. `timer` gives the host's time in ns."""

    def __init__(
        self,
        hypervisor: Hypervisor | None = None,
        timer: Callable[[], int] = host_time.perf_counter_ns,
    ) -> None:
        super().__init__()
        self._decoder = Decoder(hypervisor)
        self._timer = timer
        self._rows: dict[str, _Row] = {}
        self._calls: Counter[tuple[int, int]] = Counter()
        self._exits: Counter[tuple[int, int, int]] = Counter()
        self._injections: Counter[tuple[int, int, str, int]] = Counter()
        self._events: Counter[tuple[int, int]] = Counter()
        self._states: dict[tuple[int, int], tuple[int, int]] = {}
        self._times: Counter[tuple[int, int, int]] = Counter()
        self._last = 0

    def begins(self) -> object:
        """The part that hears how hypercalls begin."""
        return SimpleNamespace(hypercall_enter=self.hypercall_enter)

    def ends(self) -> object:
        """The other part: with both added to the instruments, others may stand between them."""
        hooks = ("hypercall_exit", "exit", "injection", "event_send", "vcpu_state")
        return SimpleNamespace(**{name: getattr(self, name) for name in hooks})

    # -- hooks -------------------------------------------------------------------------------
    def call_begins(self, time: int, domid: int, vcpu: int, call: OpenCall) -> None:
        call.data = self._timer()

    def call_continued(self, time: int, domid: int, vcpu: int, call: OpenCall) -> None:
        self._row(call).continued += 1

    def call_ends(self, time: int, domid: int, vcpu: int, call: OpenCall, result: int) -> None:
        row = self._row(call)
        row.count += 1
        if call.data is not None:
            took = self._timer() - call.data
            row.total_ns += took
            row.max_ns = max(row.max_ns, took)
        if -4096 < result < 0:
            row.errors += 1
        self._calls[domid, vcpu] += 1
        self._last = time

    def _row(self, call: OpenCall) -> _Row:
        name = self._decoder.full_name(call.number, call.args)
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = _Row()
        return row

    def exit(self, time: int, domid: int, vcpu: int, exit: Exit) -> None:
        self._exits[domid, vcpu, exit[0]] += 1
        self._last = time

    def injection(self, time: int, domid: int, vcpu: int, vector: int, kind: str) -> None:
        self._injections[domid, vcpu, kind, vector] += 1

    def event_send(
        self, time: int, domid: int, port: int, remote_domid: int, remote_port: int
    ) -> None:
        self._events[domid, remote_domid] += 1

    def vcpu_state(self, time: int, domid: int, vcpu: int, state: int) -> None:
        before = self._states.get((domid, vcpu))
        if before is not None:
            self._times[domid, vcpu, before[0]] += time - before[1]
        self._states[domid, vcpu] = (state, time)
        self._last = time

    # -- the result ----------------------------------------------------------------------------
    def report(self, now: int | None = None) -> Report:
        """Counts so far; `now` (ns of the machine's time) ends what is under way."""
        now = self._last if now is None else max(now, self._last)
        calls = [
            CallStats(name, row.count, row.errors, row.continued, row.total_ns, row.max_ns)
            for name, row in self._rows.items()
        ]
        calls.sort(key=lambda row: (-row.total_ns, -row.count, row.name))
        exits: Counter[str] = Counter()
        for (_, _, reason), count in self._exits.items():
            exits[_reason(reason)] += count
        injections: Counter[str] = Counter()
        for (_, _, kind, vector), count in self._injections.items():
            injections[f"{kind} {vector:#x}"] += count
        events = {
            f"{show.who(sender)} -> {show.who(receiver)}": count
            for (sender, receiver), count in self._events.items()
        }
        return Report(
            time_ns=now,
            hypercalls=calls,
            exits=_sorted(exits),
            injections=_sorted(injections),
            events=_sorted(events),
            vcpus=[self._vcpu(domid, vcpu, now) for domid, vcpu in self._vcpus()],
        )

    def _vcpus(self) -> list[tuple[int, int]]:
        keys = {(domid, vcpu) for domid, vcpu, _ in self._exits}
        keys |= {(domid, vcpu) for domid, vcpu, _, _ in self._injections}
        return sorted(keys | set(self._calls) | set(self._states))

    def _vcpu(self, domid: int, vcpu: int, now: int) -> VcpuStats:
        key = (domid, vcpu)
        times = {state: ns for (d, v, state), ns in self._times.items() if (d, v) == key}
        if key in self._states:
            state, since = self._states[key]
            times[state] = times.get(state, 0) + now - since
        return VcpuStats(
            domid=domid,
            vcpu=vcpu,
            hypercalls=self._calls[key],
            exits=_sorted({_reason(r): n for (d, v, r), n in self._exits.items() if (d, v) == key}),
            injections=_sorted(
                {
                    f"{kind} {vector:#x}": n
                    for (d, v, kind, vector), n in self._injections.items()
                    if (d, v) == key
                }
            ),
            runstates_ns={
                RUNSTATE_NAMES.get(state, str(state)).removeprefix("RUNSTATE_"): ns
                for state, ns in sorted(times.items())
            },
        )


def _reason(reason: int) -> str:
    return REASONS.get(reason, f"exit_{reason}")


def _sorted(counts: dict[str, int]) -> dict[str, int]:
    """Most frequent first."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


# -- tables ------------------------------------------------------------------------------------

Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
"""Title, column heads, rows; the first column is text, the others are numbers."""


def tables(report: Report) -> list[Table]:
    """The report as tables; empty ones are left out."""
    made: list[Table] = []
    calls: list[tuple[str, ...]] = [
        (
            row.name,
            str(row.count),
            str(row.errors),
            f"{row.total_ns / 1e6:.3f}",
            f"{row.mean_ns / 1e3:.2f}",
            f"{row.max_ns / 1e3:.2f}",
        )
        for row in report.hypercalls
    ]
    heads = ("hypercall", "calls", "errors", "total ms", "mean us", "max us")
    made.append(("Hypercalls", heads, calls))
    for title, counts in (
        ("Exits", report.exits),
        ("Injections", report.injections),
        ("Events", report.events),
    ):
        rows: list[tuple[str, ...]] = [(name, str(count)) for name, count in counts.items()]
        made.append((title, (title.lower().removesuffix("s"), "count"), rows))
    states = ("running", "runnable", "blocked", "offline")
    vcpus = [
        (
            show.who(row.domid, row.vcpu),
            str(row.hypercalls),
            str(sum(row.exits.values())),
            str(sum(row.injections.values())),
            *(f"{row.runstates_ns.get(state, 0) / 1e9:.3f}" for state in states),
        )
        for row in report.vcpus
    ]
    columns = ("vCPU", "hypercalls", "exits", "injections", *(f"{s} s" for s in states))
    made.append(("vCPUs", columns, vcpus))
    return [table for table in made if table[2]]


def plain(made: Iterable[Table]) -> str:
    """Aligned columns."""
    lines: list[str] = []
    for _, heads, rows in made:
        widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
        for row in (heads, *rows):
            cells = [row[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join(cells).rstrip())
        lines.append("")
    return "\n".join(lines)


def print_report(report: Report, out: TextIO) -> None:
    """To people: rich tables on a terminal, aligned text elsewhere."""
    made = tables(report)
    if not made:
        return
    if not out.isatty():
        out.write(plain(made))
        return
    _print_rich(made, out)


def _print_rich(made: list[Table], out: TextIO) -> None:
    # Only here: importing rich takes longer than all else that `--stats` does.
    from rich.console import Console
    from rich.table import Table as RichTable

    console: Any = Console(file=out)
    for title, heads, rows in made:
        table = RichTable(title=title, title_justify="left", header_style="bold")
        for index, head in enumerate(heads):
            table.add_column(head, justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
