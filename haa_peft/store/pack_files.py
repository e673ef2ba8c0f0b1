"""A pack as files, and files as a pack."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from haa_peft.acoustics.sampling import SAMPLE_RATE
from haa_peft.environment import loading
from haa_peft.errors import InputError
from haa_peft.files import nan_to_null
from haa_peft.geometry.channels import parse_channels
from haa_peft.geometry.panorama import DepthMap, Geometry
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.rooms.recordings import Recordings
from haa_peft.satellites import has, satellite
from haa_peft.store.card import card_digest, parse_card
from haa_peft.store.names import AdapterName
from haa_peft.store.pack import PREPARATION, SEEN, RoomPack, check_surfaces
from haa_peft.store.parts import (
    ADAPTER,
    CARD,
    CONFIG,
    LEVELS,
    PREPARED,
    README,
    RECORDINGS,
    REFERENCES,
    ROOM,
    VIEWS,
    check_size,
    damaged,
    json_bytes,
    metadata,
    read_json,
    reading,
    sha256,
    tensor_bytes,
    tensor_names,
)

if TYPE_CHECKING:
    from torch import Tensor

PREPARED_FIELDS = ("panorama", "receiver", "views", "keys")


def to_files(pack: RoomPack) -> dict[str, bytes]:
    """Content of every file of a pack; the card holds the others' SHA-256.

    Raises
    ------
    InputError
        When a tensor of the adapter is not finite, or what is stored could not be read again.
    """
    import torch

    pack.check()
    for tensor_name, tensor in pack.tensors.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{pack.name}: adapter tensor {tensor_name} is not finite; nothing is stored")
    room = {
        "room": pack.name.room,
        "configuration": pack.name.configuration,
        "sample_rate": SAMPLE_RATE,
        "receiver_xyz": pack.receiver.tolist(),
        "scale": pack.scale,
        "geometry" if isinstance(pack.geometry, DepthMap) else "surfaces": pack.geometry.to_json(),
        **({"channels": ",".join(pack.channels)} if pack.channels else {}),
    }
    about = {"format": "pt", "adapter_config": json.dumps(pack.config, sort_keys=True)}
    files = {
        ADAPTER: tensor_bytes(pack.tensors, about),
        CONFIG: json_bytes(pack.config),
        REFERENCES: tensor_bytes({key: torch.from_numpy(values) for key, values in pack.references().items()}),
        ROOM: json_bytes(room),
    }
    if pack.levels is not None:
        files[LEVELS] = tensor_bytes(pack.levels)
    if pack.recordings is not None:
        about = {"sample_rate": str(pack.recordings.sample_rate)}
        files[RECORDINGS] = tensor_bytes({"rirs": torch.from_numpy(pack.recordings.rirs)}, about)
    if pack.others:
        files[VIEWS] = _other_receivers(pack.others)
    if pack.prepared is not None and pack.prepared_from == pack.digest():
        about = {"prepared_from": pack.prepared_from, "preparation": str(PREPARATION)}
        files[PREPARED] = tensor_bytes(pack.prepared, about)
    for file_name, content in files.items():
        check_size(pack.name, file_name, len(content))
    card = nan_to_null({**pack.card, "files": {name: sha256(content) for name, content in files.items()}})
    card["digest"] = card_digest(card)
    files[CARD] = json_bytes(card)
    if has("describing"):
        files[README] = satellite("describing", README).readme(card).encode()
    return files


def from_files(name: AdapterName, files: Mapping[str, bytes], *, tensors: bool = True) -> RoomPack:
    """Read a pack, checking everything that can be checked without a backbone.

    Without ``tensors``, those of the adapter and the prepared room are checked for being readable and left out,
    which needs no torch.

    Raises
    ------
    InputError
        When the card is of another schema or adapter, or a file cannot be read or holds wrong shapes or values
        that make no sense. Their hashes are :func:`haa_peft.store.folder.read_files`' business.
    """
    card = parse_card(name, files[CARD])
    with reading(name, ROOM):
        room = read_json(files[ROOM])
        _check_about(name, room)
    with reading(name, CONFIG):
        config = dict(read_json(files[CONFIG]))
    with loading():  # here, so that no file is blamed for it
        import safetensors.numpy

        if tensors:
            import safetensors.torch
    read = safetensors.torch.load if tensors else tensor_names
    levels: dict | None = None
    prepared: dict | None = None
    prepared_from = ""
    with reading(name, ADAPTER):
        adapter = read(files[ADAPTER])
    with reading(name, REFERENCES):
        references = safetensors.numpy.load(files[REFERENCES])
        rirs, positions = _of_type(references, "rirs", np.float32), _of_type(references, "positions", np.float64)
    if LEVELS in files:
        with reading(name, LEVELS):
            levels = read(files[LEVELS])
    if PREPARED in files:
        with reading(name, PREPARED):
            about = metadata(files[PREPARED])
            if about.get("preparation") == str(PREPARATION):
                prepared, prepared_from = read(files[PREPARED]), str(about.get("prepared_from"))
                if set(prepared) != set(PREPARED_FIELDS):
                    raise damaged(name, f"{PREPARED} holds {sorted(prepared)}")
    if not tensors:
        adapter, levels, prepared = {}, None, None
    with reading(name, ROOM):
        receiver, scale = np.array(room["receiver_xyz"], dtype=np.float64), float(room["scale"])
        geometry = _geometry(room, references, f"{name}: {ROOM}")
        channels = parse_channels(room.get("channels", "none"))
        arrays = rirs, positions, receiver, geometry, scale
        pack = RoomPack(name, config, adapter, *arrays, card, prepared, prepared_from, channels, levels,
                        _recordings(name, files.get(RECORDINGS)))  # fmt: skip
    if VIEWS in files:
        with reading(name, VIEWS):
            pack = dataclasses.replace(pack, others=_read_others(pack, files[VIEWS], tensors=tensors))
    pack.check()
    if prepared is not None and prepared_from != pack.digest():
        raise damaged(name, f"{PREPARED} is of another adapter or room")
    return pack


def _other_receivers(others: Sequence[RoomPack]) -> bytes:
    """What was measured at the second receiver and behind: tensors by number and name, depth maps' facts beside."""
    import torch

    tensors: dict[str, Tensor] = {}
    about: dict[str, str] = {}
    for i, single in enumerate(others, 1):
        arrays = {**single.references(), "receiver": single.receiver.astype(np.float64)}
        tensors |= {f"{i}.{key}": torch.from_numpy(values) for key, values in arrays.items()}
        tensors |= {f"{i}.levels.{key}": tensor for key, tensor in (single.levels or {}).items()}
        if single.recordings is not None:
            tensors[f"{i}.recordings"] = torch.from_numpy(single.recordings.rirs)
        if isinstance(single.geometry, DepthMap):
            about[f"{i}.geometry"] = json.dumps(single.geometry.to_json())
    return tensor_bytes(tensors, about)


def _read_others(pack: RoomPack, content: bytes, *, tensors: bool) -> tuple[RoomPack, ...]:
    """The inverse of :func:`_other_receivers`, with the adapter of the pack at the first receiver."""
    import safetensors.numpy

    arrays, about = safetensors.numpy.load(content), metadata(content)
    stored: dict[int, dict[str, np.ndarray]] = {}
    for key, values in arrays.items():
        number, _, what = key.partition(".")
        stored.setdefault(int(number), {})[what] = values
    found = []
    for i in range(1, len(stored) + 1):
        own, geometry = stored[i], pack.geometry
        if isinstance(geometry, DepthMap):
            geometry = _geometry({"geometry": json.loads(about[f"{i}.geometry"])}, own, f"{pack.name}: {VIEWS}")
        levels = {key.removeprefix("levels."): values for key, values in own.items() if key.startswith("levels.")}
        rirs, positions = _of_type(own, "rirs", np.float32), _of_type(own, "positions", np.float64)
        kept = pack.recordings
        if kept is not None:  # at the same rate, as all of a folder
            kept = dataclasses.replace(kept, rirs=_of_type(own, "recordings", np.float16))
        found.append(
            dataclasses.replace(
                pack, rirs=rirs, positions=positions, receiver=_of_type(own, "receiver", np.float64), geometry=geometry,
                prepared=None, prepared_from="", levels=_as_tensors(levels) if tensors and levels else None,
                recordings=kept,
            )
        )  # fmt: skip
    return tuple(found)


def _as_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    import torch

    return {key: torch.from_numpy(values) for key, values in arrays.items()}


def _check_about(name: AdapterName, room: dict) -> None:
    for value in (room["scale"], *room["receiver_xyz"]):
        if type(value) not in (int, float):
            raise TypeError(f"{value!r:.60} is no number")
    expected = {"room": name.room, "configuration": name.configuration, "sample_rate": SAMPLE_RATE}
    for key, value in expected.items():
        if type(room[key]) is not type(value) or room[key] != value:
            raise damaged(name, f"{ROOM} has {key} {room[key]!r:.60} but must have {value!r}")


def _geometry(room: dict, references: Mapping[str, np.ndarray], where: str) -> Geometry:
    """What a pack's room.json and references say of the room's shape."""
    if "geometry" in room:
        depth = _of_type(references, "depth", np.float32)
        return DepthMap.from_json(room["geometry"], depth, where, *map(references.get, SEEN[1:]))
    check_surfaces(room["surfaces"], where)
    return Surfaces.from_json(room["surfaces"], where)


def _recordings(name: AdapterName, content: bytes | None) -> Recordings | None:
    import safetensors.numpy

    if content is None:
        return None
    with reading(name, RECORDINGS):
        rate = int(metadata(content)["sample_rate"])
        return Recordings(_of_type(safetensors.numpy.load(content), "rirs", np.float16), rate)


def _of_type(references: Mapping[str, np.ndarray], what: str, kind: type) -> np.ndarray:
    values = references[what]
    if values.dtype != kind:
        raise TypeError(f"{what} are {values.dtype} but must be {np.dtype(kind)}")
    return values
