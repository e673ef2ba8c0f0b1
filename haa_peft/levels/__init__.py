"""Levels of a room's RIRs at any position, fitted beside the network: spans and octaves, the device's directivity."""

from haa_peft.environment import lazy

__getattr__, __dir__ = lazy(
    "haa_peft.levels",
    {
        "fit_levels": "haa_peft.levels.fitting",
        "stored_levels": "haa_peft.levels.stored",
        "draw_directivity": "haa_peft.levels.figure",
    },
)
