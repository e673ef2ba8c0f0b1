"""Adapters on the Hugging Face Hub: a repository is a store, a folder ``room/configuration`` each."""

from __future__ import annotations

from haa_peft.environment import lazy

__getattr__, __dir__ = lazy(
    "haa_peft.hub",
    {
        "Address": "haa_peft.hub.address",
        "locate": "haa_peft.hub.fetch",
        "pin": "haa_peft.hub.fetch",
        "pull": "haa_peft.hub.pull",
        "push": "haa_peft.hub.push",
    },
)
