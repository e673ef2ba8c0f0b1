"""Where the waveform's phase comes from; needs no torch."""

PHASES = ("references", "random")
"""The aligned references, or chance as in the published code."""
DIFFUSE = "diffuse"
"""The aligned references' until the room mixes, then that of a diffuse field (:mod:`haa_peft.rendering`)."""
