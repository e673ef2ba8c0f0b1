"""Rooms as data: measured folders, HAA's configurations, simulated twins and corpora."""
