"""Baselines, protocol and reports."""
