# SPDX-License-Identifier: GPL-2.0-or-later
"""Exit statuses of `xg`: a contract with scripts."""

from __future__ import annotations

OK = 0
"""The guest powered off, or its user left with Ctrl-]."""
FAULT = 1
"""Our own fault."""
USAGE = 2
"""Bad usage, configuration or input."""
CRASHED = 3
"""The guest crashed."""
TIMED_OUT = 4
"""The time of --timeout ran out."""
REBOOTED = 5
"""The guest asked for a reboot, and wasn't restarted."""
