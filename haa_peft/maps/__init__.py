"""Room acoustic parameters over a floor plan, how far they may be off, and where to measure next."""

from haa_peft.environment import lazy

__getattr__, __dir__ = lazy(
    "haa_peft.maps",
    {
        "predict_metrics": "haa_peft.maps.field",
        "predict_left_out": "haa_peft.maps.left_out",
        "make_map": "haa_peft.maps.field",
        "draw_map": "haa_peft.maps.draw",
    },
)
