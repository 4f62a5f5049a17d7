# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands of `xl`: one module per family. They ask the host service and print its answers."""
