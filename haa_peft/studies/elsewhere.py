"""A study in other rooms than its own: which of its runs can be there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from haa_peft.studies.assumptions import OF
from haa_peft.studies.plan import RunSpec

NAMED = 3
"""Of more rooms a name says how many more there are."""


def name_of_rooms(rooms: Sequence[str]) -> str:
    """``studio-base-studio-panel``, for folders; of many rooms the first, and how many more."""
    named = rooms if len(rooms) <= NAMED else [rooms[0], f"and-{len(rooms) - 1}-more"]
    return "-".join(named).replace("/", "-")


def with_geometry_for(options: Mapping[str, Any], rooms: Sequence[str]) -> list[str]:
    """The rooms (``room/configuration``) that a run's ``geometry: {of: {ROOM: ...}}`` names; all if it names none."""
    geometry = options.get("geometry")
    named = geometry.get(OF) if isinstance(geometry, Mapping) else None
    return [name for name in rooms if not isinstance(named, Mapping) or name.split("/")[0] in named]


def runs_elsewhere(runs: Mapping[str, RunSpec], rooms: Sequence[str]) -> dict[str, RunSpec]:
    """The runs that can be in these rooms (``room/configuration``), each limited to those where it can.

    A first stage takes place in those of its rooms that are there.
    """
    runs = {name: _in_stages_there(run, rooms) for name, run in runs.items()}
    where = {name: [room for room in rooms if _applies(run, room)] for name, run in runs.items()}
    left: dict[str, list[str]] = {}
    while left != where:  # what needs a run that is left out is left out too
        left = where
        where = {name: [r for r in places if _has_sources(runs[name], r, left)] for name, places in left.items()}
    everywhere = list(rooms)
    return {
        name: dataclasses.replace(runs[name], only=() if places == everywhere else tuple(places))
        for name, places in where.items()
        if places
    }


def _in_stages_there(run: RunSpec, rooms: Sequence[str]) -> RunSpec:
    there = tuple(name for name in run.first_stage if name in rooms)
    return dataclasses.replace(run, first_stage=there) if there else run


def _applies(run: RunSpec, name: str) -> bool:
    """Whether all that a run names of rooms is there for one."""
    room, _, configuration = name.partition("/")
    sources = [source.configuration for source in (run.start, run.on_top_of, run.use) if source is not None]
    if any(isinstance(named, Mapping) and room not in named for named in (*sources, run.borrow)):
        return False
    there = {name, *run.first_stage} | ({run.lender(room, configuration)} if run.borrow else set())
    return name in (run.only or (name,)) and there <= run.assumptions.keys()


def _has_sources(run: RunSpec, name: str, where: Mapping[str, Sequence[str]]) -> bool:
    room, _, configuration = name.partition("/")
    return all(f"{room}/{other}" in where.get(source, ()) for source, other in run.sources(room, configuration))
