"""Small per-room adapters for xRIR, a neural predictor of room impulse responses."""

from typing import TYPE_CHECKING

from haa_peft.environment import lazy
from haa_peft.errors import InputError

if TYPE_CHECKING:
    from haa_peft.inference.predictor import RoomPredictor
    from haa_peft.main_job import adapt_room
    from haa_peft.model.checkpoint import load_backbone
    from haa_peft.model.config import XRIRConfig
    from haa_peft.model.xrir import XRIR
    from haa_peft.rooms.load import load_room

__all__ = ["XRIR", "InputError", "RoomPredictor", "XRIRConfig", "adapt_room", "load_backbone", "load_room"]
__version__ = "0.1.0"
__getattr__, __dir__ = lazy(
    __name__,
    {
        "XRIR": "haa_peft.model.xrir",
        "RoomPredictor": "haa_peft.inference.predictor",
        "XRIRConfig": "haa_peft.model.config",
        "adapt_room": "haa_peft.main_job",
        "load_backbone": "haa_peft.model.checkpoint",
        "load_room": "haa_peft.rooms.load",
    },
)
