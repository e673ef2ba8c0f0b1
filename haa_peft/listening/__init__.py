"""Rooms heard: a dry sound at a position or along a path, for one loudspeaker, two ears or an ambisonics player."""

from haa_peft.environment import lazy

__getattr__, __dir__ = lazy(
    "haa_peft.listening",
    {
        "auralise": "haa_peft.listening.in_room",
        "stream": "haa_peft.listening.in_room",
        "read_hrtf": "haa_peft.listening.hrtf",
        "dry_sound": "haa_peft.listening.dry",
        "read_path": "haa_peft.listening.path",
    },
)
