"""What a study is made of: rooms x runs x seeds x measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from haa_peft.adapters.settings import MethodSettings
from haa_peft.augmentation.settings import LIMITS
from haa_peft.errors import InputError
from haa_peft.geometry.channels import CHANNELS, parse_channels
from haa_peft.rooms.load import load_room
from haa_peft.rooms.room import Room
from haa_peft.rooms.splits import NAMES, SHOTS, default_splits
from haa_peft.studies.assumptions import Assumption
from haa_peft.training.settings import TrainingSettings


@dataclass(frozen=True)
class Source:
    """Another run's adapter, of the same room and seed and of all measurements.

    ``configuration`` is whose: its name, or a mapping of rooms to names; the same configuration if empty.
    """

    run: str
    configuration: str | Mapping[str, str] = ""

    def of(self, room: str, configuration: str) -> tuple[str, str]:
        """Run and configuration, for one that runs in ``room/configuration``."""
        given = self.configuration if isinstance(self.configuration, str) else self.configuration.get(room, "")
        return self.run, given or configuration


@dataclass(frozen=True)
class RunSpec:
    """One row of a study: entries of its file, with ``name``, settings (seed and K come with the job) and assumptions.

    ``assumptions``: ``geometry`` and ``position_error`` for each of the study's ``room/configuration``.
    """

    name: str
    method: MethodSettings
    training: dict[str, Any] = field(default_factory=dict)
    assumptions: Mapping[str, Assumption] = field(default_factory=dict)
    label: Annotated[str, Field(description="for people")] = ""
    start: Annotated[Source | None, Field(
        description="the adapter that training goes on from: {run: ..., configuration: ...}")] = None  # fmt: skip
    on_top_of: Annotated[Source | None, Field(description="the one that stays below")] = None
    use: Annotated[Source | None, Field(description="the one that is tested as it is")] = None
    blend: Annotated[Mapping[str, float], Field(
        description="shares of other configurations' adapters of the run that use names, by "
        "configuration")] = field(default_factory=dict)  # fmt: skip
    borrow: Annotated[str | Mapping[str, str], Field(
        description="configuration whose measurements are converted and added to the room's own, if that is better: "
        "its name, or a mapping of rooms to names")] = ""  # fmt: skip
    first_stage: Annotated[tuple[str, ...], Field(
        description="configurations that it is adapted to together, before the one itself")] = ()  # fmt: skip
    only: Annotated[tuple[str, ...], Field(
        description="configurations (room/configuration) that it is run in; all if empty")] = ()  # fmt: skip
    shots: Annotated[tuple[int, ...], Field(
        description="numbers of measurements that it is run with; the study's if empty")] = ()  # fmt: skip
    seeds: Annotated[tuple[int, ...], Field(description="seeds that it is run with; the study's if empty")] = ()
    transfer: Annotated[bool, Field(
        description="test the adapter in the room's other configurations of the study too")] = False  # fmt: skip
    geometry: Annotated[object, Field(
        description="taken for the room's own: what --geometry takes, or {of: ROOM}")] = None  # fmt: skip
    position_error: Annotated[float, Field(ge=0, le=LIMITS["positions"],
        description="metres, root mean square, by which positions are taken to be off")] = 0.0  # fmt: skip
    adapt: Annotated[bool, Field(description="if not, the backbone is tested as it is")] = True

    def sources(self, room: str, configuration: str) -> list[tuple[str, str]]:
        """Runs and configurations whose adapters must be there before it can run in ``room/configuration``."""
        if self.blend and self.use is not None:
            return [(self.use.run, other) for other in self.blend]
        found = [source for source in (self.start, self.on_top_of, self.use) if source is not None]
        return [source.of(room, configuration) for source in found]

    def lender(self, room: str, configuration: str) -> str:
        """``room/configuration`` that it borrows from in ``room/configuration``; empty if it does not."""
        other = self.borrow if isinstance(self.borrow, str) else self.borrow.get(room, "")
        return f"{room}/{other}" if other not in ("", configuration) else ""

    def assumed(self) -> dict[str, Any]:
        """What it takes for true of rooms, as the study's file has it, where that is not what they are."""
        found = {"geometry": self.geometry, "position_error": self.position_error}
        return {key: value for key, value in found.items() if value}


@dataclass(frozen=True, eq=False)
class Study:
    """A study: entries of its file, with ``name``, folders of ``rooms`` by name, ``runs`` and what follows of them.

    ``drawn``: for each ``room/configuration`` that draws and each seed, the first seed with the same training
    positions. ``notes``: lines to be said of it: rooms that cannot draw, rows that cannot be run in other rooms.
    """

    name: str
    rooms: dict[str, str]
    runs: dict[str, RunSpec]
    drawn: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    title: Annotated[str, Field(description="of the report")] = ""
    question: Annotated[str, Field(description="that the report answers")] = ""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(
        description="of all random numbers")] = (0, 1, 2)  # fmt: skip
    shots: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(description="numbers of measurements")] = (12,)
    k: Annotated[int, Field(ge=1, description="references for each target")] = TrainingSettings.k
    draws: Annotated[bool | tuple[str, ...], Field(
        description="every seed draws its own training positions among those that do not test: true, in all rooms that "
        "may, or a list of rooms' names")] = False  # fmt: skip
    training_positions: Annotated[int, Field(
        ge=0, description="so many positions train in every room, farthest points, and the rest validate and test in "
        "turn; 0 for the rooms' own splits")] = 0  # fmt: skip
    split: Annotated[Literal["test", "valid"], Field(description="where it tests")] = "test"
    backbone: Annotated[str, Field(description="bundled name or checkpoint file")] = "small"
    compare_with: Annotated[str, Field(
        description="the run that the report holds against all others; the first unless given")] = ""  # fmt: skip
    show: Annotated[tuple[str, ...], Field(description="runs in the report's figures; all if empty")] = ()
    pairs: Annotated[tuple[tuple[str, str], ...], Field(
        description="runs that the report holds against each other too")] = ()  # fmt: skip

    def room(self, name: str, seed: int, shots: int, run: str = "") -> Room:
        """A room with the splits of a seed and its number of measurements, as a run takes it to be.

        Parameters
        ----------
        name, seed, shots : of the room, of its splits, and its measurements.
        run : that takes it to be something; without one it is what it is.
        """
        return assumed_room(self, name, seed, shots, self.assumption(name, run))

    def assumption(self, name: str, run: str) -> Assumption:
        """What a run takes a room to be; without one the room is what it is."""
        return self.runs[run].assumptions[name] if run else Assumption()

    def settings(self) -> dict[str, Any]:
        """What every run of the study has in common and results depend on."""
        found = {"k": self.k, "draws": self.draws, "split": self.split}
        return found | ({"training_positions": self.training_positions} if self.training_positions else {})


def opened(folder: str, training_positions: int) -> Room:
    """A room with its own splits, or with so many training positions (:func:`default_splits`)."""
    room = load_room(folder).alone("a study")
    if not training_positions:
        return room
    return room.with_splits(default_splits(room.positions, training_positions))


def cannot_draw(room: Room) -> str:
    """Why no other training positions can be drawn in a room; empty if they can."""
    usual = default_splits(room.positions)
    if not all(np.array_equal(np.sort(room.splits[name]), np.sort(usual[name])) for name in NAMES):
        return "it has splits of its own"
    others = len(room.splits["train"]) + len(room.splits["valid"])
    return "" if others > SHOTS else f"only {others} of its positions do not test, and a draw takes {SHOTS}"


def draws_of(room: Room, seeds: Sequence[int]) -> dict[int, int]:
    """For each seed the first one that draws the same training positions."""
    first: dict[bytes, int] = {}
    return {seed: first.setdefault(np.sort(redraw(room.splits, seed)["train"]).tobytes(), seed) for seed in seeds}


@lru_cache(maxsize=8)
def _room(study: Study, name: str, seed: int, shots: int) -> Room:
    room = opened(study.rooms[name], study.training_positions)
    if name in study.drawn:
        room = room.with_splits(redraw(room.splits, seed))
    return room.with_shots(shots)


@lru_cache(maxsize=16)
def assumed_room(study: Study, name: str, seed: int, shots: int, assumption: Assumption) -> Room:
    """The room that an assumption makes of another; they share their RIRs.

    Parameters
    ----------
    study : that has the room.
    name, seed, shots : of the room, of its splits, and its measurements.
    assumption : what the room is taken to be.
    """
    room = _room(study, name, seed, shots)
    return room if assumption == Assumption() else assumption.applied(room, seed)


@dataclass(frozen=True)
class Job:
    """One run in one configuration with one seed and number of measurements; ``run`` is empty for the baselines."""

    run: str
    room: str
    shots: int
    seed: int

    def __str__(self) -> str:
        return f"{self.run or 'baselines'} in {self.room}, {self.shots} measurements, seed {self.seed}"

    def stem(self) -> str:
        """Name of its files, without ending."""
        return f"{self.room.replace('/', '-')}/{self.run or 'baselines'}-shots{self.shots}-seed{self.seed}"


def stands_for(study: Study, job: Job) -> Job:
    """The job that gives the same as another: what is not trained depends on the seed by its draws alone."""
    spec = study.runs.get(job.run)
    if spec is not None and (spec.adapt or spec.position_error):
        return job
    read = {job.room, spec.lender(*job.room.split("/")) if spec else ""} & study.drawn.keys()
    same = [
        seed
        for seed in (spec and spec.seeds) or study.seeds
        if all(study.drawn[name][seed] == study.drawn[name][job.seed] for name in read)
    ]
    return replace(job, seed=same[0]) if same else job


def jobs_of(study: Study) -> list[Job]:
    """Every job of a study, what several seeds have in common once."""
    found = []
    for seed in study.seeds:
        for name in study.rooms:
            for shots in study.shots:
                found.append(Job("", name, shots, seed))
                found += [
                    Job(run.name, name, shots, seed)
                    for run in study.runs.values()
                    if name in (run.only or study.rooms)
                    and shots in (run.shots or study.shots)
                    and seed in (run.seeds or study.seeds)
                ]
    return list(dict.fromkeys(stands_for(study, job) for job in found))


def sources_of(study: Study, job: Job) -> list[Job]:
    """Jobs whose adapters a job needs: those with all measurements."""
    if not job.run:
        return []
    room, _, configuration = job.room.partition("/")
    needed = study.runs[job.run].sources(room, configuration)
    return [stands_for(study, Job(run, f"{room}/{other}", max(study.shots), job.seed)) for run, other in needed]


def channels_of(study: Study, job: Job) -> tuple[str, ...]:
    """What a job's adapter and those that it needs read of surfaces beside their coordinates."""
    read = set(parse_channels(study.runs[job.run].method.channels)) if job.run else set()
    read.update(*(channels_of(study, source) for source in sources_of(study, job)))
    return tuple(name for name in CHANNELS if name in read)


def waves(study: Study) -> list[list[Job]]:
    """The jobs in groups, each of which only needs adapters of those before it.

    Raises
    ------
    InputError
        When a job needs an adapter that no job of the study makes.
    """
    jobs = jobs_of(study)
    left: Sequence[Job] = jobs
    done: set[Job] = set()
    found: list[list[Job]] = []
    while left:
        ready = [job for job in left if done.issuperset(sources_of(study, job))]
        if not ready:
            missing = next(source for job in left for source in sources_of(study, job) if source not in done)
            raise InputError(f"{study.name}: {left[0]} needs {missing}, which the study does not have")
        done |= set(ready)
        found.append(ready)
        left = [job for job in left if job not in done]
    return found


def redraw(splits: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Other splits, indices (M,), with the same test positions: 12 others at random train, the rest validate."""
    others = np.sort(np.concatenate([splits["train"], splits["valid"]]))
    order = np.random.default_rng(seed).permutation(others)
    return {"train": order[:SHOTS], "valid": order[SHOTS:], "test": splits["test"]}
