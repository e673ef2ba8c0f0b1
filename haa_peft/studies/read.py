"""Reading a study from a YAML file, with errors that name what it cannot mean.

What entries there are and what they may be is said by the fields of :class:`~haa_peft.studies.plan.Study` and
:class:`~haa_peft.studies.plan.RunSpec`, and of the settings of method and training.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from haa_peft.adapters.settings import MethodSettings
from haa_peft.errors import InputError
from haa_peft.evaluation.evaluate import check_split
from haa_peft.fields import check_values, fields, item, kind, new_names
from haa_peft.rooms.room import NAME_PART
from haa_peft.satellites import satellite
from haa_peft.studies.assumptions import Assumption, seen_in
from haa_peft.studies.elsewhere import name_of_rooms, runs_elsewhere, with_geometry_for
from haa_peft.studies.plan import RunSpec, Source, Study, cannot_draw, channels_of, draws_of, jobs_of, opened, waves
from haa_peft.studies.results import BASELINES
from haa_peft.training.settings import TrainingSettings

METHOD = tuple(fields(MethodSettings))
TRAINING = (*(name for name in fields(TrainingSettings) if name not in ("k", "seed")), "augment")
SOURCES = ("start", "on_top_of", "use")
TRAINED = (*SOURCES, "blend", "first_stage", "transfer")
"""What a run that adapts nothing cannot have."""


def load_study(path: Path, own_rooms: Sequence[str] = (), backbone: str = "") -> Study:
    """Read a study.

    In ``own_rooms``, if given, it draws wherever they may if it draws anywhere, leaves out the runs that cannot be
    there, and is named after them; so it is after another ``backbone``.

    Raises
    ------
    InputError
        For anything that the file cannot mean.
    """
    given = _entries(path)
    if own_rooms:
        given |= {"rooms": list(own_rooms), "draws": bool(given.get("draws"))}
    if backbone:
        given["backbone"] = backbone
    with _said_of(path):
        facts = read_fields(Study, given)
        _check_entries(given, facts)
    rooms, drawn, notes = _open_rooms(path, given["rooms"], facts)
    names = list(rooms)
    every = {name: new_names({**given["defaults"], **(spec or {})}) for name, spec in given["runs"].items()}
    runs = {
        name: _read_run(
            f"{path}: run {name!r}", name, options, with_geometry_for(options, names) if own_rooms else names
        )
        for name, options in every.items()
    }
    name, facts["title"] = path.stem, facts["title"] or path.stem
    if own_rooms:
        runs, said = _elsewhere(path, facts, runs, names)
        name, notes = f"{name_of_rooms(names)}-{path.stem}", notes + said
    name += f"-{Path(backbone).stem}" if backbone else ""
    facts["compare_with"] = facts["compare_with"] or next(iter(runs))
    study = Study(name, rooms, runs, drawn, tuple(notes), **facts)
    with _said_of(path):
        draws = facts["draws"]
        if not isinstance(draws, bool) and not {name.split("/")[0] for name in rooms}.issuperset(draws):
            raise InputError(f"draws is {list(draws)} but must be true, false or a list of its rooms' names")
        _check_names(study)
    for run in runs.values():
        with _said_of(f"{path}: run {run.name!r}"):
            _check_assumptions(study, run)
    waves(study)  # finds what is missing
    for name, row, channels in {(job.room, job.run, channels_of(study, job)) for job in jobs_of(study)}:
        if channels:  # and materials that a room does not have
            study.room(name, study.seeds[0], max(study.shots), row).with_channels(channels)
    return study


@contextmanager
def _said_of(where: object) -> Iterator[None]:
    """Begin errors with where they are."""
    try:
        yield
    except (InputError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where}: {error}") from None


def _entries(path: Path) -> dict[str, Any]:
    """The mapping that a file holds, with the defaults of entries that it leaves out."""
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"--study {path}: no such file; studies are in recipes/studies") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--study {path}: cannot be read as YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(given, dict):
        raise InputError(f"--study {path}: must hold a mapping with rooms, runs and seeds")
    entries = fields(Study)
    with _said_of(path):
        _check_known(given, ["rooms", "runs", "defaults", *entries])
        for needed in ("rooms", "runs"):
            if not given.get(needed):
                raise InputError(f"has no {needed}")
    defaults = {name: list(f.default) if isinstance(f.default, tuple) else f.default for name, f in entries.items()}
    return {"defaults": {}, **defaults, **given}


def _check_known(given: Mapping[str, Any], known: Iterable[str]) -> None:
    unknown = [key for key in given if key not in known]
    if unknown:
        raise InputError(f"unknown entry {unknown[0]!r}; known are {', '.join(known)}")


def _check_entries(given: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Raise ``InputError`` for what the kinds of single entries do not say."""
    if not isinstance(given["rooms"], list):
        raise InputError(f"rooms is {given['rooms']!r} but must be a list, such as [{given['rooms']}]")
    for key in ("seeds", "shots"):
        if not facts[key]:
            raise InputError(f"{key} is empty but must hold at least one number")
    for key in ("runs", "defaults"):
        if not isinstance(given[key], dict):
            raise InputError(f"{key} is {given[key]!r:.40} but must be a mapping of names to options")
    for name, spec in given["runs"].items():
        if not isinstance(name, str):
            raise InputError(f"run {name!r} is no text to YAML; put its name in quotes")
        if not isinstance(spec or {}, dict):
            raise InputError(f"run {name!r} is {spec!r:.40} but must be a mapping of options, such as {{rank: 2}}")
    rows = {*given["runs"], *BASELINES}
    for pair in facts["pairs"]:
        if not rows.issuperset(pair):
            raise InputError(f"pairs holds {list(pair)} but must hold pairs of runs, such as [lora, backbone]")
    for key, names in (("compare_with", [facts["compare_with"] or "backbone"]), ("show", facts["show"])):
        for name in [name for name in names if name not in rows]:
            raise InputError(f"{key} names {name!r} but runs are {', '.join(sorted(rows))}")


def _open_rooms(
    path: Path, folders: Sequence[Any], facts: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, dict[int, int]], list[str]]:
    """Folders by ``room/configuration``, ``drawn`` of the study, and what is to be said of rooms that cannot draw."""
    rooms: dict[str, str] = {}
    drawn: dict[str, dict[int, int]] = {}
    notes: list[str] = []
    draws, most = facts["draws"], max(facts["shots"])
    for folder in folders:
        room = opened(folder, facts["training_positions"])
        name = room.name
        check_split(room, facts["split"])
        if most > len(room.splits["train"]):
            raise InputError(f"{path}: shots are {most} but {name} has {len(room.splits['train'])} measurements")
        if name in rooms:
            raise InputError(f"{path}: {folder} is a second {name}; a study takes each configuration once")
        rooms[name] = str(folder)
        if draws is True or (draws and room.room in draws):
            reason = cannot_draw(room)
            if not reason:
                drawn[name] = draws_of(room, facts["seeds"])
            elif draws is True:
                notes.append(f"{name} keeps its training positions for all seeds: {reason}")
            else:
                raise InputError(f"{path}: draws names {room.room}, but {name} cannot draw: {reason}; leave it out")
    return rooms, drawn, notes


def _read_run(where: str, name: str, given: Mapping[str, Any], rooms: Sequence[str]) -> RunSpec:
    with _said_of(where):
        if not re.fullmatch(NAME_PART, name) or name in BASELINES:
            raise InputError(f"must be letters, digits, - or _, and none of {', '.join(BASELINES)}")
        _check_known(given, sorted({*METHOD, *TRAINING, *fields(RunSpec)}))
        method = MethodSettings(**read_fields(MethodSettings, given))
        training = {key: value for key, value in read_fields(TrainingSettings, given).items() if key in TRAINING}
        if not isinstance(given.get("augment", []), list):
            raise InputError(f"augment is {given['augment']!r} but must be a list, such as [{given['augment']}]")
        if "augment" in given:
            training["augment"] = satellite("augmentation", "augment").augmentation(given["augment"])
        TrainingSettings(**training)
        sources = {key: Source(**given[key]) for key in SOURCES if key in given}
        blend = {str(key): float(value) for key, value in given.get("blend", {}).items()}
        facts = read_fields(RunSpec, {"label": name, **given, **sources, "blend": blend})
        if facts["blend"] and "use" not in given:
            raise InputError("blend needs use: {run: ...}, whose adapters are blended")
        if clash := [key for key in SOURCES if given.get("first_stage") and key in given]:
            raise InputError(f"first_stage and {clash[0]} are two beginnings; give one of them")
        needless = [key for key in TRAINED if given.get(key)]
        if not facts.get("adapt", True) and needless:
            raise InputError(f"adapt: false tests the backbone as it is, so {needless[0]} is of no use")
        geometry, off = given.get("geometry"), float(facts.get("position_error", 0))
        assumptions = {room: Assumption.read(geometry, off, room.split("/")[0]) for room in rooms}
        return RunSpec(name, method, training, assumptions, **{**facts, "position_error": off})


def _elsewhere(
    path: Path, facts: dict[str, Any], every: dict[str, RunSpec], rooms: list[str]
) -> tuple[dict[str, RunSpec], list[str]]:
    """The runs that can be in other rooms than the study's, and what is to be said; makes ``facts`` name no others."""
    runs, where = runs_elsewhere(every, rooms), ", ".join(rooms)
    if not runs:
        raise InputError(f"{path}: none of its runs can be in {where}; they all name other rooms or configurations")
    notes = [f"{name} is run in {', '.join(run.only)} alone" for name, run in runs.items() if run.only]
    for name, run in runs.items():
        if missing := [other for other in every[name].first_stage if other not in run.first_stage]:
            notes.append(f"{name}'s first stage is without {', '.join(missing)}")
    left_out = [name for name in every if name not in runs]
    if left_out:
        notes.append(f"left out, since they name rooms or configurations beside {where}: {', '.join(left_out)}")
    known = {*runs, *BASELINES}
    facts["title"] = f"Runs of {path.name} in {where}"
    facts["compare_with"] = facts["compare_with"] if facts["compare_with"] in known else ""
    facts["show"] = tuple(name for name in facts["show"] if name in known)
    facts["pairs"] = tuple(pair for pair in facts["pairs"] if known.issuperset(pair))
    return runs, notes


def _check_names(study: Study) -> None:
    """Raise ``InputError`` for rooms, shots or seeds of runs that are none of the study's."""
    rooms = set(study.rooms)
    for run in study.runs.values():
        named = {*run.first_stage, *run.only}
        if named <= rooms:
            named |= {run.lender(*name.split("/")) for name in run.only or rooms} - {""}
        if named - rooms:
            raise InputError(f"a run names {min(named - rooms)}, which is none of {', '.join(study.rooms)}")
        for key in ("shots", "seeds"):
            odd = set(getattr(run, key)) - set(getattr(study, key))
            if odd:
                raise InputError(
                    f"a run has {key} {min(odd)}, which are none of the study's {list(getattr(study, key))}"
                )


def _check_assumptions(study: Study, run: RunSpec) -> None:
    """Raise ``InputError`` for what a run cannot take the rooms to be; what follows from measurements is made later."""
    if run.position_error and study.split != "test":
        raise InputError("position_error displaces what is tested at; give split: test")
    for name, assumption in run.assumptions.items():
        if assumption.other is not None and seen_in(assumption.other)[0] == name:
            raise InputError(f"geometry of {assumption.other} is {name}'s own but must be another room's")
    for name in run.only or study.rooms:
        if not run.assumptions[name].follows:
            study.room(name, study.seeds[0], study.shots[0], run.name)


def read_fields(settings: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those values of a YAML file that are fields of a dataclass: as it keeps them, lists as tuples.

    Raises
    ------
    InputError
        When a field may not have its value.
    """
    found = {name: _of_yaml(field, given[name]) for name, field in fields(settings).items() if name in given}
    check_values(settings, found)
    return found


def _of_yaml(field: FieldInfo, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_of_yaml(item(field), one) for one in value)
    if isinstance(value, str) and kind(field) in (int, float):
        with suppress(ValueError):
            number = float(value)  # YAML takes 1e-3, without a point, for text
            return int(number) if number.is_integer() else number
    return value
