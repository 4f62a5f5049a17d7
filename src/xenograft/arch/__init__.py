# SPDX-License-Identifier: GPL-2.0-or-later
"""What differs by architecture and kind of guest."""
