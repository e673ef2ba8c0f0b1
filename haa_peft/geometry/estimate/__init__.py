"""Geometry that nobody measured: from photographs, from echoes, by a network."""
