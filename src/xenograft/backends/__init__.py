# SPDX-License-Identifier: GPL-2.0-or-later
"""Split-driver back ends: a folder for each."""
