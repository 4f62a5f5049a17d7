# SPDX-License-Identifier: GPL-2.0-or-later
"""What all split-driver back ends stand on: devices, their states, grants, events, host I/O."""
