"""A local page to hear and see adapted rooms: positions on the floor plan, sounds there, decay curves and metrics."""

from haa_peft.environment import lazy

__getattr__, __dir__ = lazy("haa_peft.page", {"listen": "haa_peft.page.serve"})
