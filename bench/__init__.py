# SPDX-License-Identifier: GPL-2.0-or-later
"""Benchmarks of the promises in SPECIFICATION.md: `python -m bench [NAME...]`."""
