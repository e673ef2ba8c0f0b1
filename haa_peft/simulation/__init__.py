"""Rooms by image sources and rays: drawn, simulated, kept as folders and corpora."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from haa_peft.rooms.room import Room


def make_room(name: str) -> Path | None:
    """The folder of a twin (``classroom-twin/base``) or a room by number (``simulated/1000-0``), made on first use.

    None if there is no room of that name. Raises ``InputError`` if the cache folder cannot be written.
    """
    from haa_peft.simulation.simulated import is_simulated_name, make_simulated
    from haa_peft.simulation.twins import is_twin_name, make_twin

    if is_twin_name(name):
        return make_twin(name)
    return make_simulated(name) if is_simulated_name(name) else None


def draw_rooms(count: int) -> list[Room]:
    """The first rooms that pretraining drew, of as many measurements as a room has; some seconds each."""
    from haa_peft.simulation.simulated import simulated_rooms

    return simulated_rooms(count)
