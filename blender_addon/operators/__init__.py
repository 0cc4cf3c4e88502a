# SPDX-License-Identifier: GPL-3.0-or-later
"""What the buttons do. Operators only start things; the main-thread timer brings what comes of them."""
