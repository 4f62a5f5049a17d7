# SPDX-License-Identifier: GPL-2.0-or-later
"""Domain configurations: the record, the reader of xl.cfg files, and the options of `xg run`."""
