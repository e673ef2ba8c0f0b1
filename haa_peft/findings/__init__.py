"""What is wrong with the measurements of a room, found in the measurements: pure functions, a finding each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from haa_peft.acoustics.spectrogram import SAMPLE_RATE
from haa_peft.errors import LONGEST, InputError, one_line
from haa_peft.findings.arrival import Arrivals
from haa_peft.findings.decay import check_decay, check_length
from haa_peft.findings.finding import ERROR, Finding
from haa_peft.findings.surroundings import check_surroundings
from haa_peft.findings.timing import check_polarity, check_timing
from haa_peft.findings.values import check_levels, check_values
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.rooms.room import Room

SPEAKS_ALONE = {"silent", "constant", "decibels", "squared", "offset", "reversed"}
"""Faults that spoil all other checks."""


def check_measurements(
    rirs: np.ndarray,
    rate: int,
    positions: np.ndarray,
    receiver: np.ndarray,
    surfaces: Surfaces | None = None,
) -> list[Finding]:
    """What is wrong with RIRs and their positions, errors first.

    Parameters
    ----------
    rirs : (N, T) as measured, finite.
    rate : Hz.
    positions, receiver : (N, 3) and (3,) m.
    surfaces : of the room, where they are known.
    """
    rirs = np.asarray(rirs)
    rirs = rirs.astype(np.float32) if rirs.dtype not in (np.float32, np.float64) else rirs
    short = check_length(rirs.shape[1], rate)
    if short:
        return short
    found = check_values(rirs)
    if any(one.kind in SPEAKS_ALONE and one.severity == ERROR for one in found):
        return found
    arrival = np.abs(rirs).argmax(axis=1) / rate
    decay = check_decay(rirs, rate, arrival)
    if any(one.kind == "noise" and one.severity == ERROR for one in decay):
        return _sorted(found + decay)
    if not any(one.kind == "same" and len(one.rows) == len(rirs) for one in found):
        arrivals = Arrivals(rirs, rate)
        timing, arrival = check_timing(arrivals, rirs, positions, receiver, surfaces)
        found += timing
        if not any(one.severity == ERROR for one in timing) and surfaces is not None:
            found += check_surroundings(arrivals, positions, receiver, surfaces, arrival)
    return _sorted(found + decay + check_levels(rirs, rate, arrival) + check_polarity(rirs, rate, arrival))


def check_room(room: Room) -> list[Finding]:
    """What is wrong with the measurements that were made in a room, as they are stored where that is known."""
    own = room.without_borrowed()
    rirs, rate = own.rirs * own.scale, SAMPLE_RATE
    with suppress(InputError):  # the files may have gone since the room was read
        stored, stored_rate = own.recorded() if own.recorded is not None else (rirs, rate)
        if len(stored) == len(rirs):
            rirs, rate = stored, stored_rate
    return check_measurements(rirs, rate, own.positions, own.receiver, own.surfaces)


def checked(room: Room, *, allow_faults: bool = False) -> Room:
    """The room with what is found in its measurements; raises ``InputError`` for an error unless faults are allowed."""
    found = check_room(room)
    if not allow_faults:
        refuse_faults(found, room.name)
    return dataclasses.replace(room, findings=tuple(found))


def _sorted(found: Sequence[Finding]) -> list[Finding]:
    return sorted(found, key=lambda one: one.severity != ERROR)


def refuse_faults(found: Sequence[Finding], name: str, hint: str = "") -> None:
    """Raise ``InputError`` in one line, which ends with a hint, if any of the findings of a room is an error."""
    errors = [one for one in found if one.severity == ERROR]
    if not errors:
        return
    first, others = errors[0], ", ".join(one.kind for one in errors[1:])
    more = f" (and {len(errors) - 1} more: {others})" if others else ""
    cure = f"; {first.cure}, or give --allow-faults to go on as it is{more}{hint}"
    start = f"{name}: {first.kind}: "
    raise InputError(start + one_line(first.text, max(60, LONGEST - len(start + cure))) + cure)
