# SPDX-License-Identifier: GPL-2.0-or-later
"""What libxl does: configurations, domain building, images, machines."""
