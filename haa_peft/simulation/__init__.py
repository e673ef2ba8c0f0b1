"""Rooms by image sources and rays: drawn, simulated, kept as folders and corpora."""
