"""Reading a study from a YAML file, with errors that name what it cannot mean."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from haa_peft.adapters.methods import MethodSettings
from haa_peft.errors import InputError
from haa_peft.evaluation.evaluate import check_split
from haa_peft.rooms.load import load_room
from haa_peft.rooms.room import NAME_PART
from haa_peft.satellites import satellite
from haa_peft.studies.assumptions import Assumption, seen_in
from haa_peft.studies.elsewhere import name_of_rooms, runs_elsewhere, with_geometry_for
from haa_peft.studies.plan import RunSpec, Source, Study, cannot_draw, channels_of, draws_of, jobs_of, waves
from haa_peft.studies.results import BASELINES
from haa_peft.training.settings import TrainingSettings

METHOD_FIELDS = tuple(f.name for f in dataclasses.fields(MethodSettings))
TRAINING_FIELDS = tuple(f.name for f in dataclasses.fields(TrainingSettings) if f.name not in ("k", "seed"))
TEXTS = ("method", "freeze", "channels", "validation", "label", "borrow", "geometry")
LIMITS = ("only", "shots", "seeds")
ADAPTER_FIELDS = ("start", "on_top_of", "use", "blend", "borrow")
ROOM_FIELDS = ("geometry", "position_error")
TRAINED = ("start", "on_top_of", "use", "blend", "first_stage", "transfer")
"""What a run that adapts nothing cannot have."""


def load_study(path: Path, own_rooms: Sequence[str] = ()) -> Study:
    """Read a study; raises ``InputError`` for anything that it cannot mean.

    In ``own_rooms``, if given, it draws wherever they may if it draws anywhere, leaves out the runs that cannot be
    there, and is named after them.
    """
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"--study {path}: no such file; studies are in recipes/studies") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--study {path}: cannot be read as YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(given, dict):
        raise InputError(f"--study {path}: must hold a mapping with rooms, runs and seeds")
    defaults: dict[str, Any] = {
        "title": path.stem,
        "question": "",
        "seeds": [0, 1, 2],
        "shots": [12],
        "k": TrainingSettings().k,
        "draws": False,
        "split": "test",
        "backbone": "small",
        "compare_with": None,
        "show": [],
        "pairs": [],
        "defaults": {},
    }
    unknown = sorted(set(given) - set(defaults) - {"rooms", "runs"})
    if unknown:
        raise InputError(f"{path}: unknown entry {unknown[0]!r}; known are rooms, runs, {', '.join(defaults)}")
    for needed in ("rooms", "runs"):
        if not given.get(needed):
            raise InputError(f"{path}: has no {needed}")
    given = defaults | given
    if own_rooms:
        given |= {"rooms": list(own_rooms), "draws": bool(given["draws"])}
    if isinstance(given["draws"], list):
        given["draws"] = tuple(given["draws"])
    _check_entries(path, given)
    if given["split"] not in ("test", "valid"):
        raise InputError(f"{path}: split is {given['split']!r} but must be test or valid")
    rooms: dict[str, str] = {}
    drawn: dict[str, dict[int, int]] = {}
    notes: list[str] = []
    for folder in given["rooms"]:
        room = load_room(folder)
        check_split(room, given["split"])
        if max(given["shots"]) > len(room.splits["train"]):
            raise InputError(
                f"{path}: shots are {max(given['shots'])} but {room.name} has {len(room.splits['train'])} measurements"
            )
        name = room.name
        if name in rooms:
            raise InputError(f"{path}: {folder} is a second {name}; a study takes each configuration once")
        rooms[name] = str(folder)
        if given["draws"] is True or (given["draws"] and room.room in given["draws"]):
            reason = cannot_draw(room)
            if reason and given["draws"] is not True:
                raise InputError(f"{path}: draws names {room.room}, but {name} cannot draw: {reason}; leave it out")
            if reason:
                notes.append(f"{name} keeps its training positions for all seeds: {reason}")
            else:
                drawn[name] = draws_of(room, given["seeds"])
    for name, spec in given["runs"].items():
        if not isinstance(spec or {}, dict):
            raise InputError(
                f"{path}: run {name!r} is {spec!r:.40} but must be a mapping of options, such as {{rank: 2}}"
            )
    every = {name: {**given["defaults"], **(spec or {})} for name, spec in given["runs"].items()}
    runs = {
        name: _read_run(path, name, options, with_geometry_for(options, list(rooms)) if own_rooms else list(rooms))
        for name, options in every.items()
    }
    if own_rooms:
        runs, said = _elsewhere(path, given, runs, list(rooms))
        notes += said
    given["compare_with"] = given["compare_with"] or next(iter(runs))
    name = f"{name_of_rooms(list(rooms))}-{path.stem}" if own_rooms else path.stem
    lists: dict[str, Any] = {key: tuple(given[key]) for key in ("seeds", "shots", "show")}
    plain = {key: given[key] for key in ("title", "question", "k", "draws", "split", "backbone", "compare_with")}
    study = Study(
        name, rooms=rooms, runs=runs, pairs=tuple((a, b) for a, b in given["pairs"]), drawn=drawn, notes=tuple(notes),
        **lists, **plain,
    )  # fmt: skip
    named = set() if isinstance(given["draws"], bool) else set(given["draws"])
    if named - {name.split("/")[0] for name in rooms}:
        raise InputError(f"{path}: draws is {given['draws']!r} but must be true, false or a list of its rooms' names")
    named = {name for run in runs.values() for name in (*run.first_stage, *run.only)}
    if named - set(rooms):
        raise InputError(f"{path}: a run names {min(named - set(rooms))}, which is none of {', '.join(rooms)}")
    named |= {run.lender(*name.split("/")) for run in runs.values() for name in run.only or rooms} - {""}
    if named - set(rooms):
        raise InputError(f"{path}: a run names {min(named - set(rooms))}, which is none of {', '.join(rooms)}")
    for key in ("shots", "seeds"):
        all_of_it = getattr(study, key)
        odd = {value for run in runs.values() for value in getattr(run, key)} - set(all_of_it)
        if odd:
            raise InputError(f"{path}: a run has {key} {min(odd)}, which are none of the study's {list(all_of_it)}")
    for run in runs.values():
        _check_assumptions(path, study, run)
    waves(study)  # finds what is missing
    for name, row, channels in {(job.room, job.run, channels_of(study, job)) for job in jobs_of(study)}:
        if channels:  # and materials that a room does not have
            study.room(name, study.seeds[0], max(study.shots), row).with_channels(channels)
    return study


def _elsewhere(
    path: Path, given: dict[str, Any], every: dict[str, RunSpec], rooms: list[str]
) -> tuple[dict[str, RunSpec], list[str]]:
    """The runs that can be in other rooms than the study's, and what is to be said; makes ``given`` name no others."""
    runs, where = runs_elsewhere(every, rooms), ", ".join(rooms)
    if not runs:
        raise InputError(f"{path}: none of its runs can be in {where}; they all name other rooms or configurations")
    notes = [f"{name} is run in {', '.join(run.only)} alone" for name, run in runs.items() if run.only]
    left_out = [name for name in every if name not in runs]
    if left_out:
        notes.append(f"left out, since they name rooms or configurations beside {where}: {', '.join(left_out)}")
    known = {*runs, *BASELINES}
    given["title"] = f"Runs of {path.name} in {where}"
    given["compare_with"] = given["compare_with"] if given["compare_with"] in known else None
    given["show"] = [name for name in given["show"] if name in known]
    given["pairs"] = [pair for pair in given["pairs"] if known.issuperset(pair)]
    return runs, notes


def _check_assumptions(path: Path, study: Study, run: RunSpec) -> None:
    """Raise ``InputError`` for what a run cannot take the rooms to be; what follows from measurements is made later."""
    try:
        if run.position_error and study.split != "test":
            raise InputError("position_error displaces what is tested at; give split: test")
        for name, assumption in run.assumptions.items():
            if assumption.other is not None and seen_in(assumption.other)[0] == name:
                raise InputError(f"geometry of {assumption.other} is {name}'s own but must be another room's")
        for name in run.only or study.rooms:
            if not run.assumptions[name].follows:
                study.room(name, study.seeds[0], study.shots[0], run.name)
    except InputError as error:
        raise InputError(f"{path}: run {run.name!r}: {error}") from None


def _check_entries(path: Path, given: Mapping[str, Any]) -> None:
    """Raise ``InputError`` for entries of the wrong kind."""
    for key in ("rooms", "seeds", "shots", "show", "pairs"):
        if not isinstance(given[key], list):
            raise InputError(f"{path}: {key} is {given[key]!r} but must be a list, such as [{given[key]}]")
    for key in ("seeds", "shots"):
        if not given[key]:
            raise InputError(f"{path}: {key} is empty but must hold at least one number")
        for value in given[key]:
            if type(value) is not int or not 0 <= value < 2**32 or (key == "shots" and value < 1):
                raise InputError(f"{path}: {key} holds {value!r} but must hold whole numbers")
    if not isinstance(given["draws"], bool | tuple):
        raise InputError(f"{path}: draws is {given['draws']!r} but must be true, false or a list of its rooms' names")
    if type(given["k"]) is not int or given["k"] < 1:
        raise InputError(f"{path}: k is {given['k']!r} but must be a whole number of at least 1")
    for key in ("runs", "defaults"):
        if not isinstance(given[key], dict):
            raise InputError(f"{path}: {key} is {given[key]!r:.40} but must be a mapping of names to options")
    odd = next((name for name in given["runs"] if not isinstance(name, str)), "")
    if odd != "":
        raise InputError(f"{path}: run {odd!r} is no text to YAML; put its name in quotes")
    rows = {*given["runs"], *BASELINES}
    for pair in given["pairs"]:
        if not isinstance(pair, list) or len(pair) != 2 or not all(name in rows for name in pair):
            raise InputError(f"{path}: pairs holds {pair!r} but must hold pairs of runs, such as [lora, backbone]")
    for key, names in (("compare_with", [given["compare_with"] or "backbone"]), ("show", given["show"])):
        odd = next((name for name in names if name not in rows), None)
        if odd is not None:
            raise InputError(f"{path}: {key} names {odd!r} but runs are {', '.join(sorted(rows))}")


def _read_run(path: Path, name: str, given: Mapping[str, Any], rooms: Sequence[str]) -> RunSpec:
    where = f"{path}: run {name!r}"
    if not re.fullmatch(NAME_PART, str(name)) or name in BASELINES:
        raise InputError(f"{where}: must be letters, digits, - or _, and none of {', '.join(BASELINES)}")
    known = {*METHOD_FIELDS, *TRAINING_FIELDS, *ADAPTER_FIELDS, *ROOM_FIELDS, *LIMITS}
    known |= {"label", "first_stage", "transfer", "adapt"}
    unknown = sorted(set(given) - known)
    if unknown:
        raise InputError(f"{where}: unknown entry {unknown[0]!r}; known are {', '.join(sorted(known))}")
    try:
        for key in ("first_stage", "augment", *LIMITS):
            if not isinstance(given.get(key, []), list):
                raise InputError(f"{key} is {given[key]!r:.40} but must be a list, such as [{given[key]!s:.40}]")
        given = {key: _number(key, value) for key, value in given.items()}
        method = MethodSettings(**{key: given[key] for key in METHOD_FIELDS if key in given})
        training = {key: given[key] for key in TRAINING_FIELDS if key in given}
        if "augment" in training:
            training["augment"] = satellite("augmentation", "augment").augmentation(training["augment"])
        TrainingSettings(**training)
        sources = {key: Source(**given[key]) for key in ("start", "on_top_of", "use") if key in given}
        blend = {str(key): float(value) for key, value in given.get("blend", {}).items()}
        if not isinstance(given.get("borrow", ""), str | dict):
            raise InputError(f"borrow is {given['borrow']!r} but must be a configuration, or rooms with one each")
        if blend and "use" not in sources:
            raise InputError("blend needs use: {run: ...}, whose adapters are blended")
        if not isinstance(given.get("adapt", True), bool):
            raise InputError(f"adapt is {given['adapt']!r} but must be true or false")
        needless = [key for key in TRAINED if given.get(key)]
        if not given.get("adapt", True) and needless:
            raise InputError(f"adapt: false tests the backbone as it is, so {needless[0]} is of no use")
        off = given.get("position_error", 0.0)
        assumptions = {room: Assumption.read(given.get("geometry"), off, room.split("/")[0]) for room in rooms}
    except (InputError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where}: {error}") from None
    return RunSpec(
        name,
        given.get("label", name),
        method,
        training,
        blend=blend,
        borrow=given.get("borrow", ""),
        first_stage=tuple(given.get("first_stage", ())),
        only=tuple(given.get("only", ())),
        shots=tuple(given.get("shots", ())),
        seeds=tuple(given.get("seeds", ())),
        transfer=bool(given.get("transfer", False)),
        geometry=given.get("geometry"),
        position_error=float(off),
        assumptions=assumptions,
        adapt=given.get("adapt", True),
        **sources,
    )


def _number(key: str, value: Any) -> Any:
    """YAML takes 1e-3, without a point, for text."""
    if not isinstance(value, str) or key in TEXTS:
        return value
    try:
        number = float(value)
    except ValueError:
        raise InputError(f"{key} is {value!r} but must be a number") from None
    return int(number) if number.is_integer() else number
