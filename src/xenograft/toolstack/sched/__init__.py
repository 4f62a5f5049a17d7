# SPDX-License-Identifier: GPL-2.0-or-later
"""Scheduling as a toolstack sees it: parameters and pools, simulation, analysis, drawings."""
