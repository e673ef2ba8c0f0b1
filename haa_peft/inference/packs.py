"""Stored packs: the backbone that they were made for, and what may be asked of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.linalg import LinAlgError

from haa_peft.adapters.combine import stack
from haa_peft.adapters.methods import Adapter, attach_stored
from haa_peft.adapters.weights import RoomWeights
from haa_peft.checks import check_kind, check_whole, real_numbers
from haa_peft.errors import InputError
from haa_peft.geometry.channels import EXTRA_CHANNELS
from haa_peft.geometry.panorama import render_panorama
from haa_peft.inference.network import RoomNetwork
from haa_peft.levels.room import RoomLevels
from haa_peft.model.checkpoint import check_single_precision, fingerprint
from haa_peft.model.tensors import EncodedRoom, RoomTensors
from haa_peft.model.xrir import XRIR
from haa_peft.rooms.room import NEAREST, Room
from haa_peft.store.folder import read_pack
from haa_peft.store.names import AdapterName, on_hub
from haa_peft.store.pack import RoomPack
from haa_peft.store.pack_files import PREPARED_FIELDS
from haa_peft.store.parts import LEVELS, PREPARED, VIEWS, damaged

LARGEST_PREPARED = 1e5
"""In magnitude; trained networks give below 100."""
FARTHEST_M = 1000.0
"""From the receiver, of positions where the room's shape is unknown."""
SHOWN = 8
"""Receivers that an error lists."""
DEEPEST = 4
"""Adapters that may lie on top of each other."""


def check_backbone(pack: RoomPack, base_fingerprint: str, origin: str) -> None:
    """Raise ``InputError`` unless a pack was made for the backbone with this fingerprint."""
    made_for = pack.card["backbone"]
    if made_for.get("fingerprint") != base_fingerprint:
        raise InputError(
            f"{pack.name} was made for the backbone {made_for.get('origin')!r} "
            f"(fingerprint {str(made_for.get('fingerprint'))[:16]}), not for {origin!r} "
            f"({base_fingerprint[:16]}); load that backbone, or train the adapter again on this one"
        )


def check_allowed(pack: RoomPack, allowed: Collection[str] | None) -> None:
    """Raise ``InputError`` unless a pack's digest is among those that are allowed; None allows any."""
    digest = pack.card.get("digest", "(none, its card is older)")
    if allowed is not None and digest not in allowed:
        raise InputError(f"{pack.name}: its digest {digest} is not among those allowed; check who wrote it")


def load_pack(store: Path, name: AdapterName, backbone: XRIR, depth: int = 0) -> RoomPack:
    """Read a pack that was made for this backbone, with what it lies on top of merged in.

    Parameters
    ----------
    store, name : where, and which.
    backbone : with no adapter attached.
    depth : how many adapters lie on top of this one.

    Raises
    ------
    InputError
        When it was made for another backbone, or the adapter below it is missing or has been trained anew.
    """
    pack = read_pack(store, name)
    check_backbone(pack, fingerprint(backbone), backbone.origin)
    return pack if pack.parent is None else resolve(pack, load_parent(store, pack, backbone, depth), backbone)


def load_parent(store: Path, pack: RoomPack, backbone: XRIR, depth: int = 0) -> RoomPack:
    """The pack that another one lies on top of, as it was then.

    Parameters
    ----------
    store, backbone, depth : as for :func:`load_pack`.
    pack : the one on top.

    Raises
    ------
    InputError
        When it is missing, has been trained anew, or more than ``DEEPEST`` lie on each other.
    """
    name, digest = pack.parent or ("", "")
    if depth >= DEEPEST:
        raise InputError(f"{pack.name}: lies on more than {DEEPEST} adapters; train one from the backbone")
    try:
        parent = load_pack(store, AdapterName.parse(name), backbone, depth + 1)
    except InputError as error:
        raise InputError(f"{pack.name} lies on top of {name}: {error}") from None
    if read_pack(store, parent.name).adapter_digest() != digest:
        raise InputError(
            f"{pack.name} lies on top of {name}, which has been trained anew since; restore it, "
            f"or train {pack.name} again"
        )
    return parent


def resolve(pack: RoomPack, parent: RoomPack, backbone: XRIR) -> RoomPack:
    """A pack that lies on top of another one as an adapter of the backbone."""
    config, tensors = stack(backbone, (parent.config, parent.tensors), (pack.config, pack.tensors))
    return pack.with_adapter(config, tensors)


def views_at(pack: RoomPack, room: Room) -> list[tuple[RoomPack, Room]]:
    """The pack and the room at each of the room's receivers; a pack of one receiver is taken at all of them.

    Raises ``InputError`` where a pack of several has none at one of the room's.
    """
    if not pack.others:
        return [(pack, view) for view in room.views]
    return [(pack.views[receiver_number(pack, view.receiver)], view) for view in room.views]


def receiver_number(pack: RoomPack, receiver: object) -> int:
    """Which of a pack's receivers is meant: by its number, or its place (3,) m; None is the only one.

    Raises
    ------
    InputError
        When there are several and none is given, or nothing was measured at the one that is.
    """
    every = np.stack([view.receiver for view in pack.views])
    count = len(every)
    shown = ", ".join(f"{i} at {place}" for i, place in enumerate(every.round(3).tolist()[:SHOWN]))
    there = f"{shown}{', ...' if count > SHOWN else ''}"
    if receiver is None:
        if count > 1:
            raise InputError(f"{pack.name} has {count} receivers; say which one is meant: {there}")
        return 0
    if isinstance(receiver, Integral) and not isinstance(receiver, bool):
        if not 0 <= int(receiver) < count:
            raise InputError(
                f"receiver is {receiver} but {pack.name} has {there}; give 0{f' to {count - 1}' * (count > 1)}"
            )
        return int(receiver)
    place = real_numbers("receiver", receiver)
    if place.shape != (3,) or not np.isfinite(place).all():
        raise InputError(f"receiver is {receiver!r:.60} but must be a number from 0 to {count - 1}, or [x, y, z] in m")
    away = np.linalg.norm(every - place, axis=1)
    if away.min() >= NEAREST:
        raise InputError(
            f"receiver {place.tolist()} was not measured in {pack.name}, which has {there}; RIRs between it and one of "
            "these are asked for with it as the position (reciprocity, for devices without directivity)"
        )
    return int(away.argmin())


def attach_pack(backbone: XRIR, pack: RoomPack) -> Adapter:
    """Put a pack's adapter, as :func:`load_pack` gives it, on its backbone; raises ``InputError`` for any other."""
    check_backbone(pack, fingerprint(backbone), backbone.origin)
    try:
        return attach_stored(backbone, pack.config, pack.tensors)
    except InputError as error:
        raise InputError(f"{pack.name}: {error}") from None


def weights_of(pack: RoomPack, backbone: XRIR) -> RoomWeights:
    """A pack's adapter as serving needs it; raises ``InputError`` unless it fits the backbone."""
    try:
        return RoomWeights.of_adapter(backbone, pack.config, pack.tensors)
    except InputError as error:
        raise InputError(f"{pack.name}: {error}") from None


def levels_of(pack: RoomPack, room: Room | None = None) -> RoomLevels | None:
    """The levels that a pack keeps, with its own references or another room's training measurements; None without.

    Raises ``InputError`` where they are damaged.
    """
    if pack.levels is None:
        return None
    first, *others = (_levels_at(own, view) for own, view in views_at(pack, room or pack.as_room()))
    return dataclasses.replace(first, others=tuple(others))


def _levels_at(pack: RoomPack, room: Room) -> RoomLevels:
    """The levels that a pack keeps of one receiver, with a room's training measurements there."""
    if pack.levels is None:
        raise damaged(pack.name, f"{VIEWS} has no levels of the receiver {pack.receiver.round(3).tolist()}")
    train = room.splits["train"]
    places = room.positions[train] - room.receiver
    return RoomLevels.of_tensors(pack.levels, room.rirs[train], places, room.receiver, room.geometry,
                                 f"{pack.name}: {LEVELS}")  # fmt: skip


def tensors_of(pack: RoomPack, device: torch.device) -> RoomTensors:
    """A pack's room as the network takes it; renders the panorama."""
    panorama = render_panorama(pack.geometry, pack.receiver, pack.channels)
    return RoomTensors.of_arrays(panorama, pack.rirs, pack.positions - pack.receiver, device)


def prepare_pack(backbone: XRIR, pack: RoomPack, parent: RoomPack | None = None) -> RoomPack:
    """The pack with its references and its panorama encoded by the backbone that it was made for.

    ``parent`` is what it lies on top of, as :func:`load_pack` gives it.
    """
    check_backbone(pack, fingerprint(backbone), backbone.origin)
    whole = pack if parent is None else resolve(pack, parent, backbone)
    served = RoomNetwork(backbone)
    encoded = served.encode(weights_of(whole, served.base), tensors_of(pack, served.base.device))._asdict()
    kept = {name: encoded[name].cpu() for name in PREPARED_FIELDS}
    return dataclasses.replace(pack, prepared=kept, prepared_from=pack.digest())


def verify_pack(backbone: XRIR, pack: RoomPack, store: Path) -> None:
    """Raise ``InputError`` unless a pack's adapter fits, and what it keeps prepared is what the backbone gives."""
    check_backbone(pack, fingerprint(backbone), backbone.origin)
    levels_of(pack)
    parent = None if pack.parent is None else load_parent(store, pack, backbone)
    expected = prepare_pack(backbone, pack, parent).prepared or {}
    for name, tensor in (pack.prepared or {}).items():
        fits = tensor.shape == expected[name].shape
        # a GPU's convolutions may have computed it with TF32
        if not fits or not float((tensor - expected[name]).norm()) <= 1e-2 * float(expected[name].norm()):
            raise InputError(
                f"{pack.name}: {name} in {PREPARED} is not what backbone and adapter give; "
                "restore or retrain the adapter"
            )


def check_prepared(pack: RoomPack, prepared: EncodedRoom, backbone: XRIR) -> None:
    """Raise ``InputError`` unless what a pack keeps of its prepared room fits the backbone and is finite."""
    config, count = backbone.config, len(pack.rirs)
    rows, columns = config.token_grid
    shown = 3 + (EXTRA_CHANNELS if pack.channels else 0)
    expected = {
        "panorama": (shown, rows * config.patch_height, columns * config.patch_width),
        "receiver": (config.channels,),
        "views": (count, config.channels),
        "keys": (count, 0 if config.align_before_encoding else config.channels),
    }
    for field, shape in expected.items():
        tensor = getattr(prepared, field)
        fits = tuple(tensor.shape) == shape and tensor.dtype == torch.float32
        if not fits or not (tensor.abs() <= LARGEST_PREPARED).all():
            raise InputError(
                f"{pack.name}: {PREPARED} has {field} of {tuple(tensor.shape)} but it must be {shape} and finite, "
                f"within {LARGEST_PREPARED:g}; "
                "restore or retrain the adapter"
            )


@contextmanager
def damage_of(name: AdapterName) -> Iterator[None]:
    """What a damaged pack makes of those that use it, inside the block, is one ``InputError`` that names it."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, LinAlgError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{name}: cannot be used ({reason:.120}); restore or retrain the adapter") from error


def check_finite_rirs(name: AdapterName, positions: np.ndarray, rirs: np.ndarray) -> np.ndarray:
    """RIRs (N, 9600) as they are; ``InputError`` with the position, of (N, 3) m, where one holds NaN or infinity."""
    finite = np.isfinite(rirs).all(axis=1)
    if not finite.all():
        raise InputError(
            f"{name}: the prediction at {positions[~finite][0].round(3).tolist()} is not finite; "
            "restore or retrain the adapter"
        )
    return rirs


def check_positions(pack: RoomPack, positions_xyz: ArrayLike) -> np.ndarray:
    """Positions (N, 3) m in room coordinates; raises ``InputError`` for those that the room does not have."""
    positions = np.atleast_2d(real_numbers("positions", positions_xyz))
    if positions.shape == (1, 0):  # an empty list
        positions = np.empty((0, 3))
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise InputError(f"positions are {positions.shape} but must be (N, 3) metres in room coordinates")
    if not np.isfinite(positions).all():
        raise InputError("positions hold NaN or infinity but must be finite metres in room coordinates")
    low, high = pack.geometry.bounds()
    outside = ((positions < low - NEAREST) | (positions > high + NEAREST)).any(axis=1)
    if outside.any():
        raise InputError(
            f"position {positions[outside][0].tolist()} lies outside {pack.name}, which spans "
            f"{low.round(3).tolist()} to {high.round(3).tolist()} m"
        )
    if not np.isfinite([low, high]).all():
        with np.errstate(over="ignore"):
            far = np.linalg.norm(positions - pack.receiver, axis=1) > FARTHEST_M
        if far.any():
            raise InputError(
                f"position {positions[far][0].tolist()} is too far from the receiver of {pack.name}, whose shape is "
                f"unknown; give metres within {FARTHEST_M:g} m of {pack.receiver.round(3).tolist()}"
            )
    near = np.linalg.norm(positions - pack.receiver, axis=1) < NEAREST
    if near.any():
        raise InputError(f"position {positions[near][0].tolist()} lies at the receiver of {pack.name}; keep 1 cm away")
    return positions


def check_asked(seed: int, requests: Sequence[tuple] = ()) -> None:
    """Raise ``InputError`` for a seed that generators do not take, or for requests that are none.

    These are a name and positions (N, 3) m, and perhaps a receiver. Torch's default type must be float32.
    """
    check_whole("seed", seed, 0, 2**32 - 1)
    check_single_precision()
    check_kind("requests", requests, (tuple, list), "a list of pairs of a name and positions")
    for request in requests:
        check_kind("a request", request, (tuple, list), "a pair of a name and positions")
        if len(request) not in (2, 3):
            raise InputError(f"a request is {request!r:.60} but must be a pair of a name and positions")
        if not on_hub(request[0]):
            AdapterName.parse(request[0])


def check_references(pack: RoomPack, k: int | None) -> int:
    """K as given or as in training; raises ``InputError`` if it is more than the pack's references."""
    k = pack.card["training"]["k"] if k is None else check_whole("k", k, -(2**62))
    if not 1 <= k <= len(pack.rirs):
        raise InputError(f"k is {k} but {pack.name} holds {len(pack.rirs)} references; give 1 to {len(pack.rirs)}")
    return k
