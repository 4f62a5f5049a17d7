# SPDX-License-Identifier: GPL-2.0-or-later
"""Domain building: kernel and module files in, a record of a guest out.

`pvh.build_pvh` is pure; `domain.build_domain` reads the files that a configuration names.
"""
