"""RIRs at any sample rate and as long as the room rings: predictions continued by what was measured."""

from haa_peft.rendering.render import Renderer as Renderer
