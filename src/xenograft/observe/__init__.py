# SPDX-License-Identifier: GPL-2.0-or-later
"""What watches a machine through its instruments: traces, logs, statistics, crash reports."""
