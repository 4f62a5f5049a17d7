# SPDX-License-Identifier: GPL-2.0-or-later
"""The hypervisor's console ring, and what guests may put into it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xenograft.hypervisor.log import LINE_LIMIT, RATE_INTERVAL_NS, RATE_MESSAGES, GuestLog, Log


def test_lines_are_marked_by_who_wrote_them() -> None:
    log = Log(lambda: 0)
    log.write("hello")
    log.write("from a guest", 7)
    assert log.text() == "(XEN) hello\n(d7) from a guest\n"


def test_the_ring_forgets_the_oldest() -> None:
    log = Log(lambda: 0, limit=100)
    for number in range(50):
        log.write(f"line {number:03}")
    assert sum(len(message) + 1 for _, _, message in log.lines) <= 100
    assert log.lines[-1][2] == "line 049"


def test_listeners_hear_time_domid_and_line() -> None:
    log, heard = Log(lambda: 12), []
    log.listeners.append(lambda *entry: heard.append(entry))
    log.write("x", 3)
    assert heard == [(12, 3, "x")]


def test_a_guests_characters_make_lines() -> None:
    log = Log(lambda: 0)
    guest = GuestLog(log, 1)
    guest.put(b"half")
    assert log.text() == ""
    guest.put(b" whole\tline\r\n\x1b[31mred\n")
    assert [line for _, _, line in log.lines] == ["half whole\tline", "[31mred"]


def test_a_line_without_end_is_cut() -> None:
    log = Log(lambda: 0)
    GuestLog(log, 1).put(b"x" * (3 * LINE_LIMIT))
    assert [len(line) for _, _, line in log.lines] == [LINE_LIMIT, LINE_LIMIT]


def test_messages_about_a_guest_are_limited_in_rate() -> None:
    now = 0
    log = Log(lambda: now)
    guest = GuestLog(log, 1)
    for _ in range(3 * RATE_MESSAGES):
        guest.message("again")
    assert len(log.lines) == RATE_MESSAGES
    assert guest.dropped == 2 * RATE_MESSAGES
    now = RATE_INTERVAL_NS
    guest.message("later")
    assert log.lines[-1][2] == "later"


def test_notices_are_told_to_listeners_not_too_many_at_once() -> None:
    log = Log(lambda: 0)
    log.notice("nobody listens")
    told: list[str] = []
    log.notices.append(told.append)
    log.write("no notice")
    for number in range(2 * RATE_MESSAGES):
        log.notice(f"trouble {number}")
        log.notice(f"trouble {number}")
    assert told == [f"trouble {number}" for number in range(RATE_MESSAGES)]
    # The log has them all.
    assert log.text().count("trouble") == 4 * RATE_MESSAGES


def test_limited_output_is_limited_and_unlimited_is_not() -> None:
    log = Log(lambda: 0)
    guest = GuestLog(log, 1)
    guest.put(b"a\n" * 30)
    assert len(log.lines) == 30
    guest.put(b"b\n" * 30, limited=True)
    assert len(log.lines) == 40


@given(st.binary(max_size=300))
def test_no_byte_of_a_guest_reaches_the_log_unless_printable(data: bytes) -> None:
    log = Log(lambda: 0)
    GuestLog(log, 1).put(data + b"\n")
    for _, _, line in log.lines:
        assert all(" " <= character <= "~" or character == "\t" for character in line)
