# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's whole state: out of one machine, into a file or a stream, into another machine."""
