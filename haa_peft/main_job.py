"""The main job: choose a start, borrow, train, compare, pack. Recipes, command and studies call :func:`adapt_room`."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import NoneType

from accelerate import Accelerator

from haa_peft.adapted_room import AdaptedRoom, compare_adapted
from haa_peft.adapters.methods import MethodSettings, merged
from haa_peft.checks import check_kind
from haa_peft.errors import InputError
from haa_peft.evaluation.compare import check_unseen
from haa_peft.files import hold
from haa_peft.geometry.channels import parse_channels
from haa_peft.inference.packs import load_pack
from haa_peft.model.checkpoint import check_single_precision
from haa_peft.model.tensors import Levels
from haa_peft.model.xrir import XRIR
from haa_peft.rooms.room import Room
from haa_peft.satellites import has, satellite
from haa_peft.store.folder import read_pack
from haa_peft.store.names import AdapterName, store_folder
from haa_peft.training.adapt import adapt
from haa_peft.training.folds import measurements_validate
from haa_peft.training.launch import start_accelerator
from haa_peft.training.loop import Adaptation, Start
from haa_peft.training.objective import check_k
from haa_peft.training.settings import TrainingSettings

LOG = logging.getLogger(__name__)


def adapt_room(
    room: Room,
    method: MethodSettings,
    training: TrainingSettings,
    *,
    backbone: XRIR,
    accelerator: Accelerator | None = None,
    run_folder: Path | None = None,
    start: str | Start | None = None,
    on_top_of: str | Start | None = None,
    borrow: str | Room | None = None,
    first_stage: Sequence[Room] = (),
    test_split: str | None = "test",
    resume: bool = False,
    name: str | AdapterName | None = None,
    store: Path | str | None = None,
    k: int | None = None, allow_faults: bool = False, recordings: bool = True,
) -> AdaptedRoom:  # fmt: skip
    """Adapt a backbone to a room, compare it with what needs no training, and pack it.

    Parameters
    ----------
    room, method, training, backbone : what is adapted to what, and how; the backbone is moved to the device.
    accelerator : of accelerate; a new one, seeded with ``training.seed``, unless given.
    run_folder, resume : of log and checkpoint, none unless given; and whether to go on from the checkpoint there.
    start, on_top_of : adapter that training goes on from, or that stays below the new one: its name, or itself.
    borrow : another configuration, or its stored adapter's name, whose measurements are added, converted, if better.
    first_stage : rooms that are adapted to together before the room itself.
    test_split : positions that it is compared at; None for no comparison.
    name : of the adapter; ``room/configuration``, with ``@method`` unless that is LoRA, if not given.
    store : folder of stored adapters; ``$HAA_PEFT_STORE`` or ``./adapters`` unless given.
    k : references for each target, no more than the room has; ``training.k``, or all others if fewer, unless given.
    allow_faults : train although something is wrong with the measurements (:mod:`haa_peft.findings`).
    recordings : keep the measurements in the pack at their own rate and length too, for predictions at full length.

    Raises
    ------
    InputError
        When another run writes there, measurements are too few or wrong, or a stored adapter is missing or unfit.
    """
    _check_arguments(room, first_stage, method, training, backbone, start, on_top_of, borrow)
    name = _name(name, room, method, on_top_of)
    room, *first_stage = (checked(one, allow_faults) for one in (room, *first_stage))
    room = room.with_channels(parse_channels(method.channels))
    begin, below = (_stored(one, store, room, backbone, test_split or "test") for one in (start, on_top_of))
    _check_beginnings(room, training, begin, below, first_stage)
    room, method = _with_channels(room, _possible(method), begin, below)
    if borrow is not None:
        room = satellite("borrowing", "--borrow").borrow_from(room, borrow, store, backbone, k or training.k, training)
    training = with_k(training, room, k)
    accelerator = accelerator or start_accelerator(training.seed)
    backbone = backbone.to(accelerator.device)
    base = backbone if below is None else merged(backbone, below.config, below.tensors)
    _tell(room, method, training, backbone, accelerator)
    with _held(run_folder, accelerator) as folder:
        first, adaptation = _train(base, room, first_stage, method, training, accelerator, folder, begin, resume)
    is_main = accelerator.is_main_process
    levels = _levels(backbone, room, method, training.k) if is_main else None
    report = compare_adapted(room, base, adaptation, str(name), test_split if is_main else None, levels, below)
    return AdaptedRoom(name, room, backbone, adaptation, report, levels, below, first, recordings)


def _check_arguments(
    room: Room, first_stage: Sequence[Room], method: MethodSettings, training: TrainingSettings, backbone: XRIR,
    start: object, on_top_of: object, borrow: object,
) -> None:  # fmt: skip
    check_kind("first_stage", first_stage, (list, tuple), "a list of rooms")
    for one in (room, *first_stage):
        check_kind("room", one, Room, "a room; load_room reads one")
    check_kind("method", method, MethodSettings, "a MethodSettings")
    check_kind("training", training, TrainingSettings, "a TrainingSettings")
    check_kind("backbone", backbone, XRIR, "a network; load_backbone gives one")
    for what, value in (("start", start), ("on_top_of", on_top_of)):
        check_kind(what, value, (str, Start, NoneType), "an adapter's name, or a Start")
    check_kind("borrow", borrow, (str, Room, NoneType), "a room, or an adapter's name")
    check_single_precision()
    check_one_beginning(start, first_stage)


def checked(room: Room, allow_faults: bool) -> Room:
    """The room with what is wrong with its measurements at each receiver, where that can be told.

    Raises ``InputError`` for an error among it unless faults are allowed.
    """
    if room.others:
        first, *others = (checked(single, allow_faults) for single in room.at_receivers)
        return dataclasses.replace(first, others=tuple(others))
    if has("findings"):
        return satellite("findings", "adapting").checked(room, allow_faults=allow_faults)
    LOG.info("note: measurements of %s are not checked: this installation is without haa_peft/findings", room.name)
    return room


def _possible(method: MethodSettings) -> MethodSettings:
    """The method without levels, where they cannot be fitted."""
    if method.levels == "none" or has("levels"):
        return method
    LOG.info("note: levels are not fitted: this installation is without haa_peft/levels")
    return dataclasses.replace(method, levels="none")


@contextmanager
def _held(run_folder: Path | None, accelerator: Accelerator) -> Iterator[Path]:
    """The folder of log and checkpoint, inside the block for this run alone."""
    with ExitStack() as scope:
        folder = run_folder or Path(scope.enter_context(tempfile.TemporaryDirectory()))
        if accelerator.is_main_process:
            hold(folder, scope)
        yield folder


def _name(
    given: str | AdapterName | None, room: Room, method: MethodSettings, on_top_of: str | Start | None
) -> AdapterName:
    """The adapter's name, which must not be that of the one below it."""
    if given is None:
        given = AdapterName(room.room, room.configuration, None if method.method == "lora" else method.method)
    name = given if isinstance(given, AdapterName) else AdapterName.parse(given)
    if on_top_of == str(name):
        raise InputError(f"--on-top-of {name} is what would be replaced; give the new adapter another --name")
    return name


def check_one_beginning(start: object, first_stage: Sequence[object]) -> None:
    """Raise ``InputError`` if there is both an adapter to go on from and a first stage."""
    if start is not None and first_stage:
        raise InputError("--start and --first-stage are two beginnings; give one of them")


def _stored(
    given: str | Start | None, store: Path | str | None, room: Room, backbone: XRIR, split: str
) -> Start | None:
    """An adapter that training begins with; a stored one must not have been trained where the room is tested."""
    if not isinstance(given, str):
        return given
    folder, name = store_folder(store), AdapterName.parse(given)
    pack = load_pack(folder, name, backbone)
    trained_on = pack.card["room"]["name"]
    if trained_on == room.name:
        check_unseen(pack, room, split)
    digest = read_pack(folder, name).adapter_digest()
    return Start(given, pack.config, pack.tensors, pack.channels, trained_on, digest)


def _check_beginnings(
    room: Room, training: TrainingSettings, begin: Start | None, below: Start | None, first_stage: Sequence[Room]
) -> None:
    """A measurement that is left out must not have been seen before."""
    if not measurements_validate([room], training.validation):
        return
    seen = [("--start", begin.trained_on if begin else ""), ("--on-top-of", below.trained_on if below else "")]
    for flag, trained_on in (*seen, *(("--first-stage", other.name) for other in first_stage)):
        if trained_on == room.name:
            raise InputError(
                f"{flag} has seen all measurements of {room.name}, so leaving them out tells nothing; "
                "give validation positions, or begin elsewhere"
            )


def _with_channels(
    room: Room, method: MethodSettings, begin: Start | None, below: Start | None
) -> tuple[Room, MethodSettings]:
    """The room shows what any of its adapters reads; what training goes on from reads what it did."""
    if begin is not None:
        room = room.with_channels(begin.channels)
        if method.channels == "none":
            method = dataclasses.replace(method, channels=",".join(room.channels) or "none")
    return room if below is None else room.with_channels(below.channels), method


def with_k(training: TrainingSettings, room: Room, k: int | None) -> TrainingSettings:
    """The settings with as many references as a room has for each of its targets, or ``k`` of them."""
    shots = min(len(single.splits["train"]) for single in room.at_receivers)
    k = min(training.k, max(1, shots - 1)) if k is None else k
    check_k(k, shots, room.name)
    return dataclasses.replace(training, k=k)


def _tell(
    room: Room, method: MethodSettings, training: TrainingSettings, backbone: XRIR, accelerator: Accelerator
) -> None:
    """What is about to be trained on what."""
    own, valid, test = sum(len(single.own) for single in room.at_receivers), room.count("valid"), room.count("test")
    receivers = f" of {len(room.at_receivers)} receivers" if room.others else ""
    precision = "" if accelerator.mixed_precision == "no" else f", {accelerator.mixed_precision}"
    LOG.info(
        f"{room.name}: {own} measurements{receivers} train, {valid} validate, {test} test; "
        f"{method.method} on {backbone.origin}, {accelerator.num_processes} process(es){precision}"
    )
    weighting = backbone.config.weighting
    if training.lr is None and weighting == "published":
        rate = training.of_method(method.method, weighting).lr
        LOG.info(f"{backbone.origin} is of the published architecture: learning rate {rate:g} (--lr gives another)")
    if measurements_validate([room], training.validation):
        runs = max(len(single.own) for single in room.at_receivers)
        LOG.info(f"{own} measurements choose the weights, each left out once: {runs} runs before the last one")
    for single in room.at_receivers:
        for one in single.findings:
            LOG.info(one.line)


def _levels(backbone: XRIR, room: Room, method: MethodSettings, k: int) -> Levels | None:
    """Levels that predictions are given, by a method that has them."""
    return satellite("levels", "fitting levels").fit_levels(backbone, room, k) if method.levels == "fitted" else None


def _train(
    base: XRIR,
    room: Room,
    first_stage: Sequence[Room],
    method: MethodSettings,
    training: TrainingSettings,
    accelerator: Accelerator,
    folder: Path,
    begin: Start | None,
    resume: bool,
) -> tuple[Adaptation | None, Adaptation]:
    """Adapt to the rooms of a first stage together, if there are any, and then to the room."""
    if not first_stage:
        return None, adapt(base, room, method, training, accelerator, folder, start=begin, resume=resume)
    stage = folder / "first-stage"
    begun, resumed = (
        resume and ((place / "checkpoint.pt").exists() or (place / "fold-0.json").exists()) for place in (stage, folder)
    )
    others = [other.with_channels(room.channels) for other in first_stage]
    first = adapt(base, others, method, training, accelerator, stage, resume=begun)
    names = ", ".join(other.name for other in others)
    if first.unchanged and first.acceptance is not None:
        LOG.info(f"note: the first stage ({names}) is undone and training begins anew: {first.acceptance.reason()}")
    begin = Start(f"first stage: {names}", first.config, first.tensors)
    return first, adapt(base, room, method, training, accelerator, folder, start=begin, resume=resumed)
