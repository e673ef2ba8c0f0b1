"""Adapters by name: room packs on disk."""
