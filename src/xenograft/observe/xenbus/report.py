# SPDX-License-Identifier: GPL-2.0-or-later
"""What a tracker knows, as text: for `xg xenbus`, `xg run --xenbus` and `--log xenbus`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from xenograft.observe.xenbus.tracker import Change, Device, End, View, Violation

_SECOND = 1_000_000_000
_VALUE = 40
_ENDS = {"front": "front end", "back": "back end"}


def _since(end: End, now: int) -> str:
    if end.since is None:
        return ""
    return f" for {(now - end.since) / _SECOND:.3f} s"


def _end(end: End | None, now: int) -> str:
    if end is None:
        return "not there"
    return f"d{end.domid} {end.state}{_since(end, now)}"


def device_lines(devices: Iterable[Device], now: int) -> list[str]:
    """A table: each device, both ends' states and for how long, and who must act."""
    rows = [("Domain", "Device", "Front end", "Back end", "Next")]
    errors: list[tuple[str, End]] = []
    for device in devices:
        rows.append(
            (
                f"d{device.domid}",
                device.name,
                _end(device.front, now),
                _end(device.back, now),
                device.next,
            )
        )
        for end in (device.front, device.back):
            if end is not None and end.error is not None:
                errors.append((device.name, end))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip()
        for row in rows
    ]
    if len(rows) == 1:
        lines = ["no devices"]
    return lines + [f"{name}: d{end.domid} says: {end.error}" for name, end in errors]


def _short(value: str) -> str:
    text = value.encode("unicode_escape").decode()
    return text if len(text) <= _VALUE else text[: _VALUE - 3] + "..."


def _by(writer: int, expected: int) -> str:
    """Who wrote something, if it's not who would have."""
    return "" if writer == expected else f" by d{writer}"


def change_text(change: Change) -> str:
    """A change without its time: ``d1 vbd/51712 front end: Initialising -> Initialised …``."""
    writes = ", ".join(
        f"{name}={_short(value)}{_by(writer, change.by)}" for name, value, writer in change.writes
    )
    behind = f" ({writes})" if writes else ""
    by = "" if change.end == "back" else _by(change.by, change.domid)
    return (
        f"d{change.domid} {change.device} {_ENDS[change.end]}: {change.old} -> {change.new}"
        f"{by}{behind}"
    )


def violation_text(violation: Violation) -> str:
    """A violation without its time."""
    end = _ENDS[violation.end]
    by = "" if violation.end == "back" else _by(violation.by, violation.domid)
    return f"d{violation.domid} {violation.device} {end}: VIOLATION: {violation.text}{by}"


def timeline(changes: Sequence[Change], violations: Sequence[Violation]) -> list[str]:
    """Changes and violations in their order, with their times."""
    lines = [(change.time, 1, change_text(change)) for change in changes]
    lines += [(one.time, 0, violation_text(one)) for one in violations]
    # Sorted by time alone: what happened at one moment keeps its order of kinds.
    lines.sort(key=lambda line: line[0])
    return [f"{time / _SECOND:12.6f} {text}" for time, _, text in lines]


def report(view: View) -> str:
    """Devices, timeline, and what was wrong."""
    lines = device_lines(view.devices, view.now)
    if view.changes or view.violations:
        lines += ["", "Timeline"]
        lines += timeline(view.changes, view.violations)
    count = len(view.violations)
    lines += ["", f"{count} violation{'' if count == 1 else 's'} of the protocol"]
    return "\n".join(lines)
