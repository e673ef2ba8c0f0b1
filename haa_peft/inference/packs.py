"""Stored packs, on the backbone that they were made for."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.linalg import LinAlgError

from haa_peft.adapters.combine import stack
from haa_peft.adapters.weights import RoomWeights
from haa_peft.errors import InputError
from haa_peft.geometry.channels import EXTRA_CHANNELS
from haa_peft.geometry.panorama import render_panorama
from haa_peft.inference.asked import receiver_number
from haa_peft.inference.network import RoomNetwork
from haa_peft.model.checkpoint import fingerprint
from haa_peft.model.tensors import EncodedRoom, RoomTensors
from haa_peft.model.xrir import XRIR
from haa_peft.rooms.room import Room
from haa_peft.satellites import satellite
from haa_peft.store.folder import read_pack
from haa_peft.store.names import AdapterName
from haa_peft.store.pack import RoomPack
from haa_peft.store.pack_files import PREPARED_FIELDS
from haa_peft.store.parts import PREPARED, damaged

LARGEST_PREPARED = 1e5
"""In magnitude; trained networks give below 100."""
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


def paired_receivers(pack: RoomPack, room: Room) -> list[tuple[RoomPack, Room]]:
    """The pack and the room at each of the room's receivers; a pack of one receiver is taken at all of them.

    Raises ``InputError`` where a pack of several has none at one of the room's.
    """
    if not pack.others:
        return [(pack, single) for single in room.at_receivers]
    return [(pack.at_receivers[receiver_number(pack, single.receiver)], single) for single in room.at_receivers]


def weights_of(pack: RoomPack, backbone: XRIR) -> RoomWeights:
    """A pack's adapter as serving needs it; raises ``InputError`` unless it fits the backbone."""
    try:
        return RoomWeights.of_adapter(backbone, pack.config, pack.tensors)
    except InputError as error:
        raise InputError(f"{pack.name}: {error}") from None


def levels_of(pack: RoomPack, room: Room | None = None) -> Any:
    """The :class:`~haa_peft.model.tensors.Levels` that a pack keeps, with its own references; None without.

    They are given another room's training measurements instead if there is a ``room``. Raises ``InputError`` where
    they are damaged.
    """
    if pack.levels is None:
        return None
    pairs = paired_receivers(pack, room or pack.as_room())
    return satellite("levels", f"{pack.name}, which has fitted levels,").stored_levels(pairs)


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
            needed = f"{shape} and finite, within {LARGEST_PREPARED:g}"
            raise damaged(pack.name, f"{PREPARED} has {field} of {tuple(tensor.shape)} but it must be {needed}")


@contextmanager
def damage_of(name: AdapterName) -> Iterator[None]:
    """What a damaged pack makes of those that use it, inside the block, is one ``InputError`` that names it."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, LinAlgError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise damaged(name, f"cannot be used ({reason:.120})") from error
