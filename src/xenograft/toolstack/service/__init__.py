# SPDX-License-Identifier: GPL-2.0-or-later
"""The host service: one process per user that holds a machine and its guests.

`client.connect` finds or starts it; `messages` is what can be asked of it; `daemon` is the process
itself.  The socket's side runs on asyncio in the main thread, the machine on a thread of its own.
"""
