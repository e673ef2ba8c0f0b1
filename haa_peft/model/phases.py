"""Where the waveform's phase comes from; needs no torch."""

PHASES = ("references", "random")
"""The aligned references, or chance as in the published code."""
