"""Small per-room adapters for xRIR, a neural predictor of room impulse responses."""

from haa_peft.backbone.checkpoint import load_backbone
from haa_peft.backbone.config import XRIRConfig
from haa_peft.backbone.xrir import XRIR
from haa_peft.errors import InputError
from haa_peft.inference.predictor import RoomPredictor
from haa_peft.rooms.load import load_room

__all__ = ["XRIR", "InputError", "RoomPredictor", "XRIRConfig", "load_backbone", "load_room"]
__version__ = "0.1.0"
