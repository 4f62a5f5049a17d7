# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of hypercalls, and the handlers of those that belong to no other folder."""
