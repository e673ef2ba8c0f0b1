"""Many rooms: in common batches, and over HTTP, where requests go to the process that already holds their room."""

from __future__ import annotations

from haa_peft.environment import lazy

__getattr__, __dir__ = lazy(
    "haa_peft.serving",
    {
        "Client": "haa_peft.serving.client",
        "Serving": "haa_peft.serving.application",
        "start": "haa_peft.serving.application",
        "predict_in_rooms": "haa_peft.serving.many",
        "stop": "haa_peft.serving.application",
    },
)
