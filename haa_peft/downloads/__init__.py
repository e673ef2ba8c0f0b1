"""Fetching published data sets."""
