# SPDX-License-Identifier: GPL-2.0-or-later
"""xenbus made visible: devices and their states, what led there, and who broke the protocol."""
