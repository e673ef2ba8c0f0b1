"""A room pack: an adapter with all that inference by name needs, and no data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from haa_peft.acoustics.sampling import RIR_LENGTH, SAMPLE_RATE
from haa_peft.environment import loading
from haa_peft.errors import InputError
from haa_peft.fields import new_names
from haa_peft.files import nan_to_null
from haa_peft.geometry.channels import parse_channels
from haa_peft.geometry.panorama import DepthMap, Geometry, without_channels
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.rooms.room import Room
from haa_peft.store.card import SCHEMA, readme
from haa_peft.store.names import AdapterName

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"
REFERENCES, ROOM, CARD, README = "references.safetensors", "room.json", "card.json", "README.md"
PREPARED, LEVELS = "prepared.safetensors", "levels.safetensors"
HASHED = (ADAPTER, CONFIG, REFERENCES, ROOM)
OPTIONAL = (PREPARED, LEVELS)
SEEN = ("depth", "normals", "materials")
"""Arrays of a depth map, as far as it has them."""
PREPARED_FIELDS = ("panorama", "receiver", "views", "keys")
PREPARATION = 1
"""Counts up when what a prepared room holds, or how it is computed, changes; older ones are then prepared again."""

MOST_SURFACES = 128
"""Of a room; more take seconds to render."""
_SMALL = dict.fromkeys((CARD, CONFIG, ROOM, LEVELS), 2**20)
LARGEST_BYTES = {**_SMALL, PREPARED: 2**26, REFERENCES: 2**27, ADAPTER: 2**28}
"""Of each file; what is larger is not read."""
LARGEST = {"rirs": 1e3, "positions": 1e4, "receiver": 1e4, "depth": 1e4}
"""Of what is stored, in magnitude; RIRs are divided by the loudest, the others are metres."""
QUIETEST = 1e-3
"""Loudest of the references."""
SCALES = (1e-9, 1e9)

CARD_FIELDS: tuple[tuple[str, str, type], ...] = (
    ("backbone", "origin", str),
    ("backbone", "fingerprint", str),
    ("method", "method", str),
    ("training", "k", int),
    ("training", "trainable_parameters", int),
    ("training", "adapter_bytes", int),
    ("room", "name", str),
)
"""What other modules read from a card."""

WITHOUT_DIGEST = 1
"""Schema of older cards, which are read as before."""
PARENT_FIELDS = ("name", "digest")

T = TypeVar("T")


class NewerCardError(InputError):
    """A pack is of a later version of this package."""


@dataclass(frozen=True)
class RoomPack:
    """Adapter, references, geometry and card of one configuration.

    Attributes
    ----------
    name : the adapter's name.
    config, tensors : the adapter, as ``adapter_config.json`` and ``adapter_model.safetensors`` hold it.
    rirs : (R, 9600) float32 references at 22 050 Hz, divided by ``scale``.
    positions : (R, 3) metres in room coordinates.
    receiver : (3,) metres in room coordinates.
    geometry : the room's planes, or the depth map around its receiver.
    scale : the largest magnitude of the references as measured.
    card : what ``card.json`` says.
    prepared : the references and the panorama as the adapted backbone encodes them (the fields of
        :class:`~haa_peft.model.tensors.EncodedRoom` that are not stored anyway), so that loading encodes nothing;
        packs without it are prepared when they are loaded.
    prepared_from : the :meth:`digest` of what it was prepared from; with any other it is not stored.
    channels : what the panorama shows of surfaces beside their coordinates.
    levels : what :class:`~haa_peft.levels.room.RoomLevels` keeps of the room's levels; None where there are none.
    """

    name: AdapterName
    config: dict
    tensors: dict[str, Tensor]
    rirs: np.ndarray
    positions: np.ndarray
    receiver: np.ndarray
    geometry: Geometry
    scale: float
    card: dict
    prepared: dict[str, Tensor] | None = None
    prepared_from: str = ""
    channels: tuple[str, ...] = ()
    levels: dict[str, Tensor] | None = None

    @classmethod
    def of_room(
        cls,
        name: AdapterName,
        room: Room,
        config: dict,
        tensors: dict[str, Tensor],
        card: dict,
        levels: dict[str, Tensor] | None = None,
    ) -> RoomPack:
        """Pack an adapter with its room's training measurements as references.

        Parameters
        ----------
        name : of the adapter.
        room : with its measurements and geometry.
        config, tensors : the adapter.
        card : what ``card.json`` says besides schema and name.
        levels : as the attribute.
        """
        train = room.splits["train"]
        return cls(
            name,
            config,
            tensors,
            room.rirs[train],
            room.positions[train],
            room.receiver,
            without_channels(room.geometry, room.channels),
            room.scale,
            {"schema": SCHEMA, "name": str(name), **card},
            channels=room.channels,
            levels=levels,
        )

    def as_room(self) -> Room:
        """What was measured of its room, all as training measurements; what it borrowed itself is left out."""
        about = self.card["room"]
        count = len(self.positions) - about.get("borrowed", 0)
        room, _, configuration = str(about["name"]).partition("/")
        splits = {"train": np.arange(count), "valid": np.array([], int), "test": np.array([], int)}
        arrays = (self.rirs[:count], self.positions[:count], self.receiver, self.geometry, splits, self.scale)
        origin = str(about.get("source")), str(about.get("licence"))
        return Room(room, configuration, *arrays, *origin, channels=self.channels)

    @property
    def parent(self) -> tuple[str, str] | None:
        """Name and :meth:`adapter_digest` of the adapter that this one lies on top of, if any."""
        below = self.card.get("parent")
        return None if below is None else (str(below["name"]), str(below["digest"]))

    def adapter_digest(self) -> str:
        """SHA-256 of the adapter and the backbone that it is for, and of what lies below it."""
        about = [self.card["backbone"]["fingerprint"], json.dumps(self.config, sort_keys=True), *(self.parent or ())]
        return _digest(about, {name: tensor.float().numpy() for name, tensor in self.tensors.items()})

    def digest(self) -> str:
        """SHA-256 of all that a prepared room follows from: backbone, adapter, references and geometry."""
        about = [str(PREPARATION), self.adapter_digest(), json.dumps(self.geometry.to_json()), *self.channels]
        return _digest(about, {"receiver": self.receiver, **self._references()})

    def _references(self) -> dict[str, np.ndarray]:
        """The arrays that are kept as tensors; those of a depth map are among them."""
        seen = {name: getattr(self.geometry, name) for name in SEEN if isinstance(self.geometry, DepthMap)}
        seen = {name: array for name, array in seen.items() if array is not None}
        return {"rirs": self.rirs.astype(np.float32), "positions": self.positions.astype(np.float64), **seen}

    def to_files(self) -> dict[str, bytes]:
        """Content of every file of the pack; the card holds the others' SHA-256.

        Raises
        ------
        InputError
            When a tensor of the adapter is not finite, or what is stored could not be read again.
        """
        import torch

        self._check_references()
        for tensor_name, tensor in self.tensors.items():
            if not torch.isfinite(tensor).all():
                raise InputError(f"{self.name}: adapter tensor {tensor_name} is not finite; nothing is stored")
        room = {
            "room": self.name.room,
            "configuration": self.name.configuration,
            "sample_rate": SAMPLE_RATE,
            "receiver_xyz": self.receiver.tolist(),
            "scale": self.scale,
            "geometry" if isinstance(self.geometry, DepthMap) else "surfaces": self.geometry.to_json(),
            **({"channels": ",".join(self.channels)} if self.channels else {}),
        }
        references = {key: torch.from_numpy(values) for key, values in self._references().items()}
        header = {"format": "pt", "adapter_config": json.dumps(self.config, sort_keys=True)}
        files = {
            ADAPTER: _tensor_bytes(self.tensors, header),
            CONFIG: _json_bytes(self.config),
            REFERENCES: _tensor_bytes(references),
            ROOM: _json_bytes(room),
        }
        if self.levels is not None:
            files[LEVELS] = _tensor_bytes(self.levels)
        if self.prepared is not None and self.prepared_from == self.digest():
            about = {"prepared_from": self.prepared_from, "preparation": str(PREPARATION)}
            files[PREPARED] = _tensor_bytes(self.prepared, about)
        for file_name, content in files.items():
            check_size(self.name, file_name, len(content))
        card = nan_to_null({**self.card, "files": {name: sha256(content) for name, content in files.items()}})
        card["digest"] = card_digest(card)
        return {**files, CARD: _json_bytes(card), README: readme(card).encode()}

    @classmethod
    def from_files(cls, name: AdapterName, files: Mapping[str, bytes], *, tensors: bool = True) -> RoomPack:
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
        room = _parsed(name, ROOM, lambda: _plain_json(files[ROOM]))
        config = _parsed(name, CONFIG, lambda: dict(_plain_json(files[CONFIG])))
        _parsed(name, ROOM, lambda: _check_about(name, room))
        with loading():  # here, so that no file is blamed for it
            import safetensors.numpy

            if tensors:
                import safetensors.torch
        read = safetensors.torch.load if tensors else _names
        adapter = _parsed(name, ADAPTER, lambda: read(files[ADAPTER]))
        references = _parsed(name, REFERENCES, lambda: safetensors.numpy.load(files[REFERENCES]))
        rirs = _parsed(name, REFERENCES, lambda: _of_type(references, "rirs", np.float32))
        positions = _parsed(name, REFERENCES, lambda: _of_type(references, "positions", np.float64))
        levels = _parsed(name, LEVELS, lambda: read(files[LEVELS])) if LEVELS in files else None
        prepared, prepared_from = None, ""
        if PREPARED in files:
            about = _parsed(name, PREPARED, lambda: _header(files[PREPARED]))
            if about.get("preparation") == str(PREPARATION):
                prepared = _parsed(name, PREPARED, lambda: read(files[PREPARED]))
                prepared_from = str(about.get("prepared_from"))
                if set(prepared) != set(PREPARED_FIELDS):
                    raise InputError(f"{name}: {PREPARED} holds {sorted(prepared)}; restore or retrain the adapter")
        pack = _parsed(
            name,
            ROOM,
            lambda: cls(
                name,
                config,
                adapter if tensors else {},
                rirs,
                positions,
                np.array(room["receiver_xyz"], dtype=np.float64),
                _geometry(room, references, f"{name}: {ROOM}"),
                float(room["scale"]),
                card,
                prepared if tensors else None,
                prepared_from,
                parse_channels(room.get("channels", "none")),
                levels if tensors else None,
            ),
        )
        pack._check_references()
        if tensors and prepared is not None and prepared_from != pack.digest():
            raise InputError(f"{name}: {PREPARED} is of another adapter or room; restore or retrain the adapter")
        return pack

    def _check_references(self) -> None:
        count = len(self.rirs)
        if self.rirs.shape != (count, RIR_LENGTH) or self.positions.shape != (count, 3) or self.receiver.shape != (3,):
            raise InputError(
                f"{self.name}: references are {self.rirs.shape} at {self.positions.shape} "
                f"but must be (R, {RIR_LENGTH}) at (R, 3)"
            )
        numbers: dict[str, np.ndarray] = {"rirs": self.rirs, "positions": self.positions, "receiver": self.receiver}
        if count == 0 or not all(np.isfinite(values).all() for values in (*numbers.values(), np.array(self.scale))):
            raise InputError(f"{self.name}: references or scale are missing or not finite; restore or retrain it")
        if isinstance(self.geometry, DepthMap):
            numbers["depth"] = self.geometry.depth
        for what, values in numbers.items():
            if not np.abs(values).max() <= LARGEST[what]:
                raise InputError(
                    f"{self.name}: {what} are up to {np.abs(values).max():.3g} but must be within {LARGEST[what]:g}; "
                    "restore or retrain it"
                )
        if not np.abs(self.rirs).max() >= QUIETEST or not SCALES[0] <= self.scale <= SCALES[1]:
            raise InputError(
                f"{self.name}: the loudest reference is {np.abs(self.rirs).max():.3g} and the scale {self.scale:.3g}, "
                f"but at least {QUIETEST:g} and from {SCALES[0]:g} to {SCALES[1]:g} make sense; restore or retrain it"
            )
        if isinstance(self.geometry, Surfaces) and len(self.geometry) > MOST_SURFACES:
            raise InputError(_too_many(f"{self.name}: {ROOM}", len(self.geometry)))
        borrowed = self.card["room"].get("borrowed", 0)
        if type(borrowed) is not int or not 0 <= borrowed < count:
            raise InputError(f"{self.name}: {CARD} has no valid room.borrowed; restore or retrain the adapter")
        if "materials" in self.channels and self.geometry.materials is None:
            raise InputError(f"{self.name}: {ROOM} has no materials, which it reads; restore or retrain the adapter")
        low, high = self.geometry.bounds()
        if (self.receiver < low).any() or (self.receiver > high).any():
            raise InputError(f"{self.name}: {ROOM} has its receiver outside the room; restore or retrain the adapter")


def parse_card(name: AdapterName, content: bytes) -> dict:
    """Read ``card.json``; ``InputError`` where it is no JSON, of another schema or name, changed, or incomplete."""
    card = _parsed(name, CARD, lambda: _plain_json(content))
    schema = card.get("schema") if isinstance(card, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise NewerCardError(f"{name}: made by a newer haa-peft (schema {schema}, this one reads {SCHEMA}); update it")
    if schema not in (WITHOUT_DIGEST, SCHEMA) or isinstance(schema, bool):
        raise InputError(f"{name}: {CARD} has schema {schema!r} but must have {SCHEMA}; restore or retrain the adapter")
    fields = [card.get(section) for section in ("files", "backbone", "method", "training", "room")]
    if card.get("name") != str(name) or not all(isinstance(field, dict) for field in fields):
        raise InputError(f"{name}: {CARD} is of {card.get('name')!r} or incomplete; restore or retrain the adapter")
    if schema != WITHOUT_DIGEST and card.get("digest") != card_digest(card):
        raise InputError(f"{name}: {CARD} is not what its digest says; the entry is damaged: restore or retrain it")
    card["training"] = new_names(card["training"])
    below = card.get("parent")
    if below is not None and not (
        isinstance(below, dict) and all(isinstance(below.get(k), str) for k in PARENT_FIELDS)
    ):
        raise InputError(f"{name}: {CARD} has no valid parent; restore or retrain the adapter")
    for section, field, kind in CARD_FIELDS:
        value: Any = card[section].get(field)
        if type(value) is not kind or (isinstance(value, int) and not 0 <= value < 2**53):
            raise InputError(f"{name}: {CARD} has no valid {section}.{field}; restore or retrain the adapter")
    return card


def _check_about(name: AdapterName, room: dict) -> None:
    for value in (room["scale"], *room["receiver_xyz"]):
        if type(value) not in (int, float):
            raise TypeError(f"{value!r:.60} is no number")
    expected = {"room": name.room, "configuration": name.configuration, "sample_rate": SAMPLE_RATE}
    for key, value in expected.items():
        if type(room[key]) is not type(value) or room[key] != value:
            raise InputError(
                f"{name}: {ROOM} has {key} {room[key]!r:.60} but must have {value!r}; restore or retrain the adapter"
            )


def _geometry(room: dict, references: Mapping[str, np.ndarray], where: str) -> Geometry:
    """What a pack's room.json and references say of the room's shape."""
    if "geometry" in room:
        depth = _of_type(references, "depth", np.float32)
        return DepthMap.from_json(room["geometry"], depth, where, *map(references.get, SEEN[1:]))
    if len(room["surfaces"]) > MOST_SURFACES:
        raise InputError(_too_many(where, len(room["surfaces"])))
    return Surfaces.from_json(room["surfaces"], where)


def _too_many(where: str, count: int) -> str:
    return f"{where}: has {count} surfaces but at most {MOST_SURFACES} are read; leave out small ones, or give a mesh"


def _of_type(references: Mapping[str, np.ndarray], what: str, kind: type) -> np.ndarray:
    values = references[what]
    if values.dtype != kind:
        raise TypeError(f"{what} are {values.dtype} but must be {np.dtype(kind)}")
    return values


def _digest(texts: list[str], arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256("|".join(texts).encode())
    for name, values in sorted(arrays.items()):
        digest.update(f"|{name}|{values.shape}|".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def card_digest(card: Mapping[str, Any]) -> str:
    """SHA-256 of all that a card says but for its ``digest``.

    It holds the other files' SHA-256, and so it is one digest of everything that predictions depend on.
    """
    said = {key: value for key, value in card.items() if key != "digest"}
    return sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode())


def check_size(name: AdapterName, file_name: str, size: int) -> None:
    """Raise ``InputError`` if a file of so many bytes would not be read."""
    if size > LARGEST_BYTES[file_name]:
        raise InputError(
            f"{name}: {file_name} has {size} bytes but at most {LARGEST_BYTES[file_name]} are read; "
            "restore the adapter, or train it with fewer measurements or weights"
        )


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(content).hexdigest()


def _names(content: bytes) -> dict[str, Any]:
    """Names of the tensors of a file that is whole."""
    import safetensors

    return dict.fromkeys(name for name, _ in safetensors.deserialize(content))


def _header(content: bytes) -> dict:
    """Metadata of a safetensors file."""
    size = int.from_bytes(content[:8], "little")
    return dict(json.loads(content[8 : 8 + size]).get("__metadata__") or {})


def _tensor_bytes(tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file, of the same bytes for the same tensors: its header is sorted."""
    from safetensors.torch import save

    content = save({key: tensor.contiguous() for key, tensor in tensors.items()}, metadata=dict(about or {}) or None)
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    tensor_header = {key: header[key] for key in sorted(tensors, key=lambda key: (header[key]["data_offsets"], key))}
    header = {**({"__metadata__": dict(sorted(about.items()))} if about else {}), **tensor_header}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[start:]


def _plain_json(content: bytes) -> Any:
    """JSON whose texts can be printed; ``ValueError`` for half characters."""
    found = json.loads(content)
    json.dumps(found, ensure_ascii=False).encode()
    return found


def _json_bytes(value: object) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def _parsed(name: AdapterName, file_name: str, parse: Callable[[], T]) -> T:
    try:
        return parse()
    except InputError as error:
        if str(error).startswith(str(name)):
            raise
        raise InputError(f"{name}: {file_name}: {error}") from None
    except Exception as error:  # whatever a damaged file makes of its reader
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{name}: {file_name} cannot be read ({reason:.120}); restore or retrain the adapter"
        ) from None
