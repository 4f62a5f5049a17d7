# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen's public interface as data: one module per public header."""
