# SPDX-License-Identifier: GPL-2.0-or-later
"""CPU engines behind one small protocol; nothing here knows of Xen."""
