"""The one sampling of every RIR inside the package; needs no torch."""

SAMPLE_RATE = 22_050
"""Hz."""
RIR_LENGTH = 9_600
"""Samples that are kept of an RIR (0.435 s)."""
