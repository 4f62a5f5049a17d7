# SPDX-License-Identifier: GPL-2.0-or-later
"""What the service does when it's asked: one module per family of requests.

Importing this package fills `table`.
"""

from xenograft.toolstack.service.handlers import (
    arinc653,
    bridges,
    clones,
    consoles,
    control,
    devices,
    domains,
    inspect,
    machine,
    memory,
    metering,
    migration,
    schedule,
    scheduling,
    state,
    vcpus,
)

__all__ = [
    "arinc653",
    "bridges",
    "clones",
    "consoles",
    "control",
    "devices",
    "domains",
    "inspect",
    "machine",
    "memory",
    "metering",
    "migration",
    "schedule",
    "scheduling",
    "state",
    "vcpus",
]
