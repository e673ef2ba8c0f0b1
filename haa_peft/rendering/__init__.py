"""RIRs at any sample rate and as long as the room rings: predictions continued by what was measured."""

from collections.abc import Sequence

from haa_peft.acoustics.sampling import SAMPLE_RATE
from haa_peft.rendering.extent import Extent as Extent
from haa_peft.rendering.render import Renderer as Renderer
from haa_peft.rooms.recordings import Recordings
from haa_peft.store.pack import RoomPack


def late_fields(packs: Sequence[RoomPack]) -> tuple[Renderer, ...]:
    """What predictions at each receiver of a room are continued from, all of the same full length.

    That is a pack's recordings, or its references where it keeps none.
    """
    found = []
    for pack in packs:
        own = len(pack.positions) - pack.card["room"].get("borrowed", 0)
        kept = pack.recordings or Recordings(pack.rirs[:own], SAMPLE_RATE)
        where = pack.positions[:own], pack.receiver, pack.geometry.bounds()
        found.append(Renderer(kept.rirs, kept.sample_rate, *where, str(pack.card["room"]["name"])))
    longest = max(one.full_s for one in found)
    return tuple(one if one.full_s == longest else one.with_length(longest) for one in found)
