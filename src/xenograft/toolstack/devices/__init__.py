# SPDX-License-Identifier: GPL-2.0-or-later
"""The toolstack's part of devices: what is written to the store, and when it may go again."""
