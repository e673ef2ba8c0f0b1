"""Variants of a room to train in."""
