# SPDX-License-Identifier: GPL-2.0-or-later
"""The console back end: what xenconsoled is in a control domain."""
