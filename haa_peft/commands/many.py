"""Adapting to many rooms: those that are left to do, a line for each, and a table with verdicts."""

from __future__ import annotations

import argparse
import glob
import json
import platform
import sys
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from haa_peft.commands.ending import quiet
from haa_peft.commands.job import accelerator_of, backbone_of, options_of, rooms_of, settings_of
from haa_peft.commands.outputs import check_report, check_writable, write_report
from haa_peft.commands.tables import COLUMNS, figure, markdown
from haa_peft.commands.workers import check_workers, work_on
from haa_peft.environment import EnvironmentProblem
from haa_peft.errors import InputError, one_line
from haa_peft.evaluation.verdict import BASELINES
from haa_peft.main_job import adapt_room, with_k
from haa_peft.model.checkpoint import fingerprint
from haa_peft.model.xrir import XRIR
from haa_peft.rooms.haa import haa_facts
from haa_peft.rooms.recordings import Recordings
from haa_peft.rooms.room import Room
from haa_peft.store.card import parse_card
from haa_peft.store.folder import read_files, read_pack
from haa_peft.store.names import AdapterName, store_folder
from haa_peft.store.parts import CARD

STORED, THERE, FAILED = "stored", "already there", "FAILED"
SHOWN = COLUMNS[:3]
KIND = "adapt-many"
"""Of the report."""


class Done(NamedTuple):
    """What became of a room: one of the words above, why it failed, its adapter's card without tensors."""

    room: str
    outcome: str
    seconds: float
    reason: str = ""
    card: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """Of the adapter, or the room as it was given."""
        return self.room if self.card is None else str(self.card["name"])

    @property
    def evaluation(self) -> dict[str, Any]:
        """What the card says of errors; without rows where nothing was tested."""
        return (self.card and self.card.get("evaluation")) or {"rows": []}

    @property
    def line(self) -> str:
        """For people."""
        if self.card is None:
            return one_line(f"{FAILED} {self.room}: {self.reason.removeprefix(f'{self.room}: ')}")
        said = self.evaluation.get("verdict", {}).get("line", "no test positions, so no verdict")
        return f"{self.name}: {self.outcome}, {self.card['room']['shots']} measurements, {self.seconds:.0f} s; {said}"


def is_meant(args: argparse.Namespace) -> bool:
    """Whether the arguments of ``haa-peft adapt`` name several rooms, or ask for what only many have."""
    several = isinstance(args.room, list) or (isinstance(args.room, str) and _is_pattern(args.room))
    return several or args.workers is not None or args.executor != "local"


def run(args: argparse.Namespace) -> None:
    """Adapt to all rooms that the arguments name; print a line for each and a table; status 1 if one failed.

    Raises
    ------
    InputError
        For arguments that fit no room, and where nothing can be written.
    """
    rooms = rooms_named(args.room)
    _check(args)
    shared = _everywhere(args)
    done: list[Done] = []
    with quiet("haa_peft"):
        for number, found in work_on(adapt_one, shared, rooms, executor=args.executor, workers=args.workers):
            one = Done(rooms[number], FAILED, 0, str(found)) if isinstance(found, InputError) else found
            one = _once(one, done)
            done.append(one)
            print(f"{len(done)}/{len(rooms)} {one.line}", flush=True)
    order = {room: number for number, room in enumerate(rooms)}
    done.sort(key=lambda one: order[one.room])
    print(f"\n{table(done)}\n\n{_totals(done)}")
    if args.json is not None:
        print(write_report(args.json, KIND, {"rooms": [{**one._asdict(), "name": one.name} for one in done]}))
    failed = sum(one.card is None for one in done)
    if failed:
        print(f"error: {failed} of {len(done)} rooms failed; the same command goes on with them", file=sys.stderr)
        sys.exit(1)


def rooms_named(given: str | list[str] | None) -> list[str]:
    """Rooms as they are named, and for each pattern the room folders that it fits, sorted; each once.

    Raises
    ------
    InputError
        When none is named, or a pattern fits no room folder.
    """
    rooms: dict[str, None] = {}
    for name in [given] if isinstance(given, str) else given or []:
        found = [name]
        if _is_pattern(name):
            paths = glob.iglob(name, recursive=True)  # noqa: PTH207, since the pattern may be absolute
            found = sorted(path for path in paths if _is_room(Path(path)))
            if not found:
                raise InputError(f"{name} fits no room folder, which holds a room.json; see --help")
        rooms.update(dict.fromkeys(found))
    if not rooms:
        raise InputError("--workers and --executor go with rooms; name some, or a pattern such as 'building/*/*'")
    return list(rooms)


def _is_pattern(name: str) -> bool:
    return glob.has_magic(name) and not Path(name).exists()


def _is_room(folder: Path) -> bool:
    return (folder / "room.json").is_file() or (folder.name in haa_facts() and (folder / "RIRs.npy").is_file())


def _check(args: argparse.Namespace) -> None:
    """Raise ``InputError`` now for what would make every room fail."""
    for flag, value in (("--name", args.name), ("--borrow", args.borrow), ("--first-stage", args.first_stage)):
        if value:
            raise InputError(f"{flag} goes with one room; leave it out, or adapt to the rooms one by one")
    if args.tensorboard:
        raise InputError("--tensorboard goes with one room; logs of many are in their run folders")
    check_workers(args.executor, args.workers)
    check_report(args.json, KIND)
    settings_of(args)
    _backbone(args.backbone, args.gradient_checkpointing)
    store = store_folder(args.store)
    check_writable(store / "room" / "configuration" / CARD)
    store.mkdir(parents=True, exist_ok=True)


def _everywhere(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments with paths that mean the same to every process of a cluster, and without what is not sent."""
    found = argparse.Namespace(**vars(args))
    found.command = found.json = None
    found.store = store_folder(args.store).resolve()
    found.run_dir = (args.run_dir or Path("runs")).resolve()
    found.here = str(Path.cwd())
    for key in ("backbone", "geometry"):
        value = getattr(args, key)
        if isinstance(value, str) and Path(value).exists():
            setattr(found, key, str(Path(value).resolve()))
    return found


def _once(one: Done, done: list[Done]) -> Done:
    """The same, but failed if another room has taken its adapter's name."""
    other = next((other.room for other in done if one.card is not None and other.name == one.name), None)
    if other is None:
        return one
    reason = f"is called {one.name} as {other} is, whose adapter it has replaced; give one another configuration"
    return Done(one.room, FAILED, one.seconds, reason)


def adapt_one(shared: argparse.Namespace, room: str, device: str | None) -> Done:
    """Adapt to one of the rooms, unless that is done; an ``InputError`` or another fault of it is told as its outcome.

    Parameters
    ----------
    shared : arguments that all rooms have in common.
    room : the room's name or folder.
    device : on which accelerate runs it anyway.
    """
    began = time.monotonic()
    try:
        if not shared.store.is_dir():
            raise InputError(f"store {shared.store} is not on {platform.node()}; rooms and store must lie where all "
                             "machines of a cluster see them")  # fmt: skip
        outcome, card = _adapt(shared, room)
        return Done(room, outcome, time.monotonic() - began, card=card)
    except EnvironmentProblem:
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        return Done(room, FAILED, time.monotonic() - began, reason)


def _adapt(shared: argparse.Namespace, folder: str) -> tuple[str, dict[str, Any]]:
    args = argparse.Namespace(**vars(shared))
    there = Path(shared.here, folder)
    args.room, base = str(there) if there.exists() else folder, shared.run_dir
    method, training = settings_of(args)
    room, _ = rooms_of(args)
    backbone = _backbone(args.backbone, args.gradient_checkpointing)
    args.run_dir = None
    options = options_of(args, room)
    name, store = options["name"], shared.store
    card = _stored_card(store, name)
    if card is not None and _same(card, _asked(args, room, backbone), args, room):
        return THERE, card
    options["run_folder"] = run_folder = base / name.room / name.folder_name
    checkpoints = [run_folder / "checkpoint.pt", run_folder / "fold-0.json"]
    options["resume"] = args.resume and any(path.exists() for path in checkpoints)
    accelerator = accelerator_of(args, run_folder)
    adapted = adapt_room(room, method, training, backbone=backbone, accelerator=accelerator, **options)
    adapted.write(store)
    return STORED, adapted.pack.card


@lru_cache(maxsize=1)
def _backbone(backbone: str, gradient_checkpointing: bool) -> XRIR:
    """Of all rooms of a process."""
    return backbone_of(argparse.Namespace(backbone=backbone, gradient_checkpointing=gradient_checkpointing))


def _stored_card(store: Path, name: AdapterName) -> dict[str, Any] | None:
    """The card of a stored pack that is whole."""
    if not name.folder(store).exists():
        return None
    try:
        return parse_card(name, read_files(store, name)[CARD])
    except InputError:
        return None


def _asked(args: argparse.Namespace, room: Room, backbone: XRIR) -> dict[str, Any]:
    """What an adapter follows from, as a card says it."""
    method, training = settings_of(args)
    asked = with_k(training, room, args.k).of_method(method.method, backbone.config.weighting).describe()
    below = args.on_top_of and {
        "name": args.on_top_of,
        "digest": read_pack(args.store, AdapterName.parse(args.on_top_of)).adapter_digest(),
    }
    found = {
        "backbone": fingerprint(backbone), "room": room.fingerprint, "started_from": args.start, "parent": below,
        "method": method.describe(), "training": asked,
    }  # fmt: skip
    return json.loads(json.dumps(found))


def _same(card: Mapping[str, Any], asked: dict[str, Any], args: argparse.Namespace, room: Room) -> bool:
    """Whether a card is of what is asked; not where recordings should be kept that it has not, or the other way."""
    training = {**card["training"], "validation": card["training"].get("validation_by", "auto")}
    said = {
        "backbone": card["backbone"]["fingerprint"],
        "room": card["room"].get("fingerprint"),
        "started_from": training.get("started_from"),
        "parent": card.get("parent"),
        "method": {key: card["method"].get(key) for key in asked["method"]},
        "training": {key: training.get(key) for key in asked["training"]},
    }
    varied = "augment" in training and "augment" not in asked["training"]
    if said != asked or varied or card["room"].get("borrowed"):
        return False
    kept = "recordings" in card
    if kept or not args.recordings:
        return kept == args.recordings
    return any(Recordings.of_room(single) is None for single in room.at_receivers)


def table(done: list[Done]) -> str:
    """Of every room the adapter's errors, and how it does against the baselines, as a Markdown table."""
    head = ["room", "measurements", *(title for title, *_ in SHOWN), *BASELINES, "outcome"]
    del head[head.index("backbone, nothing borrowed")]
    return markdown([head, *map(_row, done)])


def _row(one: Done) -> list[str]:
    against = one.evaluation.get("verdict", {}).get("against", {})
    errors: dict[str, Any] = next((row for row in one.evaluation["rows"] if row["predictor"] == one.name), {})
    measured = "-" if one.card is None else str(one.card["room"]["shots"])
    shown = [figure(errors.get(key), factor, digits) for _, key, factor, digits in SHOWN]
    words = [result(against.get(baseline)) for baseline in ("backbone", "nearest", "energy")]
    return [one.name, measured, *shown, *words, one.outcome]


def result(found: Mapping[str, Any] | None) -> str:
    """How an adapter does against a baseline, in a word.

    Parameters
    ----------
    found : of each metric, the fields of :class:`~haa_peft.evaluation.verdict.Paired`; None where nothing was tested.
    """
    results = {one["result"] for one in (found or {}).values() if one["positions"]}
    if not results:
        return "-"
    if {"better", "worse"} <= results:
        return "mixed"
    return next((word for word in ("better", "worse", "undecided") if word in results), "same")


def _totals(done: list[Done]) -> str:
    words = [result(one.evaluation.get("verdict", {}).get("against", {}).get("backbone")) for one in done]
    outcomes = ", ".join(
        f"{sum(one.outcome == word for one in done)} {word.lower()}" for word in (STORED, THERE, FAILED)
    )
    return (
        f"{len(done)} rooms: {outcomes}; against the backbone {words.count('better')} better, "
        f"{words.count('worse')} worse, {words.count('mixed')} mixed, "
        f"{words.count('undecided') + words.count('same')} that cannot be told or are the same"
    )
