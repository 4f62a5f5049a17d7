# SPDX-License-Identifier: GPL-2.0-or-later
"""Network: the netif back end, virtual switches, and their ways to the outside."""
