# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain as plain data: taken down, built again elsewhere, or cloned in place."""
