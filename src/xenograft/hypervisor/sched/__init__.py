# SPDX-License-Identifier: GPL-2.0-or-later
"""Who runs on which physical CPU, and for how long: the schedulers, and the core that asks them.

Nothing here knows of guests: the machine loop and the simulator drive the same code.
"""
