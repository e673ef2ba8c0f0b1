"""Predicting with a room adapter loaded by name."""
