# SPDX-License-Identifier: GPL-2.0-or-later
"""ACPI tables for guests: an AML writer, the DSDT, and the tables that point to it."""
